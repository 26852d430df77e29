"""br-int, tables 24 to 26: a guest's frames carry its own addresses, or go no further. Pure.

Two tables ask who sends: 24 for ARP, 25 for everything else. Only what they let through reaches
table 26, which asks what is said. No flow that accepts stands before the check of the source.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.resources.flow_plan import (
    ADVERTISEMENT,
    ARP_SPOOF,
    DHCP6_REPLY,
    DHCP6_REQUEST,
    DHCP_REPLY,
    DHCP_REQUEST,
    IP_VERSIONS,
    MAC_SPOOF,
    MLD2_REPORT,
    MLD_DONE,
    MLD_REPORT,
    OWN_SOURCE,
    REDIRECT,
    ROUTER_ADVERTISEMENT,
    ROUTER_SOLICITATION,
    RULES_EGRESS,
    SOLICITATION,
    TRANSIENT,
    ZONE,
    Tap,
)
from agent.resources.flow_text import Flow

METADATA_V4, METADATA_V6 = "169.254.169.254", "fe80::a9fe:a9fe"
"""Where clouds with a metadata service have it. Nobody answers here, and nobody shall pretend."""

FORBIDDEN = (
    f"udp,{DHCP_REPLY}",
    f"udp6,{DHCP6_REPLY}",
    f"icmp6,icmp_type={ROUTER_ADVERTISEMENT}",
    f"icmp6,icmp_type={REDIRECT}",
    f"ip,nw_dst={METADATA_V4}",
    f"ipv6,ipv6_dst={METADATA_V6}",
)
"""What no guest sends, whoever it is."""

_TALK = (ROUTER_SOLICITATION, SOLICITATION, MLD_REPORT, MLD_DONE, MLD2_REPORT)
_ON, _PASS = f"goto_table:{OWN_SOURCE}", f"goto_table:{TRANSIENT}"


def checks() -> Iterator[Flow]:
    """The flows that are the same for all ports."""
    yield Flow(ARP_SPOOF, 0, "", "drop")
    for match in FORBIDDEN:
        yield Flow(MAC_SPOOF, 20, match, "drop")
    yield Flow(MAC_SPOOF, 0, "", "drop")
    yield Flow(OWN_SOURCE, 25, f"icmp6,icmp_type={ADVERTISEMENT}", "drop")
    for kind in _TALK:
        yield Flow(OWN_SOURCE, 20, f"icmp6,icmp_type={kind}", _PASS)
    # Without an address one may look for one; nothing else.
    yield Flow(OWN_SOURCE, 15, "ipv6,ipv6_src=::", "drop")
    yield Flow(OWN_SOURCE, 10, f"udp,{DHCP_REQUEST}", _PASS)
    yield Flow(OWN_SOURCE, 10, f"udp6,{DHCP6_REQUEST}", _PASS)
    for ip in IP_VERSIONS:
        yield Flow(OWN_SOURCE, 5, ip, f"ct(table={RULES_EGRESS},{ZONE})")
    yield Flow(OWN_SOURCE, 0, "", "drop")


def senders(tap: Tap) -> Iterator[Flow]:
    """The flows of one port: which frames are its own."""
    here = f"in_port={tap.ofport}"
    for mac in tap.macs:
        own = f"{here},dl_src={mac}"
        # An address probe (RFC 5227) names no sender yet.
        probe = f"arp,{own},arp_spa=0.0.0.0,arp_op=1,arp_sha={mac}"
        yield Flow(ARP_SPOOF, 2, probe, _PASS)
        # QEMU announces a guest that has just moved with reverse ARP.
        yield Flow(MAC_SPOOF, 5, f"rarp,{own},arp_sha={mac}", _PASS)
        yield Flow(MAC_SPOOF, 5, f"ipv6,{own},ipv6_src=::", _ON)
    client = f"udp,{here},dl_src={tap.port.mac},nw_src=0.0.0.0,{DHCP_REQUEST}"
    yield Flow(MAC_SPOOF, 5, client, _PASS)
    for mac, source in tap.sources:
        own = f"{here},dl_src={mac}"
        source_is = source.match("nw_src", "ipv6_src")
        yield Flow(MAC_SPOOF, 5, f"{source.ip},{own}{source_is}", _ON)
        if source.version == 4:
            sender = source.match("arp_spa", "")
            yield Flow(ARP_SPOOF, 2, f"arp,{own}{sender},arp_sha={mac}", _PASS)
        else:
            target = source.match("", "nd_target")
            said = f"icmp6,{own},icmp_type={ADVERTISEMENT}{target},nd_tll={mac}"
            yield Flow(OWN_SOURCE, 30, said, _PASS)


def fragments() -> Iterator[Flow]:
    """A reply of DHCP in pieces shows its ports only once it is put together."""
    for udp, source, target in (("udp", 67, 68), ("udp6", 547, 546)):
        whole = f"ct_state=-inv+trk,ct_nw_proto=17,ct_tp_src={source},ct_tp_dst={target}"
        yield Flow(RULES_EGRESS, 110, f"{whole},{udp},nw_frag=first", "drop")
