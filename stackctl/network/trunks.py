"""Trunks: a server's port that carries other ports as VLANs, each in a network of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from stackctl.errors import Conflict, UsageError
from stackctl.identity.context import Context, find_own
from stackctl.names import checked_name
from stackctl.network import trunk_rows
from stackctl.network.allocation import bind_port, touch, unbind_port
from stackctl.network.carrying import refuse_out_of_reach
from stackctl.network.finding import own_port
from stackctl.operation.outcome import Done
from stackctl.operation.resource import as_it_became, change_one
from stackctl.state import Reader, Row, Writer, new_id, now, read

SEGMENTATION_IDS = range(1, 4095)

_LIVE_NAME = "(project_id, name) WHERE deleted_at IS NULL"


@dataclass(frozen=True)
class NewSubport:
    """A port by name or id, and the VLAN as which the guest shall see it."""

    port: str
    segmentation_id: int
    segmentation_type: str = "vlan"


@dataclass(frozen=True)
class NewTrunk:
    """What is asked for. ``parent`` is a port that nothing has yet."""

    name: str
    parent: str
    description: str = ""
    admin_up: bool = True
    subports: tuple[NewSubport, ...] = ()


@dataclass(frozen=True)
class TrunkChange:
    """What shall be different; None leaves it as it is. ``add`` and ``drop`` are subports that
    come and go."""

    name: str | None = None
    description: str | None = None
    admin_up: bool | None = None
    add: tuple[NewSubport, ...] = ()
    drop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subport:
    """A port of a trunk and the VLAN as which the guest sees it."""

    port_id: str
    name: str
    segmentation_id: int
    mac: str
    network_name: str
    addresses: tuple[str, ...]
    status: str
    segmentation_type: str = "vlan"


@dataclass(frozen=True)
class Trunk:
    """A trunk with its subports by their tags; ``server_name`` is empty when no server has it.

    ``status`` is ACTIVE when its host has all its ports, DEGRADED when it lacks subports.
    ``admin_up``: its subports may be changed.
    """

    id: str
    project_id: str
    name: str
    description: str
    port_id: str
    port_name: str
    server_name: str
    admin_up: bool
    status: str
    subports: tuple[Subport, ...]
    created_at: str


def create_trunk(context: Context, wanted: NewTrunk) -> Done[Trunk]:
    """Make a trunk of a port that nothing has yet.

    Conflict: the name is taken; the parent or a subport is in use; a tag is used twice.
    """
    name = checked_name("trunk", wanted.name)
    _check(wanted.subports)

    def work(writer: Writer) -> Trunk:
        parent = own_port(context, writer, wanted.parent)
        trunk_rows.refuse_as_parent(writer, parent)
        row = {
            "id": new_id(),
            "project_id": context.project_id,
            "name": name,
            "description": wanted.description,
            "port_id": parent["id"],
            "admin_up": int(wanted.admin_up),
            "created_at": now(),
        }
        if not writer.insert_if_free("trunks", row, _LIVE_NAME):
            raise _name_taken(name)
        trunk = writer.get("trunks", row["id"])
        _add(context, writer, trunk, wanted.subports)
        touch(writer, parent["network_id"], parent["id"])
        return trunk_from(writer, trunk)

    return change_one(context, "create", "trunk", name, asdict(wanted), work, trunk_from)


def list_trunks(context: Context) -> list[Trunk]:
    """The project's trunks, oldest first."""
    with read(context.cloud) as reader:
        rows = reader.all(
            "SELECT * FROM trunks WHERE deleted_at IS NULL AND project_id = ? ORDER BY rowid",
            context.project_id,
        )
        return [trunk_from(reader, row) for row in rows]


def show_trunk(context: Context, word: str) -> Trunk:
    """One trunk by name or id."""
    with read(context.cloud) as reader:
        return trunk_from(reader, _own(context, reader, word))


def set_trunk(context: Context, word: str, change: TrunkChange) -> Done[Trunk]:
    """Change a trunk; the host of its server is brought up to date, while the server runs.

    Conflict: the name is taken; a subport is in use, or its network is out of the host's reach; a
    tag is used twice; the trunk is disabled. NotFound: a port that is none of its subports.
    """
    if change == TrunkChange():
        raise UsageError("Nothing to change was given.", hint="stackctl trunk-set --help")
    _check(change.add)

    def work(writer: Writer) -> Trunk:
        trunk = _own(context, writer, word)
        writer.update("trunks", trunk["id"], **_columns(writer, trunk, change))
        trunk = writer.get("trunks", trunk["id"])
        if change.add or change.drop:
            _refuse_disabled(trunk)
            _drop(context, writer, trunk, change.drop)
            _add(context, writer, trunk, change.add)
        return trunk_from(writer, writer.get("trunks", trunk["id"]))

    done = change_one(context, "set", "trunk", word, asdict(change), work, trunk_from)
    return as_it_became(context, done, "trunk", trunk_from)


def delete_trunk(context: Context, word: str) -> Done[Trunk]:
    """Delete a trunk; its ports stay. Conflict while a server has its parent."""

    def work(writer: Writer) -> Trunk:
        trunk = _own(context, writer, word)
        _refuse_disabled(trunk)
        value = trunk_from(writer, trunk)
        parent = writer.get("ports", trunk["port_id"])
        if parent["device_id"]:
            raise Conflict(
                f"Trunk {trunk['name']} is currently in use: server {value.server_name} has its "
                f"parent port {value.port_name or value.port_id}.",
                hint=f"stackctl interface-detach {value.server_name} {value.port_id}",
            )
        _drop(context, writer, trunk, [subport.port_id for subport in value.subports])
        writer.update("trunks", trunk["id"], deleted_at=now())
        touch(writer, parent["network_id"], parent["id"])
        return value

    return change_one(context, "delete", "trunk", word, {}, work, trunk_from)


def trunk_from(reader: Reader, row: Row) -> Trunk:
    """The value of a ``trunks`` row."""
    parent = reader.get("ports", row["port_id"])
    subports = tuple(
        _subport_from(reader, each) for each in trunk_rows.subports_of(reader, row["id"])
    )
    sql = "SELECT name FROM servers WHERE id = ?"
    values = {name: row[name] for name in ("id", "project_id", "name", "description", "port_id")}
    return Trunk(
        **values,
        port_name=parent["name"],
        server_name=reader.value(sql, parent["device_id"]) or "",
        admin_up=bool(row["admin_up"]),
        status=_status(parent, subports),
        subports=subports,
        created_at=row["created_at"],
    )


def _status(parent: Row, subports: Sequence[Subport]) -> str:
    if parent["status"] != "ACTIVE":
        return "DOWN"
    return "ACTIVE" if all(each.status == "ACTIVE" for each in subports) else "DEGRADED"


def _subport_from(reader: Reader, row: Row) -> Subport:
    held = reader.column(
        "SELECT address FROM addresses WHERE port_id = ? AND released_serial IS NULL ORDER BY id",
        row["port_id"],
    )
    return Subport(
        port_id=row["port_id"],
        name=row["name"],
        segmentation_id=row["segmentation_id"],
        mac=row["mac"],
        network_name=reader.get("networks", row["network_id"])["name"],
        addresses=tuple(held),
        status=row["status"],
    )


def _own(context: Context, reader: Reader, word: str) -> Row:
    return find_own(context, reader, "trunks", word, noun="trunk")


def _columns(reader: Reader, trunk: Row, change: TrunkChange) -> dict[str, object]:
    values: dict[str, object] = {"version": trunk["version"] + 1}
    if change.name is not None and change.name != trunk["name"]:
        values["name"] = checked_name("trunk", change.name)
        taken = "SELECT 1 FROM trunks WHERE project_id = ? AND name = ? AND deleted_at IS NULL"
        if reader.value(taken, trunk["project_id"], change.name):
            raise _name_taken(change.name)
    if change.description is not None:
        values["description"] = change.description
    if change.admin_up is not None:
        values["admin_up"] = int(change.admin_up)
    return values


def _check(subports: Sequence[NewSubport]) -> None:
    for each in subports:
        if each.segmentation_type != "vlan":
            raise UsageError(
                f"Unknown segmentation_type '{each.segmentation_type}': vlan is known."
            )
        if each.segmentation_id not in SEGMENTATION_IDS:
            raise UsageError(
                f"Segmentation ID '{each.segmentation_id}' is not in range: 1 to 4094 are."
            )


def _add(context: Context, writer: Writer, trunk: Row, subports: Sequence[NewSubport]) -> None:
    for each in subports:
        port = own_port(context, writer, each.port)
        trunk_rows.refuse_as_subport(writer, trunk, port)
        trunk_rows.refuse_taken_tag(writer, trunk, each.segmentation_id)
        subport = {"trunk_id": trunk["id"], "port_id": port["id"]}
        writer.insert("trunk_subports", {**subport, "segmentation_id": each.segmentation_id})
        owner = trunk_rows.SUBPORT_OWNER
        writer.update("ports", port["id"], device_owner=owner, version=port["version"] + 1)
        _bind_like_parent(writer, trunk, port)
        touch(writer, port["network_id"], port["id"])


def _bind_like_parent(writer: Writer, trunk: Row, port: Row) -> None:
    """Where the parent is, its subports are: on two hosts while its server moves."""
    network = writer.get("networks", port["network_id"])
    label = port["name"] or port["id"]
    refusal = f"Port {label} cannot be a subport of trunk {trunk['name']}"
    for bound in writer.all("SELECT * FROM bindings WHERE port_id = ?", trunk["port_id"]):
        refuse_out_of_reach(writer, bound["host_id"], network, refusal)
        bind_port(writer, port["id"], bound["host_id"], bound["role"])


def _drop(context: Context, writer: Writer, trunk: Row, words: Sequence[str]) -> None:
    for word in words:
        port = own_port(context, writer, word)
        row = trunk_rows.subport_in(writer, trunk, port)
        for host_id in writer.column("SELECT host_id FROM bindings WHERE port_id = ?", port["id"]):
            unbind_port(writer, port["id"], host_id)
        writer.run("DELETE FROM trunk_subports WHERE port_id = ?", row["port_id"])
        free = {"device_owner": "", "status": "DOWN", "version": port["version"] + 1}
        writer.update("ports", port["id"], **free)
        touch(writer, port["network_id"], port["id"])


def _refuse_disabled(trunk: Row) -> None:
    if not trunk["admin_up"]:
        raise Conflict(
            f"Trunk {trunk['name']} is currently disabled: its subports stay as they are.",
            hint=f"stackctl trunk-set {trunk['name']} --enable",
        )


def _name_taken(name: str) -> Conflict:
    return Conflict(f"There is a trunk called '{name}' already.", hint="stackctl trunk-list")
