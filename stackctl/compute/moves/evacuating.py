"""Servers of a host that is off for good: made anew on others, never twice.

Somebody must have said that the host is off (it is fenced). Should it come back all the same, what
it still has of them is destroyed by its first convergence, before anything else is done there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from stackctl.compute import lifecycle, volume_rows
from stackctl.compute.commanding import Before, note_server
from stackctl.compute.disks import disks_of, restore_disks
from stackctl.compute.hardware import has_nvram
from stackctl.compute.moves.migrating import left_behind
from stackctl.compute.moves.moving import open_move
from stackctl.compute.moves.rehousing import Homes, Wish, find_host, graves_of, move_in, take_host
from stackctl.compute.types import SIZES, Server
from stackctl.compute.views import first_result, read_servers, server_row
from stackctl.errors import Conflict, NotFound, StackctlError
from stackctl.identity.context import Context
from stackctl.network import service as network
from stackctl.operation import Done, Failure, Operation, begin, evacuations, shelving
from stackctl.state import Reader, Row, Writer, find, read, write


@dataclass
class Evacuated:
    """What left a host: its servers, as they are now, and the names of its routers."""

    servers: list[Server]
    routers: list[str] = field(default_factory=list)


def evacuate(context: Context, words: Sequence[str], host: str | None = None) -> Done[list[Server]]:
    """Make servers anew on another host than theirs, which must be fenced; what was on their disks
    is lost.

    Those that cannot go (a volume is a file of the lost host, no room elsewhere) are told of as
    failures; the others go.
    """

    def chosen(reader: Reader) -> list[Row]:
        rows = [server_row(context, reader, word) for word in words]
        return list({row["id"]: row for row in rows}.values())

    summary = f"evacuate {', '.join(words)}"
    arguments = {"servers": list(words), "host": host}
    return _evacuate(context, summary, arguments, chosen, Wish(host))


def evacuate_host(context: Context, word: str, to: str | None = None) -> Done[Evacuated]:
    """Do so with all servers of a fenced host, of every project, and move its routers."""
    with read(context.cloud) as reader:
        lost = find(reader, "hosts", word, noun="host")
        _require_fenced(lost)
        routers = reader.all(
            "SELECT id, name FROM routers WHERE host_id = ? AND deleted_at IS NULL ORDER BY name",
            lost["id"],
        )
    arguments = {"host": word, "to": to}
    summary = f"evacuate host {lost['name']}"
    there = _evacuate(context, summary, arguments, lambda reader: _all_of(reader, lost), Wish(to))
    done = there.with_value(Evacuated(there.value))
    for router in routers:
        _move_router(context, done, router, lost, to)
    return done


def lost_with(context: Context, words: Sequence[str]) -> list[str]:
    """The names of the hosts of these servers that nobody has fenced yet."""
    with read(context.cloud) as reader:
        rows = [server_row(context, reader, word) for word in words]
        ids = {row["host_id"] for row in rows if row["host_id"] is not None}
        hosts = [reader.get("hosts", id_) for id_ in ids]
    return sorted(host["name"] for host in hosts if not host["fenced"])


def _all_of(reader: Reader, host: Row) -> list[Row]:
    return reader.all(
        "SELECT * FROM servers WHERE host_id = ? AND deleted_at IS NULL "
        "ORDER BY ram_mb DESC, vcpus DESC, name",
        host["id"],
    )


def _require_fenced(host: Row) -> None:
    if not host["fenced"]:
        raise Conflict(
            f"Host {host['name']} is not fenced. While it may still run, its servers would be "
            "there twice, and two copies destroy what they share. Nothing was changed.",
            hint=f"if it is off: stackctl host-fence {host['name']}",
        )


def _evacuate(
    context: Context,
    summary: str,
    arguments: Row,
    chosen: Callable[[Reader], list[Row]],
    wish: Wish,
) -> Done[list[Server]]:
    with begin(context, "evacuate", summary, arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: first_result(context, row))
        evacuation = _Evacuation(operation, wish)
        with read(context.cloud) as reader:
            evacuation.leave_out(reader, chosen(reader))
        ids = operation.transact(
            lambda writer: evacuation.begin(writer, chosen(writer)), lambda ids: {"servers": ids}
        )
        if ids:
            evacuation.see_to_homes()
        if not context.dry_run:
            with write(context.cloud) as writer:
                evacuations.conclude(writer, operation.id)
        done = operation.finish(ids).with_value(read_servers(context, ids))
        done.failures += evacuation.failures
        if evacuation.failures and not done.succeeded and not context.dry_run:
            operation.abandon("no server could go")
        return done


class _Evacuation:
    """Servers that leave hosts which are off, and those that could not."""

    def __init__(self, operation: Operation, wish: Wish) -> None:
        self._operation, self._wish = operation, wish
        self._context = operation.context
        self._moved: dict[str, Before] = {}
        self.failures: list[Failure] = []

    def leave_out(self, reader: Reader, servers: Sequence[Row]) -> None:
        """The lost hosts are not asked: they learn of it when they return."""
        for server in servers:
            for host_id in {server["host_id"], *graves_of(reader, server)} - {None}:
                if reader.get("hosts", host_id)["fenced"]:
                    self._operation.leave_out(host_id)

    def begin(self, writer: Writer, servers: Sequence[Row]) -> list[str]:
        """The transaction: each server has its new host, or a reason why not; ids of the former."""
        for server in servers:
            before = Before(server, disks_of(writer, server["id"]))
            try:
                self._require(writer, server)
                host_id = self.choose(writer, server, ())
            except StackctlError as error:
                self._failed(server, error)
            else:
                self.settle(writer, server, host_id)
                self._moved[server["id"]] = before
        return list(self._moved)

    def see_to_homes(self) -> None:
        """Converge the new hosts."""
        homes = Homes(self._operation, self._moved, self)
        homes.converge()
        for server_id, error in homes.homeless.items():
            self._operation.change.servers.discard(server_id)
            self._failed(self._moved[server_id].server, error)

    def _require(self, reader: Reader, server: Row) -> None:
        if server["host_id"] is None:
            raise Conflict(f"Server {server['name']} is on no host.", hint="stackctl list")
        host = reader.get("hosts", server["host_id"])
        _require_fenced(host)
        if server["vm_state"] == shelving.SHELVED and server["shelved_image_id"] is not None:
            raise Conflict(
                f"Server {server['name']} is shelved: its root disk is an image already.",
                hint=f"stackctl shelve-offload {server['name']}",
            )
        lifecycle.require(server, "evacuate")
        volume = volume_rows.tie(reader, server["id"])
        if volume is not None and volume["built"]:
            raise Conflict(
                f"Its volume {volume['name']} is a file on host {host['name']}: without it the "
                "server would not be the same. It stays there.",
                hint=f"stackctl host-return {host['name']}   (when it runs again)",
            )
        _require_whole(reader, server)
        if left_behind(reader, server) is None:
            _require_image(reader, server)

    def choose(self, writer: Writer, server: Row, without: Collection[str]) -> str:
        """The best host but the lost one; of one that was moved, the host with its old disks."""
        moved = left_behind(writer, server)
        if moved is not None:
            return self._old_host(writer, server, moved, without)
        others = {*without, server["host_id"]}
        return find_host(self._context, writer, server, self._wish, others, self._operation.id)

    def settle(self, writer: Writer, server: Row, host_id: str) -> None:
        """The server is this host's, and runs there if it ran before."""
        values: Row = {"power_action": "start" if _ran(server) else "stop"}
        values |= {"power_serial": server["power_serial"] + 1, "operation_id": self._operation.id}
        values |= {"task_state": lifecycle.TRANSITIONS["evacuate"].task_state}
        values |= {"rescue_image_id": None, "before_resize_json": None}
        lost, new = (writer.get("hosts", id_)["name"] for id_ in (server["host_id"], host_id))
        move = {"kind": "evacuate", "target_id": host_id, "status": "running"}
        open_move(writer, server, self._operation.id, **move)
        if left_behind(writer, server) is None:
            _disks_anew(writer, server, host_id, values)
            if has_nvram(server):
                self._context.watch.warn(
                    f"The UEFI variables of {server['name']} were a file of host {lost}, and are "
                    "lost with it: it starts with new ones."
                )
            words = f"host {lost} is off: made anew on {new}"
        else:
            _disks_of_old(writer, server, host_id, values)
            words = f"host {lost} is off: back on {new}, as it was before it was moved"
        note_server(self._context, writer, self._operation.id, "evacuate", server, words, new)

    def _old_host(self, reader: Reader, server: Row, moved: Row, without: Collection[str]) -> str:
        """Where it was until somebody moved it, which nobody has confirmed: its data are there."""
        host, asked = reader.get("hosts", moved["source_host_id"]), self._wish.host
        other = asked is not None and find(reader, "hosts", asked, noun="host") != host
        if host["fenced"] or host["id"] in without or other:
            name = host["name"]
            raise Conflict(
                f"Its disks, as they were before it was moved, are on host {name}: it goes back to "
                "them or nowhere. It stays where it is.",
                hint=f"stackctl host-return {name}" if host["fenced"] else f"stackctl drift {name}",
            )
        return str(host["id"])

    def _failed(self, server: Row, error: StackctlError) -> None:
        kind, hint = type(error), error.hint
        self.failures.append(
            Failure("server", server["id"], server["name"], "", error.message, kind, hint)
        )


def _ran(server: Row) -> bool:
    """Whether a server was on, for all that is known."""
    off = server["vm_state"] == "resized" and server["power_state"] == "SHUTDOWN"
    return server["vm_state"] != "stopped" and not off


def _disks_anew(writer: Writer, server: Row, host_id: str, values: Row) -> None:
    """A server's disks are files of its lost host: that may destroy them, and the new one makes
    others. (Disks that several hosts share would be handed over here.)"""
    shelving.leave_host(writer, server)
    move_in(writer, writer.get("servers", server["id"]), host_id, **values)


def _disks_of_old(writer: Writer, server: Row, host_id: str, values: Row) -> None:
    """A server that was moved to the host which is lost goes back to the disks that it had."""
    old = json.loads(server["before_resize_json"])
    kept = [disk for disk in disks_of(writer, server["id"]) if disk["id"] in old["disks"]]
    shelving.leave_host(writer, server)
    back = [{**disk, "aside": 0, "version": disk["version"] + 1} for disk in kept]
    restore_disks(writer, server["id"], back)
    sizes = {name: old[name] for name in SIZES}
    take_host(writer, writer.get("servers", server["id"]), host_id, **sizes, **values)


def _require_whole(reader: Reader, server: Row) -> None:
    """Shared volumes go along, but one that was not complete when its host was lost."""
    volume = volume_rows.at_work(reader, server["id"])
    if volume is not None:
        raise Conflict(
            f"Its volume {volume['name']} was not made yet, or being copied, when its host was "
            "lost. It stays there.",
            hint=f"stackctl volume-detach {server['name']} {volume['name']}",
        )


def _require_image(reader: Reader, server: Row) -> None:
    if not server["disk_gb"]:
        return
    image = reader.get("images", server["shelved_image_id"] or server["image_id"])
    if image["status"] != "active" or image["deleted_at"] is not None:
        raise Conflict(
            f"Image {image['name']}, which its root disk was made of, is {image['status']}: no "
            "host can make it anew. It stays where it is.",
            hint="stackctl image-list",
        )


def _move_router(
    context: Context, done: Done[Evacuated], router: Row, lost: Row, to: str | None
) -> None:
    id_, name = router["id"], router["name"]
    if context.request_id is not None:
        context = replace(context, request_id=f"{context.request_id}/{name}")
    try:
        network.move_router(context, id_, to).check()
    except NotFound:
        return  # deleted meanwhile
    except StackctlError as error:
        host, kind = lost["name"], type(error)
        done.failures.append(Failure("router", id_, name, host, error.message, kind, error.hint))
    else:
        done.value.routers.append(name)
        done.succeeded += 1
