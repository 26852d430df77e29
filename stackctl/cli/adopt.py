"""adopt: a domain that libvirt has becomes a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import render, words
from stackctl.cli.frame import Output, asks, changes, command, confirm, destroys, finish, say, shows
from stackctl.cli.render import Column

if TYPE_CHECKING:
    from stackctl.compute.adoption.adopting import Adoption
    from stackctl.identity.context import Context


def _lines(values: tuple[str, ...]) -> str:
    return "\n".join(values)


SHOW = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Host", "host"),
    Column("Domain", "domain"),
    Column("Power State", "power_state"),
    Column("Flavor", "flavor"),
    Column("VCPUs", "vcpus"),
    Column("RAM MB", "ram_mb"),
    Column("Disks", "disks", text=_lines),
    Column("NICs", "nics", text=_lines),
    Column("Security Groups", "security_groups"),
    Column("Not at Its Next Start", "lost", text=_lines),
)


@command("adopt")
@changes
@destroys
@shows(SHOW)
@click.argument("host", type=words.HOST)
@click.argument("domain")
@click.option("--name", help="The server's name (default: the domain's).")
@click.option("--flavor", type=words.FLAVOR, help="One of its sizes (default: any, or a new one).")
@click.option(
    "--network",
    "--net",
    "networks",
    multiple=True,
    type=words.NETWORK,
    help="For a NIC whose bridge does not say it; repeat in the order of the NICs.",
)
@click.option(
    "--fixed-ip",
    "fixed_ips",
    multiple=True,
    metavar="ADDRESS",
    help="What a NIC has, where nobody has seen it; repeat in the order of the NICs.",
)
@click.option(
    "--security-group",
    "groups",
    multiple=True,
    type=words.SECURITY_GROUP,
    help="What lets packets in (default: the group default); repeatable.",
)
def adopt(
    context: Context,
    output: Output,
    host: str,
    domain: str,
    name: str | None,
    flavor: str | None,
    networks: tuple[str, ...],
    fixed_ips: tuple[str, ...],
    groups: tuple[str, ...],
) -> None:
    """Make a domain that libvirt has on a host a server. Its guest is not restarted.

    Its disks stay where they are; its NICs are moved to the switch of their networks while it runs.
    What it will not have at its next start, or why it cannot be adopted, --dry-run says.

    Example: stackctl adopt node7 wiki --network office --dry-run
    """
    from stackctl.compute.adoption import adopting
    from stackctl.compute.adoption.plan import AdoptRequest

    def agree(plan: Adoption) -> None:
        if asks():
            say(render.one("table", SHOW, plan).rstrip())
        confirm(f"Adopt domain {plan.domain} as server {plan.name}?")

    request = AdoptRequest(host, domain, name, flavor, networks, fixed_ips, groups or None)
    done = adopting.adopt(context, request, agree)
    output.show(done.value)
    finish(context, done)
