"""The rows of volumes that servers have: their devices, and what becomes of them with a server."""

from __future__ import annotations

import re

from stackctl.errors import Conflict, UsageError
from stackctl.operation import volume_keepers as keeping
from stackctl.operation.volume_reports import FREE
from stackctl.state import Reader, Row, Writer

PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd", "usb": "sd"}
LETTERS = "abcdefghijklmnopqrstuvwxy"
"""The last one is the config drive's."""

IDE_LETTERS = "abc"
"""Two channels of two, and the last one is the config drive's."""

DEVICE = re.compile(r"(?:/dev/)?([hsv]d[a-y])")


def of_server(reader: Reader, server_id: str) -> list[Row]:
    """The volumes of a server in the order of their devices."""
    return reader.all(
        "SELECT * FROM volumes WHERE server_id = ? AND deleted_at IS NULL ORDER BY device",
        server_id,
    )


def update(writer: Writer, volume: Row, **values: object) -> None:
    """The row is another one: what its host reports of the old one is not written."""
    version = volume["version"] + 1
    writer.update("volumes", volume["id"], version=version, **values)
    writer.change.volumes.add(volume["id"])


def is_root(volume: Row) -> bool:
    """Whether a server boots from it."""
    return str(volume["device"]).endswith("a")


def refuse_root(reader: Reader, server: Row, action: str, hint: str) -> None:
    """Conflict for what is done to a server's root disk when that is a volume."""
    for volume in of_server(reader, server["id"]):
        if is_root(volume):
            raise Conflict(
                f"Cannot '{action}' instance {server['name']}: it boots from volume "
                f"{volume['name']}, and has no root disk of its own. Nothing was done.",
                hint=hint.format(server=server["name"], volume=volume["name"]),
            )


def tie(reader: Reader, server_id: str) -> Row | None:
    """A volume of a server that keeps it on its host, since no other one reaches it: one that is
    there before one that is still to be made."""
    rows = sorted(of_server(reader, server_id), key=lambda row: not row["built"])
    tied = (row for row in rows if row["host_id"] is not None)
    return next((row for row in tied if not keeping.is_shared(reader, row)), None)


def at_work(reader: Reader, server_id: str) -> Row | None:
    """A shared volume of a server that its host has still to do with."""
    shared = (row for row in of_server(reader, server_id) if keeping.is_shared(reader, row))
    return next((row for row in shared if not keeping.may_move(reader, row)), None)


def types_of(reader: Reader, server_id: str) -> frozenset[str]:
    """The types of its volumes, by id: what a host needs to have for it."""
    return frozenset(row["type_id"] for row in of_server(reader, server_id) if row["type_id"])


def be_root(writer: Writer, volume: Row, server: Row) -> None:
    """A new server boots from a volume; one without a place gets the server's."""
    if volume["host_id"] is not None:
        volume = keeping.give_to(writer, volume, server["host_id"])
    device = f"{PREFIXES[server['disk_bus']]}a"
    place = {"host_id": server["host_id"], "server_id": server["id"], "device": device}
    update(writer, volume, status="attaching", **place)


def let_go(writer: Writer, server: Row) -> None:
    """The volumes of a server that is deleted: free when its domain is gone, or deleted with it."""
    # Loaded late: it brings all that images can do, which most commands to servers do not need.
    from stackctl.volume import service

    for volume in of_server(writer, server["id"]):
        if volume["host_id"] is not None:
            volume = keeping.past_the_fence(writer, volume)
        if volume["delete_on_termination"]:
            service.bury(writer, volume)
        else:
            update(writer, volume, status="detaching", held=0)


def give_back(writer: Writer, server_id: str) -> None:
    """The volumes of a server that no host has heard of are free at once."""
    for volume in of_server(writer, server_id):
        place = volume["host_id"] if volume["built"] else None
        update(writer, volume, **{**FREE, "status": "available", "host_id": place})


def try_again(writer: Writer, server_id: str) -> None:
    """A server was named again: what of its volumes could not be made is tried once more."""
    for volume in of_server(writer, server_id):
        if volume["held"]:
            from stackctl.volume import service

            service.try_again(writer, volume)


def move_unbuilt(writer: Writer, server_id: str, host_id: str) -> None:
    """The volumes of a server that no host has heard of, or that its host has lost, go along with
    it to another host: those that are not made yet, and shared ones."""
    for volume in of_server(writer, server_id):
        if not volume["built"]:
            update(writer, volume, host_id=host_id)
    keeping.follow(writer, server_id, host_id)


def device_for(reader: Reader, server: Row, asked: str | None) -> str:
    """The device that was asked for, or the first free one of the server's disk bus."""
    prefix = PREFIXES[server["disk_bus"]]
    disks = reader.value(
        "SELECT count(*) FROM disks WHERE server_id = ? AND deleted_at IS NULL AND aside = 0 "
        "AND kind <> 'nvram'",
        server["id"],
    )
    volumes = {row["device"] for row in of_server(reader, server["id"])}
    # Its disks have the first ones that volumes leave.
    letters = IDE_LETTERS if server["disk_bus"] == "ide" else LETTERS
    names = [f"{prefix}{letter}" for letter in letters]
    free = [name for name in names if name not in volumes][disks:]
    if not free:
        count = len(volumes) + disks
        raise Conflict(f"Server {server['name']} has {count} disks: no more are possible.")
    if asked is None or asked == "auto":
        return free[0]
    match = DEVICE.fullmatch(asked)
    if match is None or match[1] not in names:
        raise UsageError(
            f"The device name supplied ({asked}) is invalid: disks of server {server['name']} are "
            f"/dev/{names[0]} to /dev/{names[-1]}."
        )
    if match[1] not in free:
        raise Conflict(
            f"The supplied device path (/dev/{match[1]}) is in use; /dev/{free[0]} is free."
        )
    return match[1]
