"""host-add, host-prepare, host-list, host-show, host-set, host-delete, host-fence, host-return."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from stackctl.cli import words
from stackctl.cli.frame import (
    Output,
    changes,
    command,
    confirm,
    confirm_host_key,
    destroys,
    finish,
    is_terminal,
    lists,
    promise_off,
    say,
    shows,
)
from stackctl.cli.render import Column
from stackctl.errors import Conflict, UsageError

if TYPE_CHECKING:
    from agent.spec import BridgeMapping
    from stackctl.hosts import Amount, Host
    from stackctl.hosts.prepare import Finding
    from stackctl.identity.context import Context

KEY_FILE_LIMIT_BYTES = 64 * 1024


def _given(amount: Amount) -> dict[str, int]:
    return {"used": amount.used, "total": amount.total, "physical": amount.physical}


def _given_text(amount: dict[str, int]) -> str:
    return f"{amount['used']}/{amount['total']}"


def _all_text(amount: dict[str, int]) -> str:
    return f"{amount['used']} given of {amount['total']} (has {amount['physical']})"


def _state(host: Host) -> str:
    return host.state if host.enabled else f"{host.state}, disabled"


def _mappings(host: Host) -> list[str]:
    return [f"{item.physical_network}={item.bridge}:{item.nic}" for item in host.bridge_mappings]


def _machine_types(host: Host) -> list[str]:
    types = host.facts.get("machine_types", {})
    return [str(types[name]) for name in ("pc", "q35") if name in types]


# What a host has is a fact, what was declared beside it a number of the operator.
LIST = (
    Column("ID", "id", extra=True),
    Column("Host", "name"),
    Column("State", _state),
    Column("Address", "address"),
    Column("Zone", "zone"),
    Column("Servers", "servers"),
    Column("VCPUs", lambda host: _given(host.vcpus), _given_text),
    Column("RAM MB", lambda host: _given(host.ram_mb), _given_text),
    Column("Disk GB", lambda host: _given(host.disk_gb), _given_text),
    Column("Behind", "behind"),
    Column("Seen", "seen_at"),
    Column("Unreachable since", "unreachable_since", extra=True),
)

SHOW = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("State", "state"),
    Column("Enabled", "enabled"),
    Column("Disabled because", "disabled_reason"),
    Column("Transport", "transport"),
    Column("Address", "address"),
    Column("Port", "port"),
    Column("User", "user"),
    Column("Host key", "fingerprint"),
    Column("Zone", "zone"),
    Column("Servers", "servers"),
    Column("VCPUs", lambda host: _given(host.vcpus), _all_text),
    Column("RAM MB", lambda host: _given(host.ram_mb), _all_text),
    Column("Disk GB", lambda host: _given(host.disk_gb), _all_text),
    Column("CPU ratio", lambda host: host.ratios.cpu),
    Column("RAM ratio", lambda host: host.ratios.ram),
    Column("Disk ratio", lambda host: host.ratios.disk),
    Column("Reserved RAM MB", lambda host: host.ratios.reserved_ram_mb),
    Column("Declared", lambda host: _declared(host)),
    Column("Virt type", "virt_type"),
    Column("Virt type found", lambda host: host.facts.get("virt_type")),
    Column("Datapath", "datapath"),
    Column("Datapath found", lambda host: host.facts.get("ovs_datapath")),
    Column("On boot", "on_boot"),
    Column("Tunnel address", "tunnel_address"),
    Column("Bridge mappings", _mappings),
    Column("Bridges", "bridges"),
    Column("Versions", "versions"),
    Column("Machine types", _machine_types),
    Column("Agent", lambda host: host.facts.get("agent")),
    Column("Behind", "behind"),
    Column("Issued serial", "issued_serial"),
    Column("Applied serial", "applied_serial"),
    Column("Seen", "seen_at"),
    Column("Unreachable since", "unreachable_since"),
    Column("Unreachable because", "unreachable_why"),
    Column("Created", "created_at"),
)

FINDINGS = (
    Column("Host", "host"),
    Column("Step", "step"),
    Column("What", "what"),
    Column("Result", "result"),
    Column("Why", "why"),
)


def _declared(host: Host) -> dict[str, int]:
    return {name: value for name, value in vars(host.declared).items() if value is not None}


class Mapping(click.ParamType["BridgeMapping"]):
    """PHYSNET=NIC or PHYSNET=BRIDGE:NIC."""

    name = "physnet=[bridge:]nic"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> BridgeMapping:
        """Parse one mapping."""
        from stackctl.hosts import parse_mapping

        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            return parse_mapping(value)
        except UsageError as error:
            self.fail(error.message, param, ctx)


def capacity_options(function: Any) -> Any:
    """Options for declared capacity and overcommit."""
    options = (
        click.option("--vcpus", type=int, help="CPUs, instead of what the host says."),
        click.option("--ram", "ram_mb", type=int, metavar="MB", help="RAM, likewise."),
        click.option("--disk", "disk_gb", type=int, metavar="GB", help="Disk, likewise."),
        click.option("--cpu-ratio", type=float, help="CPUs given per CPU there is (4.0)."),
        click.option("--ram-ratio", type=float, help="RAM given per RAM there is (1.0)."),
        click.option("--disk-ratio", type=float, help="Disk given per disk there is (1.0)."),
        click.option("--reserved-ram", type=int, metavar="MB", help="RAM for the host (512)."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@command("host-add")
@changes
@shows(SHOW)
@click.argument("name")
@click.option("--address", help="Its IP address or DNS name (default: NAME).")
@click.option("--port", type=int, default=22, show_default=True, help="Its SSH port.")
@click.option("--user", default="root", show_default=True, help="root, or one who may sudo.")
@click.option("--host-key", metavar="LINE", help="Its key as ssh-keyscan prints it.")
@click.option("--local", is_flag=True, help="This machine is the host; no SSH.")
@click.option("--identity", type=words.LocalFile(), help="Log in once with this private key.")
@click.option("--ask-password", is_flag=True, help="Log in once with a password.")
@click.option("--tunnel-address", help="Its address for vxlan and gre.")
@click.option(
    "--bridge-mapping",
    "mappings",
    type=Mapping(),
    multiple=True,
    help="A physical network and its NIC; repeatable. The bridge is br-NIC unless given.",
)
@click.option("--zone", default="nova", show_default=True, help="Its availability zone.")
@capacity_options
def host_add(context: Context, output: Output, name: str, **given: Any) -> None:
    """Add a host and pin its key.

    The key is given with --host-key, or shown and confirmed. The cloud's own SSH key is put on
    the host, with --identity, --ask-password or your SSH agent, if it is not there yet.
    """
    from stackctl.hosts import Declared, NewHost, add_host

    address = given["address"] or name
    new = NewHost(
        name=name,
        address=address,
        host_key="" if given["local"] else _host_key(address, given["port"], given["host_key"]),
        port=given["port"],
        user=given["user"],
        transport="local" if given["local"] else "ssh",
        tunnel_address=given["tunnel_address"],
        bridge_mappings=given["mappings"],
        zone=given["zone"],
        declared=Declared(given["vcpus"], given["ram_mb"], given["disk_gb"]),
        ratios=_ratios(given),
        first_login=_first_login(given["identity"], given["ask_password"]),
    )
    done = add_host(context, new)
    output.show(done.value)
    finish(context, done)


def _host_key(address: str, port: int, line: str | None) -> str:
    from stackctl.hosts import known_key, scan_host_key

    if line is not None:
        return known_key(line).line
    shown = scan_host_key(address, port)
    if not confirm_host_key(address, shown.fingerprint):
        raise Conflict("The host's key was not confirmed. Nothing was done.")
    return shown.line


def _ratios(given: dict[str, Any]) -> Any:
    from stackctl.hosts import Ratios

    names = {"cpu": "cpu_ratio", "ram": "ram_ratio", "disk": "disk_ratio"}
    names["reserved_ram_mb"] = "reserved_ram"
    return Ratios(**{ours: given[word] for ours, word in names.items() if given[word] is not None})


def _first_login(identity: BinaryIO | None, ask_password: bool) -> Any:
    from stackctl.hosts import FirstLogin

    if identity is not None:
        text = identity.read(KEY_FILE_LIMIT_BYTES).decode(errors="replace")
        passphrase = None
        if "ENCRYPTED" in text or _is_encrypted(text):
            passphrase = click.prompt("Passphrase of the key", hide_input=True, err=True)
        return FirstLogin(private_key=text, passphrase=passphrase)
    if ask_password:
        if is_terminal():
            return FirstLogin(password=click.prompt("Password", hide_input=True, err=True))
        return FirstLogin(password=sys.stdin.readline().rstrip("\n"))
    if os.environ.get("SSH_AUTH_SOCK"):
        return FirstLogin(agent=True)
    return None


def _is_encrypted(text: str) -> bool:
    """Whether a key in OpenSSH's own format needs a passphrase (its header names the cipher)."""
    import base64

    body = "".join(line for line in text.splitlines() if not line.startswith("-----"))
    try:
        blob = base64.b64decode(body)
    except ValueError:
        return False
    return blob.startswith(b"openssh-key-v1\0") and not blob[15:].startswith(b"\0\0\0\x04none")


@command("host-prepare")
@lists(FINDINGS)
@click.option("--check", is_flag=True, help="Only say what is missing.")
@click.argument("hosts", nargs=-1, required=True, type=words.HOST)
def host_prepare(context: Context, output: Output, check: bool, hosts: tuple[str, ...]) -> None:
    """Install what hosts need: packages, services, kernel modules.

    What that is for each distribution stands in playbooks/hosts/. Doing it again is harmless.
    """
    from stackctl.hosts.prepare import prepare_hosts

    findings, errors = prepare_hosts(context, list(hosts), check_only=check)
    output.list(findings)
    _raise_prepare(findings, errors, check)


def _raise_prepare(findings: list[Finding], errors: dict[str, Any], check: bool) -> None:
    from stackctl.errors import PartlyDone, ResourceFailed

    if errors:
        first = next(iter(errors.values()))
        hosts = {finding.host for finding in findings} - errors.keys()
        if not hosts and len(errors) == 1:
            raise first
        failed = PartlyDone if hosts else ResourceFailed
        raise failed(" ".join(error.message for error in errors.values()), hint=first.hint)
    lacking: dict[str, list[str]] = {}
    for item in findings:
        if item.result in ("missing", "failed"):
            lacking.setdefault(item.host, []).append(item.what)
    if lacking:
        where = "; ".join(f"on {host}: {', '.join(what)}" for host, what in lacking.items())
        hint = f"stackctl host-prepare {' '.join(lacking)}" if check else "see the column Why"
        raise ResourceFailed(f"Not all that a host needs is there, {where}.", hint=hint)


@command("host-list")
@lists(LIST)
@click.option("--refresh", is_flag=True, help="Ask the hosts first.")
def host_list(context: Context, output: Output, refresh: bool) -> None:
    """List hosts with what is given of their capacity (given/may be given)."""
    from stackctl.hosts import list_hosts, refresh_hosts

    if refresh:
        for error in refresh_hosts(context).values():
            say(f"Warning: {error.message}")
    output.list(list_hosts(context))


@command("host-show")
@shows(SHOW)
@click.option("--refresh", is_flag=True, help="Ask the host first.")
@click.argument("host", type=words.HOST)
def host_show(context: Context, output: Output, refresh: bool, host: str) -> None:
    """Show a host: capacity, versions, bridges, and how fresh all that is."""
    from stackctl.hosts import refresh_host, show_host

    output.show(refresh_host(context, host) if refresh else show_host(context, host))


@command("host-set")
@changes
@shows(SHOW)
@click.argument("host", type=words.HOST)
@click.option("--enable/--disable", "enabled", default=None, help="May it get new servers?")
@click.option("--reason", default="", help="Why it is disabled.")
@click.option("--name", help="Another name.")
@click.option("--zone", help="Its availability zone.")
@click.option("--virt-type", type=click.Choice(["auto", "kvm", "qemu"]), help="How servers run.")
@click.option(
    "--datapath", type=click.Choice(["auto", "system", "netdev"]), help="Of Open vSwitch."
)
@click.option(
    "--on-boot", type=click.Choice(["none", "all"]), help="Which servers start with the host."
)
@click.option("--tunnel-address", help="Its address for vxlan and gre ('' for none).")
@click.option(
    "--bridge-mapping",
    "mappings",
    type=Mapping(),
    multiple=True,
    help="Add or replace the mapping of a physical network; repeatable.",
)
@click.option(
    "--no-bridge-mapping",
    "removed",
    metavar="PHYSNET",
    multiple=True,
    help="Take a mapping away; repeatable.",
)
@click.option("--address", help="Where it is now.")
@click.option("--port", type=int, help="Its SSH port.")
@click.option("--user", help="Its SSH user.")
@click.option("--host-key", metavar="LINE", help="Its new key, when it was installed anew.")
@capacity_options
def host_set(context: Context, output: Output, host: str, **given: Any) -> None:
    """Change a host's settings. A declared capacity of 0 means: as the host says."""
    from stackctl.hosts import Declared, HostChanges, set_host

    if all(value in (None, ()) for name, value in given.items() if name != "reason"):
        raise UsageError("Nothing to change was given.", hint="stackctl host-set --help")
    declared = Declared(given.pop("vcpus"), given.pop("ram_mb"), given.pop("disk_gb"))
    done = set_host(
        context,
        host,
        HostChanges(
            bridge_mappings=given.pop("mappings"),
            removed_mappings=given.pop("removed"),
            disabled_reason=given.pop("reason"),
            reserved_ram_mb=given.pop("reserved_ram"),
            declared=declared,
            **given,
        ),
    )
    output.show(done.value)
    finish(context, done)


@command("host-delete")
@changes
@destroys
@click.option("--force", is_flag=True, help="The host is gone: take only its row away.")
@click.argument("host", type=words.HOST)
def host_delete(context: Context, force: bool, host: str) -> None:
    """Take a host out of the cloud, and everything of the cloud off the host.

    With --force for one that does not answer: type its name to say that it is off for good.
    """
    from stackctl.hosts import delete_host

    if force:
        promise_off(host, "everything on its disks is given up")
    else:
        confirm(f"Take host {host} out of the cloud and remove all of ours from it?")
    finish(context, delete_host(context, host, off_for_good=force))


@command("host-fence")
@changes
@destroys
@click.argument("host", type=words.HOST)
def host_fence(context: Context, host: str) -> None:
    """Say that a host which does not answer is off, so that others may act for it."""
    from stackctl.hosts import fence_host

    promise_off(host, "its servers may be started elsewhere")
    fence_host(context, host)


@command("host-return")
@changes
@shows(SHOW)
@click.argument("host", type=words.HOST)
def host_return(context: Context, output: Output, host: str) -> None:
    """Take a fenced host back, brought up to date."""
    from stackctl.hosts import return_host

    done = return_host(context, host)
    output.show(done.value)
    finish(context, done)
