"""Remove everything of this cloud from the host, when the host leaves the cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from agent import converge, layout
from agent.faults import StepFailed
from agent.resources import bridge, topology
from agent.resources.base import Host
from agent.resources.domain_xml import describe
from agent.resources.registry import KINDS
from agent.spec import SPEC_FORMAT, HostSettings, HostSpec, Tombstone
from agent.store import Store, boot_id
from agent.system import files, libvirt_conn, ovs

LOCK_TIMEOUT_S = 30.0
KEPT = ("agent", "host.lock")
"""The agent that is running, and the lock that it holds."""

Args = dict[str, Any]


def purge(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Be a host without anything: {host_id} must name this host.

    Domains, disks and networks of this cloud go first, as if all had been deleted; the data
    folder and the claim go only when nothing failed.
    """
    with store.lock(LOCK_TIMEOUT_S):
        claim = store.claimed_by()
        if claim is None or claim[1] != args["host_id"]:
            raise StepFailed("purge must name the host that this is")
        spec = _empty_spec(store, *claim)
        sent: list[dict[str, Any]] = []
        reporter = converge.Reporter(sent.append)
        host = Host(store.data, boot_id(), store.boot_id_before(), store.blob)
        converge.Convergence(host, spec, reporter, check).remove(KINDS)
        if host.failed:
            raise StepFailed(f"nothing was forgotten: {_faults(sent)}")
        _remove_integration(spec)
        for path in store.data.iterdir():
            if path.name not in KEPT:
                files.remove_folder(path)
        return {"counts": reporter.counts}


def _remove_integration(spec: HostSpec) -> None:
    """Remove the switch that everything was plugged into, when it is ours."""
    if topology.INTEGRATION in bridge.own_bridges(spec, ovs.observe()):
        ovs.transact([["--if-exists", "del-br", topology.INTEGRATION]])


def _empty_spec(store: Store, cloud_id: str, host_id: str) -> HostSpec:
    last = store.spec()
    return HostSpec(
        format=SPEC_FORMAT,
        cloud_id=cloud_id,
        host_id=host_id,
        serial=0 if last is None else last.serial,
        nonce="" if last is None else last.nonce,
        settings=HostSettings(),
        tombstones=tuple(_tombstones(store, cloud_id)),
    )


def _tombstones(store: Store, cloud_id: str) -> Iterator[Tombstone]:
    for domain_id, view in libvirt_conn.observe(()).items():
        mark = describe(view.xml).mark
        if mark is not None and mark.cloud_id == cloud_id:
            yield Tombstone("domain", domain_id, 0)
    for kind, folder in (
        ("disk", layout.disks(store.data)),
        ("volume", layout.volumes(store.data)),
    ):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            yield Tombstone(kind, path.name.lstrip(".").partition(".")[0], 0)


def _faults(messages: list[dict[str, Any]]) -> str:
    reports = [report for message in messages for report in message.get("reports", ())]
    return "; ".join(
        f"{report['kind']} {report['id']}: {report['fault']['message']}"
        for report in reports
        if report["fault"] is not None
    )
