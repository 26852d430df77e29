"""What libvirt says of domains that others made, and the few changes that make one ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from agent.system.libvirt_conn import (
    QUERY_TIMEOUT_S,
    DomainView,
    _call,
    _domain,
    _libvirt,
    _open,
    _view,
)

RUN = Path("/run/libvirt/qemu")
"""Where libvirt notes the processes of guests."""


@dataclass(frozen=True)
class Whole:
    """All that libvirt says of one domain, whoever made it: its XML as it is and as it would start
    next, its guest's addresses by MAC, and the files of all other domains with their names.

    ``pid`` is the process of its guest; ``busy`` that libvirt is at work on it.
    """

    view: DomainView
    live_xml: str
    pid: Optional[int]
    autostart: bool
    snapshots: int
    checkpoints: int
    busy: bool
    addresses: dict[str, tuple[str, ...]]
    others: tuple[DomainView, ...]


def whole(word: str) -> Optional[Whole]:
    """The domain with this name or id, and what is around it; None when there is none."""
    return _call(lambda: _whole(word), QUERY_TIMEOUT_S)


def names() -> list[str]:
    """The names of all domains."""
    return _call(lambda: sorted(each.name() for each in _open().listAllDomains()), QUERY_TIMEOUT_S)


def set_live_metadata(domain_id: str, element: str, key: str, uri: str) -> None:
    """Replace our element in the metadata of a domain as it runs; well if it does not."""

    def work() -> None:
        module, domain = _libvirt(), _domain(domain_id)
        kind, flags = module.VIR_DOMAIN_METADATA_ELEMENT, module.VIR_DOMAIN_AFFECT_LIVE
        if domain.isActive():
            domain.setMetadata(kind, element, key, uri, flags)

    _call(work)


def autostarts(domain_id: str) -> bool:
    """Whether libvirt starts a domain by itself when the host starts."""
    return bool(_call(lambda: _domain(domain_id).autostart(), QUERY_TIMEOUT_S))


def no_autostart(domain_id: str) -> None:
    """Have libvirt not start a domain by itself when the host starts."""
    _call(lambda: _domain(domain_id).setAutostart(0))


def _whole(word: str) -> Optional[Whole]:
    domain = _called(word)
    view = None if domain is None else _view(domain, domain.state())
    if domain is None or view is None:
        return None
    module, active = _libvirt(), bool(domain.isActive())
    others = (_view(each, each.state()) for each in _open().listAllDomains())
    return Whole(
        view=view,
        live_xml=domain.XMLDesc(0),
        pid=pid(view.name) if active else None,
        autostart=bool(domain.autostart()),
        snapshots=domain.snapshotNum(),
        checkpoints=len(domain.listAllCheckpoints()),
        busy=active and domain.jobInfo()[0] != module.VIR_DOMAIN_JOB_NONE,
        addresses=_guest_addresses(domain) if active else {},
        others=tuple(each for each in others if each is not None and each.id != view.id),
    )


def _called(word: str) -> Any:
    module = _libvirt()
    for look in (_open().lookupByName, _open().lookupByUUIDString):
        try:
            return look(word)
        except module.libvirtError as error:
            wrong = error.get_error_code() in (module.VIR_ERR_INVALID_ARG, module.VIR_ERR_NO_DOMAIN)
            if not wrong:
                raise
    return None


def pid(name: str) -> Optional[int]:
    """The process of a guest, as libvirt notes it."""
    try:
        return int((RUN / f"{name}.pid").read_text())
    except (OSError, ValueError):
        return None


def _guest_addresses(domain: Any) -> dict[str, tuple[str, ...]]:
    """What the guest's agent, libvirt's DHCP leases and the host's neighbour table say."""
    module = _libvirt()
    found: dict[str, tuple[str, ...]] = {}
    for source in (
        module.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
        module.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
        module.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
    ):
        try:
            interfaces = domain.interfaceAddresses(source)
        except module.libvirtError:
            continue  # no agent in the guest, no network of libvirt's
        for interface in interfaces.values():
            mac, told = (interface["hwaddr"] or "").lower(), interface["addrs"] or ()
            # The first of them that knows an address is the one to believe.
            found[mac] = found.get(mac) or tuple(each["addr"] for each in told)
    return found
