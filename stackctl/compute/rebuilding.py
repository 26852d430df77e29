"""A server's root disk made anew, and a disk to boot from while the old one is looked at."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from stackctl.compute import lifecycle, volume_rows
from stackctl.compute.booking import engine_of, store_blob, store_vendor_data
from stackctl.compute.commanding import command
from stackctl.compute.disks import (
    NVRAM,
    RESCUE_POSITION,
    add_disk,
    add_variables,
    disks_of,
    drop_disk,
)
from stackctl.compute.hardware import display_wanted
from stackctl.compute.resolving import keypair_row, refuse_long_user_data, root_disk_gb
from stackctl.compute.sayings import with_properties
from stackctl.compute.settings import refuse_taken
from stackctl.compute.types import GIB, Server
from stackctl.compute.vendor_data import vendor_data_of
from stackctl.errors import Conflict
from stackctl.identity.context import Context
from stackctl.image.service import usable_image
from stackctl.image.states import require_active
from stackctl.names import checked_name
from stackctl.operation import Done
from stackctl.state import Reader, Row, Writer

_ANOTHER = "stackctl volume-create NAME --image IMAGE   (another server can boot from that one)"
_ELSEWHERE = "stackctl delete {server}   (volume {volume} can then be attached to another server)"


@dataclass(frozen=True)
class Rebuild:
    """What a server shall be made of; None keeps what it has. Properties are added to its own."""

    image: str | None = None
    name: str | None = None
    key_name: str | None = None
    user_data: bytes | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    preserve_ephemeral: bool = False


def rebuild(context: Context, word: str, wanted: Rebuild) -> Done[Server]:
    """Make a server anew: same id, host, ports and addresses, a new root disk from an image.

    What is on its disks dies. Conflict: the image does not fit, or is not there any more.
    """
    refuse_long_user_data(wanted.user_data)
    if wanted.name is not None:
        checked_name("server", wanted.name)

    def prepare(writer: Writer, server: Row) -> Row:
        volume_rows.refuse_root(writer, server, "rebuild", _ANOTHER)
        lifecycle.refuse_undecided(server, "rebuild")
        image = _image(context, writer, server, wanted.image)
        root_disk_gb(image, server)
        for disk in disks_of(writer, server["id"]):
            _renew(writer, disk, image, wanted)
        host = writer.get("hosts", server["host_id"])
        everybody = context.cloud.config["vnc"]
        vnc = display_wanted(server["vnc_asked"], image, everybody)
        values = engine_of(image, host, server, vnc)
        values |= {"image_id": image["id"]}
        values |= {"rescue_image_id": None, "kept_state": None}
        values["vendor_data_sha256"] = store_vendor_data(writer, vendor_data_of(context.cloud))
        if json.loads(values["hardware_json"]).get(NVRAM):
            add_variables(writer, server)
        return values | _said_anew(context, writer, server, wanted)

    done = command(context, "rebuild", [word], _arguments(wanted), prepare)
    return done.with_value(done.value[0])


def rescue(context: Context, word: str, image: str | None = None) -> Done[Server]:
    """Boot a server from a disk made for it (of its own image, or another one); its own disks
    come after it and are left as they are."""

    def prepare(writer: Writer, server: Row) -> Row:
        volume_rows.refuse_root(writer, server, "rescue", _ELSEWHERE)
        lifecycle.refuse_undecided(server, "rescue")
        if server["launched_at"] is None:
            raise Conflict(
                f"Cannot 'rescue' instance {server['name']}: it never ran. Nothing was done."
            )
        chosen = _image(context, writer, server, image)
        if server["ram_mb"] < chosen["min_ram_mb"]:
            raise Conflict(
                f"Instance {server['name']} has too little memory for the image: "
                f"{server['ram_mb']} MB, {chosen['name']} needs {chosen['min_ram_mb']} MB."
            )
        root = next(disk for disk in disks_of(writer, server["id"]) if disk["kind"] == "root")
        size = max(1, -(-chosen["virtual_size_bytes"] // GIB)) * GIB
        _drop_rescue_disks(writer, server)
        add_disk(writer, root, position=RESCUE_POSITION, image_id=chosen["id"], size_bytes=size)
        return {"rescue_image_id": chosen["id"], "kept_state": "rescued"}

    done = command(context, "rescue", [word], {"image": image}, prepare)
    return done.with_value(done.value[0])


def unrescue(context: Context, word: str) -> Done[Server]:
    """Boot a server from its own disk again; the rescue disk goes."""

    def prepare(writer: Writer, server: Row) -> Row:
        if server["rescue_image_id"] is None:
            raise Conflict(f"Cannot 'unrescue' instance {server['name']}: it is not in rescue.")
        _drop_rescue_disks(writer, server)
        return {"rescue_image_id": None, "kept_state": None}

    done = command(context, "unrescue", [word], {}, prepare)
    return done.with_value(done.value[0])


def _image(context: Context, reader: Reader, server: Row, word: str | None) -> Row:
    if not word and server["image_id"] is None:
        raise Conflict(
            f"Server {server['name']} is made of no image: say of which one. Nothing was changed.",
            hint=f"stackctl show {server['name']}",
        )
    image = usable_image(context, reader, word or server["image_id"])
    require_active(image)
    if image["disk_format"] in ("aki", "ari"):
        raise Conflict(f"Image {image['name']} is no disk: its format is {image['disk_format']}.")
    return image


def _renew(writer: Writer, disk: Row, image: Row, wanted: Rebuild) -> None:
    """A new incarnation of a disk; a rescue disk goes, ephemeral ones may stay. UEFI variables go:
    whether it has others, its new image says."""
    if disk["kind"] == "ephemeral" and wanted.preserve_ephemeral:
        return
    drop_disk(writer, disk)
    if disk["position"] == RESCUE_POSITION or disk["kind"] == NVRAM:
        return
    of_image = {"image_id": image["id"]} if disk["kind"] == "root" else {}
    add_disk(writer, disk, **of_image)


def _drop_rescue_disks(writer: Writer, server: Row) -> None:
    for disk in disks_of(writer, server["id"]):
        if disk["position"] == RESCUE_POSITION:
            drop_disk(writer, disk)


def _said_anew(context: Context, writer: Writer, server: Row, wanted: Rebuild) -> Row:
    values: Row = {}
    if wanted.name not in (None, server["name"]):
        refuse_taken(writer, server, str(wanted.name))
        values["name"] = wanted.name
    if wanted.key_name is not None:
        key = keypair_row(context, writer, wanted.key_name)
        others = json.loads(server["public_keys_json"])
        kept = [each for each in others if each["name"] != server["key_name"]]
        keys = [{"name": key["name"], "key": key["public_key"]}, *kept]
        values |= {"key_name": key["name"], "public_keys_json": json.dumps(keys)}
    if wanted.user_data is not None:
        values["user_data_sha256"] = store_blob(writer, wanted.user_data)
    if wanted.properties:
        before = json.loads(server["metadata_json"])
        values["metadata_json"] = json.dumps(with_properties(before, wanted.properties))
    return values


def _arguments(wanted: Rebuild) -> Row:
    plain = dataclasses.asdict(wanted)
    if wanted.user_data is not None:
        plain["user_data"] = hashlib.sha256(wanted.user_data).hexdigest()
    return plain
