"""boot, list, show, delete, start, stop, reboot, pause, suspend, console-log."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, confirm, destroys, finish, lists, shows
from stackctl.cli.placing import explained
from stackctl.cli.render import Column
from stackctl.cli.several import Spelled
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.compute.types import GuestFile, Nic, Server
    from stackctl.identity.context import Context

USER_DATA_LIMIT_BYTES = 65535
FILE_LIMIT_BYTES = 1024 * 1024

POWER = {
    "RUNNING": "Running",
    "SHUTDOWN": "Shutdown",
    "PAUSED": "Paused",
    "CRASHED": "Crashed",
    "SUSPENDED": "Suspended",
    "NOSTATE": "No State",
}


def _addresses(server: Server) -> dict[str, list[str]]:
    return server.networks()


def _addresses_text(networks: dict[str, list[str]]) -> str:
    return "; ".join(f"{name} {', '.join(found)}" for name, found in networks.items())


def _size(server: Server) -> str:
    ram = f"{server.ram_mb / 1024:g}GB" if server.ram_mb >= 1024 else f"{server.ram_mb}MB"
    return f"{server.flavor}, {ram} RAM, {server.vcpus} VCPU, {server.disk_gb}GB Disk"


def _task(server: Server) -> str | None:
    return "interrupted" if server.interrupted else server.task_state


def _fault(server: Server) -> str | None:
    return f"{server.fault.message} ({server.fault.at})" if server.fault else None


def _lock(server: Server) -> str | None:
    return (server.lock_reason or "yes") if server.locked else None


# What a command that starts servers prints: where they went, too.
LIST = (
    Column("ID", "id", extra=True),
    Column("Instance Name", "name"),
    Column("IP Address", _addresses, text=_addresses_text),
    Column("Size", _size),
    Column("Keypair", "key_name", text=str),
    Column("Status", "status"),
    Column("Task", _task),
    Column("Power State", lambda server: POWER.get(server.power_state, server.power_state)),
    Column("Host", "host"),
    Column("Hostname", "hostname", extra=True),
    Column("Image", "image", extra=True),
    Column("Security Groups", "security_groups", extra=True),
    Column("Created", "created_at", extra=True),
    Column("Seen", "observed_at", extra=True),
)

# `list` has the seven columns of the slides' instance table; the others are for -c.
SLIDES = tuple(replace(column, extra=True) if column.title == "Host" else column for column in LIST)

SHOW = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Hostname", "hostname"),
    Column("Status", "status"),
    Column("Task", _task),
    Column("VM State", "vm_state"),
    Column("Power State", lambda server: POWER.get(server.power_state, server.power_state)),
    Column("Addresses", _addresses, text=_addresses_text),
    Column("MACs", lambda server: [address.mac for address in server.addresses]),
    Column("Image", "image"),
    Column("Flavor", "flavor"),
    Column("VCPUs", "vcpus"),
    Column("RAM MB", "ram_mb"),
    Column("Disk GB", "disk_gb"),
    Column("Ephemeral GB", "ephemeral_gb"),
    Column("Keypair", "key_name"),
    Column("Host", "host"),
    Column("Moving to", "moving_to"),
    Column("Zone", "zone"),
    Column("Server Group", "group"),
    Column("Hints", "hints"),
    Column("Security Groups", "security_groups"),
    Column("Volumes", "volumes"),
    Column("Hardware", "hardware"),
    Column("Metadata", "metadata"),
    Column("Tags", "tags"),
    Column("Locked", _lock),
    Column("Adopted", "adopted"),
    Column("Fault", _fault),
    Column("Project", "project_id"),
    Column("Created", "created_at"),
    Column("Launched", "launched_at"),
    Column("Restorable until", "restorable_until"),
    Column("Seen", "observed_at"),
)


@command("boot")
@changes
@lists(LIST)
@click.argument("name")
@click.option("--image", default="", type=words.IMAGE, help="What the root disk is made of.")
@click.option(
    "--boot-volume",
    "--volume",
    "volume",
    cls=Spelled,
    older=("--volume",),
    type=words.VOLUME,
    help="A volume to boot from, instead of --image.",
)
@click.option("--flavor", required=True, type=words.FLAVOR, help="Size: stackctl flavor-list.")
@click.option("--key", "--key-name", "key", type=words.KEYPAIR, help="Key pair for the guest.")
@click.option(
    "--nic",
    "nics",
    multiple=True,
    metavar="net=...[,ip=...]",
    type=words.Fields("net", "net-id", "ip", "v4-fixed-ip", "port", "port-id"),
    help="A NIC: net=NETWORK[,ip=ADDRESS] or port=PORT; repeat in the order of the guest's NICs.",
)
@click.option(
    "--network",
    "networks",
    multiple=True,
    type=words.NETWORK,
    help="The same as --nic net=NETWORK.",
)
@click.option("--port", "ports", multiple=True, type=words.PORT, help="The same as --nic port=...")
@click.option(
    "--security-group",
    "--security-groups",
    "security_groups",
    cls=Spelled,
    older=("--security-groups",),
    multiple=True,
    type=words.SECURITY_GROUP,
    help="A group for the NICs made here, not for given ports (default: default); repeatable.",
)
@click.option(
    "--count",
    "--num-instances",
    "--max",
    "count",
    cls=Spelled,
    older=("--max",),
    default=1,
    show_default=True,
    help="How many; all or none.",
)
@click.option(
    "--naming",
    type=click.Choice(["index", "uuid"]),
    default="index",
    help="With --count: NAME-1, NAME-2 ... or NAME-UUID as on the slides.",
)
@click.option("--user-data", type=words.LocalFile(), help="Script or cloud-config for the guest.")
@click.option(
    "--meta",
    "--property",
    "metadata",
    multiple=True,
    type=words.Pair(),
    help="A property, KEY=VALUE; repeatable.",
)
@click.option("--tag", "tags", multiple=True, help="A tag; repeatable.")
@click.option("--config-drive", expose_value=False, hidden=True, help="As always.")
@click.option(
    "--use-config-drive", is_flag=True, expose_value=False, hidden=True, help="As always."
)
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="PATH=LOCAL",
    type=words.Pair(),
    help="A file for the guest: its path there, and the local file; repeatable.",
)
@click.option("--host", type=words.HOST, help="Only on this host.")
@click.option(
    "--availability-zone",
    "--zone",
    "zone",
    help="Only on hosts of this zone; ZONE:HOST means that host.",
)
@click.option(
    "--hint",
    "hints",
    multiple=True,
    type=words.Pair(),
    help="group=GROUP, different_host=SERVER, same_host=SERVER, query=JSON, "
    "build_near_host_ip=ADDRESS with cidr=/BITS; repeatable.",
)
@click.option("--server-group", type=words.SERVER_GROUP, help="The same as --hint group=GROUP.")
@click.option(
    "--vnc/--no-vnc",
    default=None,
    help="A display for vnc-console, or none (default: as its image and the cloud say).",
)
@click.option("--explain", is_flag=True, help="Print what each filter and weigher said.")
@click.option(
    "--wait",
    type=click.Choice(["dhcp", "ssh", "cloud-init"]),
    help="Return when guests have leases, answer, or are set up.",
)
@click.option(
    "--wait-timeout", default=300, show_default=True, help="Seconds that --wait takes at most."
)
def boot(
    context: Context,
    output: Output,
    name: str,
    image: str,
    volume: str | None,
    flavor: str,
    key: str | None,
    nics: tuple[dict[str, str], ...],
    networks: tuple[str, ...],
    ports: tuple[str, ...],
    security_groups: tuple[str, ...],
    count: int,
    naming: str,
    user_data: BinaryIO | None,
    metadata: tuple[tuple[str, str], ...],
    tags: tuple[str, ...],
    files: tuple[tuple[str, str], ...],
    host: str | None,
    zone: str | None,
    hints: tuple[tuple[str, str], ...],
    server_group: str | None,
    vnc: bool | None,
    explain: bool,
    wait: str | None,
    wait_timeout: int,
) -> None:
    """Boot servers and return when their hosts have started them.

    Example: stackctl boot node --image debian --flavor m1.small --nic net=local --count 4
    """
    from stackctl.compute import access, service
    from stackctl.compute.types import BootRequest

    if not image and volume is None:
        raise click.UsageError(
            "Give what the server boots from: --image IMAGE or --boot-volume VOLUME."
        )
    zone, host = _zone_and_host(zone, host)
    content = words.read_all(user_data, USER_DATA_LIMIT_BYTES, "user data") if user_data else None
    request = BootRequest(
        name=name,
        image=image,
        flavor=flavor,
        count=count,
        nics=tuple(nic_of(fields) for fields in _in_one_way(nics, networks, ports)),
        key_name=key,
        user_data=content,
        metadata=dict(metadata),
        files=tuple(_guest_file(path, local) for path, local in files),
        host=host,
        zone=zone,
        naming=naming,
        security_groups=security_groups or None,
        hints=(*hints, *([("group", server_group)] if server_group else [])),
        volume=volume,
        vnc=vnc,
        tags=tags,
    )
    with explained(context, explain) as asker:
        done = service.boot(asker, request)
    output.list(done.value)
    if wait and not context.dry_run:
        running = [server.id for server in done.value if server.status == "ACTIVE"]
        access.wait_for_guests(context, running, wait, wait_timeout)
    finish(context, done)


def _zone_and_host(zone: str | None, host: str | None) -> tuple[str | None, str | None]:
    """What Nova's ZONE:HOST means; no zone's name has a colon."""
    if zone is None or ":" not in zone:
        return zone, host
    before, _, after = zone.partition(":")
    named = after.partition(":")[0]
    if host not in (None, named):
        raise UsageError(f"--zone {zone} names another host than --host {host}.")
    return before or None, named or host


def _in_one_way(
    nics: tuple[dict[str, str], ...], networks: tuple[str, ...], ports: tuple[str, ...]
) -> tuple[dict[str, str], ...]:
    """NICs as --nic says them: of different options nobody could tell in which order they are."""
    if sum(map(bool, (nics, networks, ports))) > 1:
        raise UsageError(
            "--network, --port and --nic do not say in which order the NICs are: give all by --nic "
            "net=NETWORK and --nic port=PORT."
        )
    return nics or tuple({"net": n} for n in networks) or tuple({"port": p} for p in ports)


def nic_of(fields: dict[str, str]) -> Nic:
    """The NIC that ``--nic net=...,ip=...`` or ``--nic port=...`` means."""
    from stackctl.compute.types import Nic

    network = fields.get("net") or fields.get("net-id")
    port = fields.get("port") or fields.get("port-id")
    address = fields.get("ip") or fields.get("v4-fixed-ip")
    if (network is None) == (port is None):
        raise UsageError("--nic needs either net=NETWORK or port=PORT.")
    if port is not None and address is not None:
        raise UsageError("--nic port=PORT has its address already; leave ip= out.")
    return Nic(network=network, address=address, port=port)


def _guest_file(path: str, local: str) -> GuestFile:
    from stackctl.compute.types import GuestFile

    stream = words.LocalFile().convert(local, None, click.get_current_context())
    return GuestFile(path, words.read_all(stream, FILE_LIMIT_BYTES, f"file {local}"))


@command("list")
@lists(SLIDES)
@click.option("--name", default="", help="Only those with this in their name.")
@click.option("--status", default="", help="Only those in this state: ACTIVE, SHUTOFF, ERROR ...")
@click.option("--host", default="", type=words.HOST, help="Only those on this host.")
@click.option("--image", default="", type=words.IMAGE, help="Only those made of this image.")
@click.option("--flavor", default="", type=words.FLAVOR, help="Only those of this flavor.")
@click.option(
    "--tag",
    "--tags",
    "tags",
    cls=Spelled,
    older=("--tags",),
    multiple=True,
    help="Only those with this tag; repeatable.",
)
@click.option("--refresh", is_flag=True, help="Ask the hosts first what runs now.")
def list_(
    context: Context,
    output: Output,
    name: str,
    status: str,
    host: str,
    image: str,
    flavor: str,
    tags: tuple[str, ...],
    refresh: bool,
) -> None:
    """List servers, newest first, in the state last seen (column Seen).

    Example: stackctl list --host host1 --status ERROR -f value -c ID
    """
    from stackctl.compute import views
    from stackctl.compute.types import ServerFilter

    if refresh:
        from stackctl.compute.refreshing import refresh_servers

        refresh_servers(context)
    wanted = ServerFilter(name, status, host, image, flavor, tags)
    output.list(views.list_servers(context, wanted))


@command("show")
@shows(SHOW)
@click.argument("server", type=words.SERVER)
def show(context: Context, output: Output, server: str) -> None:
    """Show a server in the state last seen."""
    from stackctl.compute import views

    output.show(views.show_server(context, server))


@command("delete")
@changes
@destroys
@click.option("--force", is_flag=True, help="For good, whatever the cloud's interval says.")
@click.argument("servers", nargs=-1, required=True, type=words.SERVER)
def delete(context: Context, force: bool, servers: tuple[str, ...]) -> None:
    """Delete servers with their disks.

    In a cloud with a reclaim_instance_interval (config.yaml) they are only switched off, and can be
    restored until it is over.
    """
    from stackctl.compute import deleting

    if not deleting.can_be_restored(context, force=force):
        names = ", ".join(servers)
        confirm(f"Delete {names} and all data on {'its' if len(servers) == 1 else 'their'} disks?")
    finish(context, deleting.delete(context, servers, force=force))


@command("restore")
@changes
@lists(LIST)
@click.argument("servers", nargs=-1, required=True, type=words.SERVER)
def restore(context: Context, output: Output, servers: tuple[str, ...]) -> None:
    """Start servers again that were deleted while their cloud keeps them for a while."""
    from stackctl.compute import deleting

    done = deleting.restore(context, servers)
    output.list(done.value)
    finish(context, done)


def _power(context: Context, output: Output, action: str, servers: tuple[str, ...]) -> None:
    from stackctl.compute import service

    done = service.change_power(context, action, servers)
    output.list(done.value)
    finish(context, done)


def _power_command(action: str, text: str) -> click.Command:
    """A command that gives servers one power command and has no options of its own."""

    def run(context: Context, output: Output, servers: tuple[str, ...]) -> None:
        _power(context, output, action, servers)

    run.__doc__ = text
    argument = click.argument("servers", nargs=-1, required=True, type=words.SERVER)
    return command(action)(changes(lists(LIST)(argument(run))))


start, stop, pause, unpause, suspend, resume = (
    _power_command(action, text)
    for action, text in (
        ("start", "Start servers that are shut off."),
        ("stop", "Shut servers down: by ACPI, and after 60 seconds by pulling the plug."),
        ("pause", "Freeze servers: their memory stays on the host, no CPU time is used."),
        ("unpause", "Let paused servers go on."),
        ("suspend", "Write servers' memory to their host's disk and switch them off."),
        ("resume", "Let suspended servers go on where they were."),
    )
)


@command("reboot")
@changes
@lists(LIST)
@click.option("--hard", is_flag=True, help="Pull the plug and build the domain anew.")
@click.option("--soft", is_flag=True, help="By ACPI, hard after 60 seconds (the default).")
@click.argument("servers", nargs=-1, required=True, type=words.SERVER)
def reboot(
    context: Context, output: Output, hard: bool, soft: bool, servers: tuple[str, ...]
) -> None:
    """Reboot servers. --hard also builds again what could not be built."""
    if hard and soft:
        raise UsageError("Either --hard or --soft.")
    _power(context, output, "reboot-hard" if hard else "reboot", servers)


@command("console-log")
@click.option(
    "--length",
    "--lines",
    "lines",
    type=click.IntRange(min=1),
    help="Only so many lines, the last ones.",
)
@click.argument("server", type=words.SERVER)
def console_log(context: Context, server: str, lines: int | None) -> None:
    """Print what a server wrote to its serial console (at most the last 100 KiB)."""
    from stackctl.cli.render import printable
    from stackctl.compute import access

    text = printable(access.console_log(context, server).replace("\r\n", "\n"))
    kept = text.splitlines()[-lines:] if lines else text.splitlines()
    click.echo("\n".join(kept))
