"""Another flavor for a server, on the host where it is: tried, then confirmed or reverted."""

from __future__ import annotations

import json

from stackctl.compute import volume_rows
from stackctl.compute.capacity import candidates
from stackctl.compute.commanding import command
from stackctl.compute.disks import add_disk, disks_of, drop_disk
from stackctl.compute.hardware import resized, wish_of
from stackctl.compute.resolving import root_disk_gb
from stackctl.compute.types import GIB, Server
from stackctl.errors import Conflict, NoCapacity
from stackctl.identity.context import Context
from stackctl.identity.quota import require
from stackctl.operation import Done
from stackctl.state import Reader, Row, Writer, find

SIZES = (
    *("flavor_id", "flavor_name", "vcpus", "ram_mb", "disk_gb", "ephemeral_gb", "swap_mb"),
    "hardware_json",
)

_ANEW = "stackctl delete {server}   (boot one of the other flavor from volume {volume} then)"


def resize(context: Context, word: str, flavor: str) -> Done[Server]:
    """Give a server another flavor: its guest is shut down, its disks are copied and grown, and it
    starts with the copies. The old disks stay until ``confirm`` or ``revert``.

    Conflict: a disk would shrink, or the flavor is too small for the image. NoCapacity: the host.
    """

    def prepare(writer: Writer, server: Row) -> Row:
        volume_rows.refuse_root(writer, server, "resize", _ANEW)
        new = _sizes(writer, server, find(writer, "flavors", flavor, noun="flavor"))
        _refuse_too_much(context, writer, server, new)
        before = {name: server[name] for name in SIZES}
        before["disks"] = [disk["id"] for disk in disks_of(writer, server["id"])]
        for disk in disks_of(writer, server["id"]):
            _grow(writer, disk, new)
        _add_lacking(writer, server, new)
        return new | {"before_resize_json": json.dumps(before), "kept_state": "resized"}

    return _one(command(context, "resize", [word], {"flavor": flavor}, prepare))


def confirm(context: Context, word: str) -> Done[Server]:
    """Keep a resized server as it is now; its old disks go."""

    def prepare(writer: Writer, server: Row) -> Row:
        for disk in disks_of(writer, server["id"]):
            if disk["aside"]:
                drop_disk(writer, disk)
        return {"before_resize_json": None, "kept_state": None}

    return _one(command(context, "confirm-resize", [word], {}, prepare))


def revert(context: Context, word: str) -> Done[Server]:
    """Give a resized server its old flavor and disks back; what it wrote since then goes."""

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
    names = ("vcpus", "ram_mb", "ephemeral_gb", "swap_mb")
    sizes = {name: flavor[name] for name in names} | {"disk_gb": disk_gb}
    image = reader.get("images", server["image_id"]) if server["image_id"] else None
    hardware = resized(json.loads(server["hardware_json"]), wish_of(image, flavor))
    sizes["hardware_json"] = json.dumps(hardware, sort_keys=True)
    return sizes | {"flavor_id": flavor["id"], "flavor_name": flavor["name"]}


def _refuse_too_much(context: Context, reader: Reader, server: Row, new: Row) -> None:
    """The project's quota and the server's own host must have what is more than before."""
    more = {name: new[name] - server[name] for name in ("vcpus", "ram_mb")}
    require(reader, context.project_id, "cores", max(0, more["vcpus"]))
    require(reader, context.project_id, "ram_mb", max(0, more["ram_mb"]))
    host = next(each for each in candidates(reader) if each.id == server["host_id"])
    # Until it is confirmed the disks are there twice.
    more["disk_gb"] = new["disk_gb"] + new["ephemeral_gb"] + -(-new["swap_mb"] // 1024)
    free = {"vcpus": host.vcpus_free, "ram_mb": host.ram_mb_free, "disk_gb": host.disk_gb_free}
    words = {"vcpus": "VCPUs", "ram_mb": "MB of memory", "disk_gb": "GB of disk"}
    lacking = [
        f"{more[name]} more {words[name]}, {free[name]:g} are free"
        for name in more
        if more[name] > max(0, free[name])
    ]
    if lacking:
        raise NoCapacity(
            f"Host {host.name} has no room for {server['name']} as {new['flavor_name']}: it needs "
            f"{'; '.join(lacking)}. Nothing was changed.",
            hint="stackctl host-list   (what each host has and has given)",
        )


def _grow(writer: Writer, disk: Row, new: Row) -> None:
    """Set a disk aside; a larger copy takes its place (swap: an empty one, or none)."""
    writer.update("disks", disk["id"], aside=1, version=disk["version"] + 1)
    if disk["kind"] == "swap":
        return
    size = new["disk_gb"] if disk["kind"] == "root" else new["ephemeral_gb"]
    add_disk(writer, disk, size_bytes=size * GIB, source_id=disk["id"])


def _add_lacking(writer: Writer, server: Row, new: Row) -> None:
    """An ephemeral disk that it did not have, and its swap."""
    disks = disks_of(writer, server["id"])
    here = next(disk for disk in disks if not disk["aside"])
    position = max(disk["position"] for disk in disks if not disk["aside"])
    wanted = (
        ("ephemeral", 0 if server["ephemeral_gb"] else new["ephemeral_gb"] * GIB),
        ("swap", new["swap_mb"] * 1024**2),
    )
    for kind, size_bytes in wanted:
        if size_bytes:
            position += 1
            add_disk(
                writer, here, kind=kind, position=position, size_bytes=size_bytes, image_id=None
            )
