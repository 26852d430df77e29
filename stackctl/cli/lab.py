"""lab-up, lab-status, lab-down, lab-kill, lab-start: a practice fleet on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stackctl.cli.frame import (
    Output,
    command,
    confirm,
    destroys,
    finish,
    lists,
    say,
    settings,
    watch,
)
from stackctl.cli.render import Column
from stackctl.errors import PartlyDone, ResourceFailed, UsageError

if TYPE_CHECKING:
    from stackctl.lab.models import LabHost
    from stackctl.state import Cloud

DEFAULT_LAB = "lab"

HOSTS = (
    Column("Host", "name"),
    Column("Running", "running"),
    Column("Address", "address"),
    Column("Tunnel address", "tunnel_address"),
    Column("VCPUs", "vcpus"),
    Column("RAM MB", "ram_mb"),
    Column("Disk GB", "disk_gb"),
    Column("Namespace", "namespace", extra=True),
    Column("PID", "init_pid", extra=True),
    Column("Boot ID", "boot_id", extra=True),
    Column("Host key", "host_key", extra=True),
)


def _cloud(name: str | None = None) -> Cloud:
    """The lab's cloud: as named; never by accident the one of STACKCTL_CLOUD, unless a lab's."""
    from stackctl.state import find_cloud

    named = name or settings().cloud
    if named is None:
        habitual = os.environ.get("STACKCTL_CLOUD")
        if habitual and find_cloud(habitual).lab.is_dir():
            named = habitual
    return find_cloud(named or DEFAULT_LAB)


def lab_name(function: Any) -> Any:
    """Add --name, the same as --cloud."""
    help_ = f"The lab, and the cloud that it makes (default: {DEFAULT_LAB})."
    return click.option("--name", help=help_)(function)


@command("lab-up", cloud=False)
@lists(HOSTS)
@click.option("--hosts", type=int, default=2, show_default=True, help="How many hosts.")
@lab_name
def lab_up(output: Output, hosts: int, name: str | None) -> None:
    """Start a practice fleet on this machine, or what of it does not run.

    Each host is a namespace of its own with sshd, libvirt and Open vSwitch. They make a cloud of
    their own, with a provider network (VLANs on 'provider') and an internet beyond ('external').
    """
    from stackctl.lab.cloud import start_lab

    cloud = _cloud(name)
    made = start_lab(cloud, hosts, watch=watch(), progress=say)
    output.list(made.lab.hosts)
    if made.failed:
        failed = PartlyDone if made.added else ResourceFailed
        raise failed(
            " ".join(error.message for error in made.failed),
            hint=f"stackctl --cloud {cloud.name} host-list",
        )
    internet = made.lab.internet
    say(
        f"The internet of this lab: http://{internet.web_name}/, gateway "
        f"{internet.external_gateway} ({internet.external_cidr}), VLAN {internet.provider_vlan}: "
        f"{internet.provider_cidr}."
    )
    say(f"To use it: export STACKCTL_CLOUD={cloud.name}")


@command("lab-status", cloud=False)
@lists(HOSTS)
@lab_name
def lab_status(output: Output, name: str | None) -> None:
    """Show the practice fleet."""
    from stackctl.lab.cloud import lab_of

    lab = lab_of(_cloud(name))
    hosts: tuple[LabHost, ...] = lab.hosts
    output.list(hosts)
    if not lab.internet.running:
        say("Warning: the internet of this lab does not run; stackctl lab-up starts it.")


@command("lab-down", cloud=False)
@destroys
@lab_name
def lab_down(name: str | None) -> None:
    """Remove the practice fleet: its hosts, their servers, and its cloud."""
    from stackctl.lab.cloud import stop_lab

    cloud = _cloud(name)
    if cloud.database.exists():
        confirm(f"Remove the lab '{cloud.name}' and everything in it ({cloud.folder})?")
    stop_lab(cloud)
    say(f"The lab '{cloud.name}' is gone.")


@command("lab-kill", cloud=False)
@lab_name
@click.argument("host")
def lab_kill(host: str, name: str | None) -> None:
    """Pull the plug of a host of the practice fleet; its disk stays."""
    from stackctl.lab.cloud import kill_lab_host

    kill_lab_host(_cloud(name), host)
    say(f"{host} is off; stackctl lab-start {host} boots it again.")


@command("lab-start", cloud=False)
@lab_name
@click.argument("host")
def lab_start(host: str, name: str | None) -> None:
    """Start a host of the practice fleet again and bring it up to date."""
    from stackctl.identity.context import admin_context
    from stackctl.lab.cloud import start_lab_host
    from stackctl.state import existing_cloud

    context = admin_context(existing_cloud(_cloud(name).name), watch=watch())
    finish(context, start_lab_host(context, host))
    say(f"{host} is up, and what it should be.")


@command("lab-image", cloud=False)
@click.option(
    "--debian", is_flag=True, help="A whole Debian with cloud-init (about 500 MB to fetch)."
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def lab_image(debian: bool, file: Path) -> None:
    """Build a guest image for the lab into FILE, of the distribution's own packages.

    Kernel, busybox and an SSH server in a bootable qcow2 that reads the config drive; or, with
    --debian, a real system with cloud-init and qemu-guest-agent, whose user is called debian. Both
    boot by BIOS and UEFI. A file that is up to date is left as it is.
    """
    from stackctl.lab.debian import build_debian_image
    from stackctl.lab.guest import build_guest_image

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {file.parent} cannot be made: {error.strerror}.") from None
    build = build_debian_image if debian else build_guest_image
    say(f"{build(file, progress=say)} is ready.")
