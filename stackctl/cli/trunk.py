"""trunk-create, -list, -show, -set, -unset, -delete; the subports of trunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.several import each_of
from stackctl.errors import UsageError

if TYPE_CHECKING:
    from stackctl.identity.context import Context
    from stackctl.network.service import NewSubport, Trunk


def _subports(trunk: Trunk) -> list[dict[str, Any]]:
    return [
        {
            "port": subport.name or subport.port_id,
            "segmentation-type": subport.segmentation_type,
            "segmentation-id": subport.segmentation_id,
        }
        for subport in trunk.subports
    ]


def _lines(subports: list[dict[str, Any]]) -> str:
    return "\n".join(f"{each['segmentation-id']}: {each['port']}" for each in subports)


LIST = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Parent Port", lambda trunk: trunk.port_name or trunk.port_id),
    Column("Server", "server_name"),
    Column("Status", "status"),
    Column("Subports", _subports, text=_lines),
    Column("Description", "description", extra=True),
    Column("Admin State", lambda trunk: "UP" if trunk.admin_up else "DOWN", extra=True),
    Column("Parent Port ID", "port_id", extra=True),
    Column("Project", "project_id", extra=True),
)

SHOW = (
    *(Column(column.title, column.value, column.text) for column in LIST),
    Column("Created", "created_at"),
)

SUBPORTS = (
    Column("Port", "port_id"),
    Column("Name", "name"),
    Column("Segmentation Type", "segmentation_type"),
    Column("Segmentation ID", "segmentation_id"),
    Column("Network", "network_name"),
    Column("MAC Address", "mac"),
    Column("Fixed IP Addresses", "addresses"),
    Column("Status", "status"),
)

FIELDS = words.Fields("port", "segmentation-type", "segmentation-id")
SUBPORT = click.option(
    "--subport",
    "subports",
    multiple=True,
    type=FIELDS,
    help="port=PORT,segmentation-type=vlan,segmentation-id=N: a port that the guest sees as its "
    "VLAN N; repeatable.",
)


def _wanted(given: tuple[dict[str, str], ...]) -> tuple[NewSubport, ...]:
    from stackctl.network.service import NewSubport

    return tuple(
        NewSubport(
            fields.get("port", ""),
            _number(fields),
            fields.get("segmentation-type", "vlan"),
        )
        for fields in given
    )


def _number(fields: dict[str, str]) -> int:
    """The tag of a subport; UsageError when port or tag are missing, or it is no number."""
    if "port" not in fields or "segmentation-id" not in fields:
        raise UsageError(
            "Invalid subport details: a subport is port=PORT,segmentation-type=vlan,"
            "segmentation-id=N."
        )
    text = fields["segmentation-id"]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"Invalid subport details: segmentation_id '{text}' is not an integer.")
    return int(text)


@command("trunk-create")
@changes
@shows(SHOW)
@click.argument("name")
@click.option(
    "--parent-port", "parent", required=True, type=words.PORT, help="The port that carries all."
)
@SUBPORT
@click.option("--description", default="", help="What it is for.")
@click.option("--enable/--disable", "up", default=True, help="Whether its subports may change.")
def trunk_create(
    context: Context,
    output: Output,
    name: str,
    parent: str,
    subports: tuple[dict[str, str], ...],
    description: str,
    up: bool,
) -> None:
    """Create a trunk: a port that carries other ports as VLANs of the guest.

    The parent is a port that nothing has yet; a server is booted with it afterwards.

    Example: stackctl trunk-create uplink --parent-port p0 --subport port=p1,segmentation-id=101
    """
    from stackctl.network.service import NewTrunk, create_trunk

    wanted = NewTrunk(name, parent, description, up, _wanted(subports))
    done = create_trunk(context, wanted)
    output.show(done.value)
    finish(context, done)


@command("trunk-list")
@lists(LIST)
def trunk_list(context: Context, output: Output) -> None:
    """List the project's trunks."""
    from stackctl.network.service import list_trunks

    output.list(list_trunks(context))


@command("trunk-show")
@shows(SHOW)
@click.argument("trunk", type=words.TRUNK)
def trunk_show(context: Context, output: Output, trunk: str) -> None:
    """Show a trunk with its subports."""
    from stackctl.network.service import show_trunk

    output.show(show_trunk(context, trunk))


@command("trunk-set")
@changes
@shows(SHOW)
@click.argument("trunk", type=words.TRUNK)
@click.option("--name", help="Another name.")
@click.option("--description", help="Another description.")
@click.option("--enable/--disable", "up", default=None, help="Whether its subports may change.")
@SUBPORT
def trunk_set(
    context: Context,
    output: Output,
    trunk: str,
    name: str | None,
    description: str | None,
    up: bool | None,
    subports: tuple[dict[str, str], ...],
) -> None:
    """Change a trunk. Subports that are given come to those it has, while its server runs."""
    from stackctl.network.service import TrunkChange, set_trunk

    change = TrunkChange(name, description, up, add=_wanted(subports))
    done = set_trunk(context, trunk, change)
    output.show(done.value)
    finish(context, done)


@command("trunk-unset")
@changes
@shows(SHOW)
@click.argument("trunk", type=words.TRUNK)
@click.option(
    "--subport",
    "ports",
    multiple=True,
    required=True,
    type=words.PORT,
    help="A port that it shall not carry any more; repeatable.",
)
def trunk_unset(context: Context, output: Output, trunk: str, ports: tuple[str, ...]) -> None:
    """Take subports from a trunk, while its server runs; the ports are free for others."""
    _drop(context, output, trunk, ports)


@command("trunk-delete")
@changes
@click.argument("trunks", nargs=-1, required=True, type=words.TRUNK)
def trunk_delete(context: Context, trunks: tuple[str, ...]) -> None:
    """Delete trunks; refused while a server has them. Their ports stay."""
    from stackctl.network.service import delete_trunk

    each_of(context, trunks, delete_trunk, "Deleted trunk")


@command("trunk-subport-add")
@changes
@shows(SHOW)
@click.argument("trunk", type=words.TRUNK)
@click.argument("subports", nargs=-1, required=True, type=FIELDS)
def trunk_subport_add(
    context: Context, output: Output, trunk: str, subports: tuple[dict[str, str], ...]
) -> None:
    """Add subports to a trunk, while its server runs.

    Example: stackctl trunk-subport-add uplink port=p2,segmentation-type=vlan,segmentation-id=102
    """
    from stackctl.network.service import TrunkChange, set_trunk

    done = set_trunk(context, trunk, TrunkChange(add=_wanted(subports)))
    output.show(done.value)
    finish(context, done)


@command("trunk-subport-delete")
@changes
@shows(SHOW)
@click.argument("trunk", type=words.TRUNK)
@click.argument("ports", nargs=-1, required=True, type=words.PORT)
def trunk_subport_delete(
    context: Context, output: Output, trunk: str, ports: tuple[str, ...]
) -> None:
    """Take subports from a trunk, while its server runs; the ports are free for others."""
    _drop(context, output, trunk, ports)


@command("trunk-subport-list")
@lists(SUBPORTS)
@click.argument("given", required=False, metavar="TRUNK", type=words.TRUNK)
@click.option("--trunk", type=words.TRUNK, help="Another way to give the trunk.")
def trunk_subport_list(
    context: Context, output: Output, given: str | None, trunk: str | None
) -> None:
    """List the subports of a trunk."""
    from stackctl.network.service import show_trunk

    word = given or trunk
    if word is None or (given and trunk):
        raise UsageError("Give TRUNK, or --trunk TRUNK.")
    output.list(show_trunk(context, word).subports)


def _drop(context: Context, output: Output, trunk: str, ports: tuple[str, ...]) -> None:
    from stackctl.network.service import TrunkChange, set_trunk

    done = set_trunk(context, trunk, TrunkChange(drop=ports))
    output.show(done.value)
    finish(context, done)
