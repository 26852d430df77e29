"""What a port may be told beside its addresses: allowed pairs and limits of bandwidth. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agent.spec import AddressPair, BandwidthLimit
from stackctl.errors import UsageError
from stackctl.network.choice import checked_mac
from stackctl.network.rule_checks import checked_prefix

MAX_PAIRS = 10
MAX_KBPS = 2**31 - 1


def checked_pairs(wanted: Sequence[AddressPair]) -> tuple[AddressPair, ...]:
    """The pairs as they are stored: a prefix in its canonical form, a single address plain."""
    if len(wanted) > MAX_PAIRS:
        raise UsageError(f"The number of allowed address pair exceeds the maximum {MAX_PAIRS}.")
    pairs = tuple(_checked_pair(pair) for pair in wanted)
    for pair in pairs:
        if pairs.count(pair) > 1:
            raise UsageError(
                f"Request contains duplicate address pair: mac_address {pair.mac or 'of the port'} "
                f"ip_address {pair.cidr}."
            )
    return pairs


def _checked_pair(pair: AddressPair) -> AddressPair:
    cidr = checked_prefix(pair.cidr)
    single = cidr.prefixlen == cidr.max_prefixlen
    mac = None if pair.mac is None else checked_mac(pair.mac)
    return AddressPair(str(cidr.network_address if single else cidr), mac)


def checked_limit(limit: BandwidthLimit) -> BandwidthLimit:
    """The limit itself; UsageError when a number makes no sense or a burst has no rate."""
    for way, rate, burst in (
        ("egress", limit.egress_kbps, limit.egress_burst_kb),
        ("ingress", limit.ingress_kbps, limit.ingress_burst_kb),
    ):
        for name, value in ((f"{way} rate", rate), (f"{way} burst", burst)):
            if value is not None and not 1 <= value <= MAX_KBPS:
                raise UsageError(f"The {name} is {value} kbit: use 1 to {MAX_KBPS}.")
        if burst is not None and rate is None:
            raise UsageError(f"The {way} burst needs a rate: give --{way}-kbps, too.")
    return limit
