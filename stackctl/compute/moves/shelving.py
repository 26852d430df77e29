"""Servers that take no host's room for a while: their root disk is an image meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from stackctl.compute import lifecycle
from stackctl.compute.commanding import Before, command, give, note_server, take_back
from stackctl.compute.disks import disks_of
from stackctl.compute.hardware import has_nvram
from stackctl.compute.moves.rehousing import Homes, Wish, find_host, graves_of, move_in
from stackctl.compute.snapshots import asked_of, asked_of_variables, receive
from stackctl.compute.types import Server
from stackctl.compute.views import first_result, read_servers, server_row
from stackctl.errors import Conflict, ResourceFailed, StackctlError
from stackctl.identity.context import Context
from stackctl.image import captured
from stackctl.image.captured import Captured
from stackctl.image.types import Image
from stackctl.operation import Done, Operation, begin, shelving
from stackctl.operation.exchange import Exchange
from stackctl.state import Reader, Row, Writer, read


def shelve(context: Context, word: str, *, keep: bool = False) -> Done[Server]:
    """Switch a server off, make images of its root disk and of its UEFI variables, and free its
    host (``keep``: not yet).

    It keeps id, ports and addresses. Until the image is there it can only go on as before, and
    does when anything fails.
    """
    arguments = {"server": word, "keep": keep}
    with begin(context, "shelve", f"shelve {word}", arguments) as operation:
        if operation.repeated is not None:
            return _one(operation.again(lambda row: first_result(context, row)))
        operation.phase = "undo (its guest goes off, its disk is copied)"
        before = operation.transact(
            lambda writer: _switch_off(context, writer, operation, word), _remembered
        )
        exchanges = operation.converge()
        if context.dry_run:
            return _ended(operation, before)
        try:
            _require_off(context, before, exchanges)
            if has_nvram(before.server):
                _capture_variables(operation, before)
            if before.server["disk_gb"]:
                _capture(operation, before, keep=keep)
        except StackctlError as error:
            if not _has_image(context, before):
                _go_on_there(operation, before)
                captured.sweep(context)  # of what it would have been shelved as
                error.message = f"{error.message} Server {before.server['name']} is not shelved."
                raise
            # Its host fell silent with the last word, when the image was there.
            context.watch.warn(error.message)
        if not keep or not before.server["disk_gb"]:
            operation.phase = "converge"
            operation.transact(lambda writer: _put_away(context, writer, operation, before, keep))
        operation.converge()
        return _ended(operation, before)


def offload(context: Context, word: str) -> Done[Server]:
    """Free the host of a server that was shelved and kept there."""
    with begin(context, "shelve-offload", f"offload {word}", {"server": word}) as operation:
        if operation.repeated is not None:
            return _one(operation.again(lambda row: first_result(context, row)))
        with read(context.cloud) as reader:
            leave_out_fenced(operation, reader, server_row(context, reader, word)["host_id"])

        def work(writer: Writer) -> Before:
            server = server_row(context, writer, word)
            lifecycle.require(server, "shelve-offload")
            _let_go(context, writer, operation, server)
            return Before(server, [])

        before = operation.transact(work, lambda before: {"servers": [before.server["id"]]})
        operation.converge()
        return _ended(operation, before)


def unshelve(context: Context, word: str, wish: Wish | None = None) -> Done[Server]:
    """Give a shelved server a host and its root disk again, and start it; its image goes when the
    disk is there.

    Conflict: its volumes are files of another host. NoCapacity: no host has room. HostUnreachable,
    ResourceFailed: no disk could be made; it is shelved as before.
    """
    wish = wish or Wish()
    with read(context.cloud) as reader:
        server = server_row(context, reader, word)
    if server["vm_state"] == shelving.SHELVED:
        return _start_here(context, word, wish)
    arguments = {"server": word, "host": wish.host, "zone": wish.zone}
    with begin(context, "unshelve", f"unshelve {word}", arguments) as operation:
        if operation.repeated is not None:
            return _one(operation.again(lambda row: first_result(context, row)))
        with read(context.cloud) as reader:
            for host_id in graves_of(reader, server):
                operation.leave_out(host_id)  # what is left there goes when it is converged
        return _find_home(operation, word, wish)


def leave_out_fenced(operation: Operation, reader: Reader, host_id: str | None) -> None:
    """A fenced host learns of all when it returns."""
    if host_id is not None and reader.get("hosts", host_id)["fenced"]:
        operation.leave_out(host_id)


# --- shelve -------------------------------------------------------------------------------------


def _switch_off(context: Context, writer: Writer, operation: Operation, word: str) -> Before:
    server = server_row(context, writer, word)
    lost = [f"{server['ephemeral_gb']} GB of ephemeral disk"] if server["ephemeral_gb"] else []
    lost += [f"{server['swap_mb']} MB of swap"] if server["swap_mb"] else []
    give(context, writer, operation.id, "shelve", server)
    if lost:
        context.watch.warn(
            f"Only the root disk of {server['name']} is kept: its {' and '.join(lost)} will be "
            "made anew when it is unshelved."
        )
    return Before(server, disks_of(writer, server["id"]))


def _remembered(before: Before) -> Row:
    starts = before.server["vm_state"] in ("active", "paused")
    return {"servers": [before.server["id"]], "starts": starts}


def _require_off(context: Context, before: Before, exchanges: Sequence[Exchange]) -> None:
    """Raise why the guest is perhaps not off."""
    server_id, host_id = before.server["id"], before.server["host_id"]
    for exchange in exchanges:
        if exchange.host_id == host_id and exchange.error is not None:
            raise exchange.error
    with read(context.cloud) as reader:
        server = reader.get("servers", server_id)
    if server["vm_state"] == "error" or server["power_state"] in ("RUNNING", "PAUSED"):
        (shown,) = read_servers(context, [server_id])
        why = shown.fault.message if shown.fault else f"its power state is {shown.power_state}"
        raise ResourceFailed(f"Server {shown.name} did not go off: {why.rstrip('.')}.")


def _capture_variables(operation: Operation, before: Before) -> None:
    """Make an image of them first: without that of the root disk the server is not shelved, and
    this one goes again."""
    server_id = before.server["id"]
    with read(operation.context.cloud) as reader:
        server = reader.get("servers", server_id)
        asked = asked_of_variables(reader, server, f"{server['name']}-shelved-variables")

    def insert(writer: Writer, content: Captured) -> Image:
        image = captured.insert_captured(operation.context, writer, content, asked.origin)
        writer.update("servers", server_id, shelved_nvram_id=image.id)
        return image

    receive(operation, asked, insert, phase=operation.phase)


def _capture(operation: Operation, before: Before, *, keep: bool) -> None:
    """Make the image, and say in the same transaction that the server is shelved."""
    server_id = before.server["id"]
    with read(operation.context.cloud) as reader:
        server = reader.get("servers", server_id)
        asked = asked_of(reader, server, f"{server['name']}-shelved", "snapshot")

    def insert(writer: Writer, content: Captured) -> Image:
        # The image comes last: its content gets its name with the transaction.
        values: Row = {"vm_state": shelving.SHELVED, "kept_state": shelving.SHELVED}
        values["task_state"] = None if keep else shelving.LEAVING
        writer.update("servers", server_id, **values)
        words = f"its root disk is image {asked.origin.name}, {content.got.part.size_bytes} bytes"
        note_server(operation.context, writer, operation.id, "shelve", server, words)
        image = captured.insert_captured(operation.context, writer, content, asked.origin)
        writer.update("servers", server_id, shelved_image_id=image.id)
        # Should this command die now, whoever converges its host next goes on.
        writer.change.servers.add(server_id)
        return image

    receive(operation, asked, insert)


def _has_image(context: Context, before: Before) -> bool:
    with read(context.cloud) as reader:
        return reader.get("servers", before.server["id"])["shelved_image_id"] is not None


def _go_on_there(operation: Operation, before: Before) -> None:
    """Nothing came of it: the server is where it was, and runs if it ran."""
    context, server_id = operation.context, before.server["id"]
    with read(context.cloud) as reader:
        # One that has given its variables went off for it, whatever was written since then.
        gave = shelving.images_of(reader.get("servers", server_id))
        heard = bool(gave) or operation.is_known_to(reader, before.server["host_id"])
    if not heard:
        take_back(operation, [before])
    else:
        operation.transact(
            lambda writer: shelving.put_back(
                writer, writer.get("servers", server_id), starts=_remembered(before)["starts"]
            )
        )
        operation.converge()
    operation.finish(None)
    operation.abandon("it is not shelved")


def _put_away(
    context: Context, writer: Writer, operation: Operation, before: Before, keep: bool
) -> None:
    """Give the host up; one that boots from a volume has nothing there that is its own."""
    server = writer.get("servers", before.server["id"])
    if keep:
        state = {"vm_state": shelving.SHELVED, "kept_state": shelving.SHELVED}
        writer.update("servers", server["id"], **state, task_state=None)
    else:
        _let_go(context, writer, operation, server)


def _let_go(context: Context, writer: Writer, operation: Operation, server: Row) -> None:
    host = writer.get("hosts", server["host_id"])["name"]
    if server["disk_gb"] and server["shelved_image_id"] is None:
        raise Conflict(
            f"There is no image of the root disk of {server['name']}: it stays on host {host}.",
            hint=f"stackctl unshelve {server['name']}",
        )
    shelving.offload(writer, server)
    writer.update("servers", server["id"], operation_id=operation.id)
    words = "it is on no host any more"
    note_server(context, writer, operation.id, operation.kind, server, words, host)


# --- unshelve -----------------------------------------------------------------------------------


def _start_here(context: Context, word: str, wish: Wish) -> Done[Server]:
    """It has its disk yet: the image was made for nothing."""

    def prepare(writer: Writer, server: Row) -> Row:
        if wish != Wish():
            host = writer.get("hosts", server["host_id"])["name"]
            raise Conflict(
                f"Server {server['name']} is shelved on host {host}, where its disk still is, and "
                "goes on there only. Nothing was changed.",
                hint=f"stackctl shelve-offload {server['name']}   (then it can go anywhere)",
            )
        return {"kept_state": None}

    done = _one(command(context, "unshelve", [word], {}, prepare))
    captured.sweep(context)
    return done


class _Home:
    """Where a shelved server goes."""

    def __init__(self, operation: Operation, wish: Wish) -> None:
        self._operation, self._wish = operation, wish

    def choose(self, writer: Writer, server: Row, without: Collection[str]) -> str:
        """The best host, or the one that was asked for."""
        operation = self._operation
        return find_host(operation.context, writer, server, self._wish, without, operation.id)

    def settle(self, writer: Writer, server: Row, host_id: str) -> None:
        """The server is started there."""
        values: Row = {"power_action": "start", "power_serial": server["power_serial"] + 1}
        values |= {"task_state": lifecycle.TRANSITIONS["unshelve"].task_state}
        values |= {"zone_asked": 1} if self._wish.zone is not None else {}
        move_in(writer, server, host_id, **values, operation_id=self._operation.id)
        host, context = writer.get("hosts", host_id)["name"], self._operation.context
        words = f"asked for; placed on {host}"
        note_server(context, writer, self._operation.id, "unshelve", server, words, host)


def _find_home(operation: Operation, word: str, wish: Wish) -> Done[Server]:
    context, home = operation.context, _Home(operation, wish)

    def work(writer: Writer) -> Before:
        server = server_row(context, writer, word)
        lifecycle.require(server, "unshelve")
        home.settle(writer, server, home.choose(writer, server, ()))
        return Before(server, [])

    before = operation.transact(work, lambda before: {"servers": [before.server["id"]]})
    homes = Homes(operation, {before.server["id"]: before}, home)
    homes.converge()
    if context.dry_run:
        return _ended(operation, before)
    for error in homes.homeless.values():
        operation.abandon("no host could be reached")
        raise type(error)(f"{error.message} {_AS_BEFORE.format(word)}", hint=error.hint)
    _require_well(operation, before)
    done = _ended(operation, before)
    captured.sweep(context)
    return done


_AS_BEFORE = "Server {} is shelved as before."


def _require_well(operation: Operation, before: Before) -> None:
    """One that could not be built is taken back: its image is still there."""
    context, server_id = operation.context, before.server["id"]
    (shown,) = read_servers(context, [server_id])
    if shown.vm_state != "error":
        return
    why = shown.fault.message if shown.fault else "it could not be built"
    operation.phase = "undo (it is shelved as before)"

    def work(writer: Writer) -> None:
        server = writer.get("servers", server_id)
        shelving.offload(writer, server)
        words = f"taken from {shown.host} again: {why}"
        note_server(context, writer, operation.id, "unshelve", server, words, shown.host)

    operation.transact(work)
    operation.converge()
    operation.finish(None)
    operation.abandon("it could not be built")
    message = f"Server {shown.name} could not be built on host {shown.host}: {why.rstrip('.')}."
    raise ResourceFailed(
        f"{message} {_AS_BEFORE.format(shown.name)}", hint=f"stackctl explain {shown.name}"
    )


def _ended(operation: Operation, before: Before) -> Done[Server]:
    """The end of a command, with the server as it is now (in a rehearsal: as it was)."""
    ids = [before.server["id"]]
    return operation.finish(ids).with_value(read_servers(operation.context, ids)[0])


def _one(done: Done[list[Server]]) -> Done[Server]:
    return done.with_value(done.value[0])
