"""Another flavor for a server: tried, then confirmed or reverted.

It stays on its host when that has room, and goes to another one otherwise (see ``migrating``).
"""

from __future__ import annotations

import json

from stackctl.compute import lifecycle, volume_rows
from stackctl.compute.capacity import candidates
from stackctl.compute.commanding import command
from stackctl.compute.disks import disks_of, drop_disk
from stackctl.compute.hardware import resized, wish_of
from stackctl.compute.moves import migrating
from stackctl.compute.placing import NoValidHost
from stackctl.compute.resolving import root_disk_gb
from stackctl.compute.types import SIZES, Server
from stackctl.compute.views import server_row
from stackctl.errors import Conflict, NoCapacity
from stackctl.identity.context import Context
from stackctl.identity.quota import require
from stackctl.operation import Done
from stackctl.operation.server_moves import set_status
from stackctl.state import Reader, Row, Writer, find, read

_ANEW = "stackctl delete {server}   (boot one of the other flavor from volume {volume} then)"


def resize(context: Context, word: str, flavor: str, host_word: str | None = None) -> Done[Server]:
    """Give a server another flavor: its guest is shut down, its disks are copied and grown, and it
    starts with the copies. The old disks stay until ``confirm`` or ``revert``.

    Without room on its own host it goes to the best other one; or to the host that is named.
    Conflict: a disk would shrink, or the flavor is too small for the image. NoCapacity: no host.
    """
    arguments = {"flavor": flavor, "host": host_word}
    with read(context.cloud) as reader:
        elsewhere = _goes_elsewhere(context, reader, word, flavor, host_word)
    if elsewhere:

        def sizes(writer: Writer, server: Row) -> Row:
            volume_rows.refuse_root(writer, server, "resize", _ANEW)
            return _new_sizes(context, writer, server, flavor)

        try:
            return migrating.move(context, "resize", word, arguments, host_word, sizes)
        except NoValidHost as error:
            raise _no_room_anywhere(context, word, flavor, error) from None

    def prepare(writer: Writer, server: Row) -> Row:
        volume_rows.refuse_root(writer, server, "resize", _ANEW)
        lifecycle.refuse_undecided(server, "resize")
        new = _new_sizes(context, writer, server, flavor)
        _refuse_too_much(writer, server, new)
        before = {name: server[name] for name in SIZES}
        before["disks"] = [disk["id"] for disk in disks_of(writer, server["id"])]
        migrating.copy_disks(writer, server, new, server["host_id"])
        return new | {"before_resize_json": json.dumps(before), "kept_state": "resized"}

    return _one(command(context, "resize", [word], arguments, prepare))


def confirm(context: Context, word: str) -> Done[Server]:
    """Keep a resized or moved server as it is now; its old disks go."""

    def prepare(writer: Writer, server: Row) -> Row:
        migration = migrating.left_behind(writer, server)
        if migration is not None:
            set_status(writer, migration, "confirmed", claim_host_id=None)
        for disk in disks_of(writer, server["id"]):
            if disk["aside"]:
                drop_disk(writer, disk)
        return {"before_resize_json": None, "kept_state": None}

    return _one(command(context, "confirm-resize", [word], {}, prepare))


def revert(context: Context, word: str) -> Done[Server]:
    """Give a resized server its old flavor and disks back; what it wrote since then goes.

    One that was moved goes back to the host where they are.
    """
    with read(context.cloud) as reader:
        moved = migrating.left_behind(reader, server_row(context, reader, word))
    if moved is not None:
        return migrating.move_back(context, word)

    def prepare(writer: Writer, server: Row) -> Row:
        if server["before_resize_json"] is None:
            raise Conflict(f"Cannot 'revert-resize' instance {server['name']}: it was not resized.")
        before = json.loads(server["before_resize_json"])
        ids = before.pop("disks")
        for disk in disks_of(writer, server["id"]):
            if disk["id"] in ids:
                writer.update("disks", disk["id"], aside=0, version=disk["version"] + 1)
            else:
                drop_disk(writer, disk)
        return {**before, "before_resize_json": None, "kept_state": None}

    return _one(command(context, "revert-resize", [word], {}, prepare))


def _one(done: Done[list[Server]]) -> Done[Server]:
    return done.with_value(done.value[0])


def _goes_elsewhere(
    context: Context, reader: Reader, word: str, flavor: str, host_word: str | None
) -> bool:
    """Whether a server gets its new flavor on another host: one that is named, or for want of room.

    What is not allowed at all is refused where it stays.
    """
    server = server_row(context, reader, word)
    if host_word is not None:
        return bool(find(reader, "hosts", host_word, noun="host")["id"] != server["host_id"])
    if server["host_id"] is None or server["host_asked"] is not None:
        return False
    row = find(reader, "flavors", flavor, noun="flavor")
    return row["id"] != server["flavor_id"] and bool(_lacking(reader, server, row))


def _new_sizes(context: Context, reader: Reader, server: Row, flavor: str) -> Row:
    """The columns of a flavor that fits: no disk smaller than now, none too small for the image,
    no more than the project may have."""
    new = _sizes(reader, server, find(reader, "flavors", flavor, noun="flavor"))
    for name in ("vcpus", "ram_mb"):
        more = max(0, new[name] - server[name])
        require(reader, context.project_id, "cores" if name == "vcpus" else name, more)
    return new


def _sizes(reader: Reader, server: Row, flavor: Row) -> Row:
    """The columns of a flavor that fits: no disk smaller than now, none too small for the image."""
    if flavor["id"] == server["flavor_id"]:
        raise Conflict(
            f"When resizing, instances must change flavor: {server['name']} is {flavor['name']}."
        )
    disk_gb = flavor["disk_gb"] or server["disk_gb"]
    if disk_gb < server["disk_gb"] or flavor["ephemeral_gb"] < server["ephemeral_gb"]:
        raise Conflict(
            f"Resize to flavor {flavor['name']} would shrink a disk of {server['name']}: it has "
            f"{server['disk_gb']} GB (ephemeral {server['ephemeral_gb']} GB), the flavor "
            f"{disk_gb} GB (ephemeral {flavor['ephemeral_gb']} GB). Nothing was changed."
        )
    if server["image_id"] is not None:
        root_disk_gb(reader.get("images", server["image_id"]), flavor | {"disk_gb": disk_gb})
    names = ("vcpus", "ram_mb", "ephemeral_gb", "swap_mb", "extra_specs_json")
    sizes = {name: flavor[name] for name in names} | {"disk_gb": disk_gb}
    image = reader.get("images", server["image_id"]) if server["image_id"] else None
    hardware = resized(json.loads(server["hardware_json"]), wish_of(image, flavor))
    sizes["hardware_json"] = json.dumps(hardware, sort_keys=True)
    return sizes | {"flavor_id": flavor["id"], "flavor_name": flavor["name"]}


def _no_room_anywhere(context: Context, word: str, flavor: str, error: NoValidHost) -> NoCapacity:
    """What is said when neither its own host nor another one can take it."""
    with read(context.cloud) as reader:
        server = server_row(context, reader, word)
        lacking = _lacking(reader, server, find(reader, "flavors", flavor, noun="flavor"))
        host = reader.get("hosts", server["host_id"])["name"]
    own = f"{host}, where it is: it needs {'; '.join(lacking)}. " if lacking else ""
    return NoValidHost(f"{own}{error.message}", error.decisions)


def _refuse_too_much(reader: Reader, server: Row, new: Row) -> None:
    """The server's own host must have what is more than before."""
    lacking = _lacking(reader, server, new)
    if lacking:
        host = reader.get("hosts", server["host_id"])["name"]
        raise NoCapacity(
            f"Host {host} has no room for {server['name']} as {new['flavor_name']}: it needs "
            f"{'; '.join(lacking)}. Nothing was changed.",
            hint="stackctl host-list   (what each host has and has given)",
        )


def _lacking(reader: Reader, server: Row, new: Row) -> list[str]:
    """What its own host lacks for a server of other sizes, with the numbers."""
    host = next(each for each in candidates(reader) if each.id == server["host_id"])
    more = {name: new[name] - server[name] for name in ("vcpus", "ram_mb")}
    # Until it is confirmed the disks are there twice.
    more["disk_gb"] = new["disk_gb"] + new["ephemeral_gb"] + -(-new["swap_mb"] // 1024)
    free = {"vcpus": host.vcpus_free, "ram_mb": host.ram_mb_free, "disk_gb": host.disk_gb_free}
    words = {"vcpus": "VCPUs", "ram_mb": "MB of memory", "disk_gb": "GB of disk"}
    return [
        f"{more[name]} more {words[name]}, {free[name]:g} are free"
        for name in more
        if more[name] > max(0, free[name])
    ]
