"""A lab as a cloud: its folder, its database, and its hosts registered as real ones are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from agent.spec import BridgeMapping
from stackctl.errors import Conflict, NotFound, StackctlError
from stackctl.hosts import Declared, NewHost, Ratios, add_host, list_hosts
from stackctl.identity.bootstrap import create_cloud, public_key
from stackctl.identity.context import Context, Watch, admin_context
from stackctl.lab import service, store
from stackctl.lab.models import Lab, LabHost
from stackctl.operation import Done
from stackctl.operation.keep import converge_hosts
from stackctl.state import Cloud, read

BRIDGE_MAPPINGS = (
    BridgeMapping("external", "br-ex", "eth2"),
    BridgeMapping("provider", "br-eth1", "eth1"),
)
"""Physical networks of lab hosts: flat to the internet, and a trunk of VLANs."""

# The slides' head node and its four compute nodes fit on two hosts, with room to play.
RATIOS = Ratios(cpu=4.0, ram=1.0, disk=4.0, reserved_ram_mb=0)


@dataclass(frozen=True)
class LabCloud:
    """A lab and which of its hosts were newly registered, or could not be."""

    lab: Lab
    added: tuple[str, ...] = ()
    failed: tuple[StackctlError, ...] = ()


def start_lab(
    cloud: Cloud, host_count: int, *, watch: Watch, progress: Callable[[str], None]
) -> LabCloud:
    """Make or extend the lab of a cloud (and the cloud itself), and register its hosts.

    Conflict when the cloud is there and is no lab's: real and practice hosts are never mixed.
    """
    _make_cloud(cloud)
    context = admin_context(cloud, watch=watch)
    known = {host.name for host in list_hosts(context)}
    asleep = known - _running(cloud)
    lab = service.up(
        cloud.lab,
        lab_prefix(cloud),
        host_count,
        authorized_key=public_key(cloud),
        progress=progress,
    )
    missing = [host for host in lab.hosts if host.running and host.name not in known]
    with ThreadPoolExecutor(max(1, len(missing))) as pool:
        results = list(pool.map(lambda host: _register(context, host, progress), missing))
    failed = [result for result in results if isinstance(result, StackctlError)]
    failed += _wake(context, sorted(asleep))
    added = [host.name for host, error in zip(missing, results, strict=True) if error is None]
    return LabCloud(lab, tuple(added), tuple(failed))


def _running(cloud: Cloud) -> set[str]:
    if store.load(cloud.lab) is None:
        return set()
    return {host.name for host in service.status(cloud.lab).hosts if host.running}


def _wake(context: Context, names: list[str]) -> list[StackctlError]:
    """Hosts that were started again get their networks back."""
    if not names:
        return []
    try:
        converge_hosts(context, names).check()
    except StackctlError as error:
        return [error]
    return []


def _make_cloud(cloud: Cloud) -> None:
    if not cloud.database.exists():
        create_cloud(cloud)
        # The mark of a lab, there before anything that could fail.
        cloud.lab.mkdir(mode=0o700, exist_ok=True)
    elif not cloud.lab.is_dir():
        raise Conflict(
            f"The cloud '{cloud.name}' is not a lab: it may have real hosts. Nothing was done.",
            hint="stackctl lab-up --name ANOTHER",
        )


def lab_prefix(cloud: Cloud) -> str:
    """The prefix of everything that the cloud's lab makes on this machine."""
    with read(cloud) as reader:
        return str(reader.value("SELECT prefix FROM cloud"))


def _register(
    context: Context, host: LabHost, progress: Callable[[str], None]
) -> StackctlError | None:
    new = NewHost(
        name=host.name,
        address=host.address,
        port=host.ssh_port,
        user=host.user,
        host_key=host.host_key,
        tunnel_address=host.tunnel_address,
        bridge_mappings=BRIDGE_MAPPINGS,
        declared=Declared(host.vcpus, host.ram_mb, host.disk_gb),
        ratios=RATIOS,
    )
    try:
        done = add_host(context, new)
        done.check()
    except StackctlError as error:
        return error
    progress(f"{host.name} is registered")
    return None


def lab_of(cloud: Cloud) -> Lab:
    """The lab of a cloud as it is now; NotFound when it has none."""
    _require_lab(cloud)
    return service.status(cloud.lab)


def stop_lab(cloud: Cloud) -> None:
    """Remove the lab and its cloud: hosts, servers, database, keys. Half-made ones too."""
    _require_lab(cloud)
    service.down(cloud.lab)
    shutil.rmtree(cloud.folder)


def kill_lab_host(cloud: Cloud, name: str) -> None:
    """Pull the plug of a host; its disk stays."""
    _require_lab(cloud)
    service.kill_host(cloud.lab, name)


def start_lab_host(context: Context, name: str) -> Done[list[dict[str, object]]]:
    """Start a host that was killed, and bring it back to what it must be."""
    _require_lab(context.cloud)
    service.start_host(context.cloud.lab, name, public_key(context.cloud))
    return converge_hosts(context, [name])


def _require_lab(cloud: Cloud) -> None:
    if not cloud.lab.is_dir():
        raise NotFound(
            f"There is no lab '{cloud.name}' on this machine.",
            hint=f"stackctl lab-up --hosts 2 --name {cloud.name}",
        )
