"""What is said about a server: its name, properties and tags, its lock, its state."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from stackctl.compute import lifecycle
from stackctl.compute.hardware import wish_of, with_display
from stackctl.compute.types import Server, ServerChange
from stackctl.compute.views import server_row, servers_by_id
from stackctl.errors import Conflict, HostUnreachable, PartlyDone, UsageError
from stackctl.identity.context import Context, named
from stackctl.names import checked_name, refuse_control_characters
from stackctl.operation import Done
from stackctl.operation.resource import change_one
from stackctl.operation.shelving import OFFLOADED
from stackctl.state import Reader, Row, Writer, now

MAX_PROPERTIES = 128
MAX_TAGS = 50
PROPERTY_LIMIT = 255
TAG_LIMIT = 60
REASON_LIMIT = 255


def lock_server(context: Context, word: str, reason: str = "") -> Done[Server]:
    """Have a server refuse whatever would change or delete it, until it is unlocked."""
    refuse_control_characters("reason of a lock", reason)
    if len(reason) > REASON_LIMIT:
        raise UsageError(f"The reason of a lock has at most {REASON_LIMIT} characters.")
    return _write(context, "lock", word, {"reason": reason}, {"locked": 1, "lock_reason": reason})


def unlock_server(context: Context, word: str) -> Done[Server]:
    """Take a server's lock away; well if it had none."""
    return _write(context, "unlock", word, {}, {"locked": 0, "lock_reason": ""})


def reset_state(context: Context, word: str, vm_state: str = "error") -> Done[Server]:
    """Say that a server is ``error`` or ``active`` and that nothing goes on with it.

    Only what the database says: the next convergence of its host says what really is.
    """
    values: Row = {"vm_state": vm_state, "task_state": None}
    if vm_state == "active":
        values["fault_json"] = None
    else:
        fault = {"message": "said so by reset-state", "detail": "", "command": "", "host": ""}
        values["fault_json"] = json.dumps({**fault, "at": now()})
    return _write(context, "reset-state", word, {"state": vm_state}, values)


def set_server(context: Context, word: str, change: ServerChange) -> Done[Server]:
    """Give a server another name, other properties or tags. Its host name in its networks stays.

    The guest sees name and properties on its config drive, and its display, after the next hard
    reboot. Conflict: the name is taken, or its state does not allow it.
    """
    arguments = dataclasses.asdict(change)
    if change == ServerChange():
        raise UsageError("Nothing to change was given.", hint="stackctl server-set --help")
    _check(change)

    def work(writer: Writer) -> Server:
        server = server_row(context, writer, word)
        if change != ServerChange(name=change.name):
            lifecycle.require(server, "set")
        lifecycle.require(server, "rename")
        if change.name not in (None, server["name"]):
            refuse_taken(writer, server, str(change.name))
        values = _columns(server, change)
        if change.vnc is not None:
            values |= _display(writer, server, change.vnc)
        writer.update("servers", server["id"], **values, version=server["version"] + 1)
        # Its host's spec has the name and the properties, for the config drive.
        writer.change.servers.add(server["id"])
        return _told(writer, server["id"])

    done = change_one(context, "set", "server", word, arguments, work, _again)
    done.failures = [
        dataclasses.replace(
            each,
            error=PartlyDone,
            message=f"{each.message} The change is kept; the host is told when it is converged.",
        )
        if each.error is HostUnreachable
        else each
        for each in done.failures
    ]
    return done


def refuse_taken(reader: Reader, server: Row, name: str) -> None:
    """Conflict when another server of the project has this name."""
    taken = named(reader, "servers", server["project_id"], name)
    if taken is not None:
        raise Conflict(
            f"There is already a server called {name} ({taken['id']}). {server['name']} keeps its "
            "name."
        )


def _write(context: Context, action: str, word: str, arguments: Row, values: Row) -> Done[Server]:
    """Set columns that no host knows of."""

    def work(writer: Writer) -> Server:
        server = server_row(context, writer, word)
        if "vm_state" in values:
            _refuse_shelved(server)
        writer.update("servers", server["id"], **values)
        return _told(writer, server["id"])

    return change_one(context, action, "server", word, arguments, work, _again)


def _refuse_shelved(server: Row) -> None:
    """A server that is on no host has no other state than what its image makes of it."""
    if server["kept_state"] == OFFLOADED:
        raise Conflict(
            f"Instance {server['name']} is shelved, on no host: there is no other state that it "
            "could be in. Nothing was changed.",
            hint=f"stackctl unshelve {server['name']}",
        )


def _told(reader: Reader, server_id: str) -> Server:
    return servers_by_id(reader, [server_id])[0]


def _again(reader: Reader, row: Row) -> Server:
    return _told(reader, row["id"])


def _columns(server: Row, change: ServerChange) -> Row:
    values: Row = {}
    if change.name is not None:
        values["name"] = change.name
    if change.properties:
        properties = {**json.loads(server["metadata_json"]), **change.properties}
        kept = {key: value for key, value in properties.items() if value != ""}
        _refuse_too_many("properties", kept, MAX_PROPERTIES)
        values["metadata_json"] = json.dumps(kept)
    if change.add_tags or change.remove_tags:
        tags = {*json.loads(server["tags_json"]), *change.add_tags} - {*change.remove_tags}
        _refuse_too_many("tags", tags, MAX_TAGS)
        values["tags_json"] = json.dumps(sorted(tags))
    return values


def _display(reader: Reader, server: Row, vnc: bool) -> Row:
    image = reader.get("images", server["image_id"]) if server["image_id"] else None
    before = json.loads(server["hardware_json"])
    hardware = with_display(before, wish_of(image, server, vnc))
    return {"vnc_asked": int(vnc), "hardware_json": json.dumps(hardware, sort_keys=True)}


def _refuse_too_many(noun: str, kept: Mapping[str, str] | set[str], most: int) -> None:
    if len(kept) > most:
        raise UsageError(f"A server has at most {most} {noun}; these would be {len(kept)}.")


def _check(change: ServerChange) -> None:
    if change.name is not None:
        checked_name("server", change.name)
    for key, value in change.properties.items():
        _check_text("property", key, PROPERTY_LIMIT)
        _check_text(f"value of {key}", value, PROPERTY_LIMIT, empty=True)
    for tag in (*change.add_tags, *change.remove_tags):
        _check_text("tag", tag, TAG_LIMIT)
        if "," in tag or "/" in tag:
            raise UsageError(f"'{tag}' cannot be a tag: no commas and slashes.")


def _check_text(what: str, text: str, most: int, *, empty: bool = False) -> None:
    refuse_control_characters(what, text)
    if len(text) > most or not (text or empty):
        raise UsageError(f"A {what} has between 1 and {most} characters.")
