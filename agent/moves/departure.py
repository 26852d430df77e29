"""A running server goes to another host, with its memory and what its disks have above their
images.

libvirt here talks to libvirt there through the passage, as if it were its own. The guest arrives
paused and is let go on there only when it is gone here: it never runs twice. Whatever dies before
that leaves it here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from agent import killpoint, layout
from agent.channel import Channel, ChannelLost
from agent.faults import StepFailed
from agent.moves import whereabouts
from agent.moves.passage import Ways
from agent.resources import move_xml
from agent.resources.domain_xml import describe, disk_files
from agent.store import Store
from agent.system import files, libvirt_conn, libvirt_moves
from agent.system.libvirt_conn import LibvirtError
from agent.system.libvirt_moves import Elsewhere, Journey

LOCK_TIMEOUT_S = 5.0
TELL_EVERY_S = 0.5
LOG_BYTES = 1024 * 1024
ABORT_PATIENCE_S = 30.0
"""How long it may be until a move that was just asked for has begun, and can be broken off."""

Args = dict[str, Any]


def describe_server(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """What a guest that runs here needs of another host: {server_id}."""
    server_id = layout.checked(args["server_id"])
    state = libvirt_conn.state(server_id)
    if state not in ("RUNNING", "PAUSED"):
        raise StepFailed(f"its guest does not run (power state {state})")
    xml = libvirt_moves.migratable_xml(server_id)
    described = describe(xml)
    return {
        "state": state,
        "virt_type": described.virt_type,
        "machine_type": described.machine_type,
        "cpu": move_xml.cpu_of(xml),
        "offload": move_xml.offloads(xml),
    }


def send_server(channel: Channel, store: Store, args: Args) -> Args:
    """Have a server go on at another host: {server_id, address, port, token, certificate, folder,
    xml, limit_s}; ``xml`` is its definition there. Tells how far it is. Returns {downtime_s}."""
    server_id = layout.checked(args["server_id"])
    folder = layout.passage(store.data, server_id)
    if args["folder"] != str(folder):
        raise StepFailed(f"the other host keeps its data elsewhere: {str(args['folder'])[:200]}")
    ways = Ways(str(args["address"]), int(args["port"]), str(args["token"]), args["certificate"])
    with whereabouts.alone(store.data, server_id, LOCK_TIMEOUT_S):
        try:
            return _send(channel, store.data, server_id, ways, args)
        finally:
            ways.close()
            files.remove_folder(folder)


def _send(channel: Channel, data: Path, server_id: str, ways: Ways, args: Args) -> Args:
    running = libvirt_conn.state(server_id) == "RUNNING"
    journey = _journey(data, server_id, str(args["xml"]))
    _open_ways(data, server_id, ways, describe(journey.xml).virt_type)
    ways.send("drive", layout.drive(data, server_id).read_bytes())
    killpoint.reached(f"drive of {server_id} sent")
    elsewhere = Elsewhere(journey.destination)
    try:
        begun = time.monotonic()
        _travel(channel, server_id, journey, float(args["limit_s"]))
        killpoint.reached(f"domain {server_id} gone")
        if running:
            elsewhere.resume(server_id)
        killpoint.reached(f"domain {server_id} goes on")
        seconds = time.monotonic() - begun
    finally:
        elsewhere.close()
    with suppress(StepFailed):
        # Nothing but what people like to read: the guest is there already.
        ways.send("console-log", files.tail(layout.console_log(data, server_id), LOG_BYTES))
    return {"seconds": round(seconds, 3)}


def _journey(data: Path, server_id: str, defined: str) -> Journey:
    """From the guest as it runs here, and as the other host would define it."""
    running = libvirt_moves.migratable_xml(server_id)
    mine = describe(libvirt_conn.inactive_xml(server_id)).mark
    definition = move_xml.with_served(defined, mine.power_serial if mine is not None else 0)
    ours = {str(layout.lies_at(path)) for path in layout.disks(data).iterdir()}
    disks = ours & set(disk_files(running))
    folder = layout.passage(data, server_id)
    return Journey(
        destination=f"qemu+unix:///system?socket={folder}/libvirt",
        memory=f"unix://{folder}/memory",
        disks=f"unix://{folder}/disks",
        copied=move_xml.targets_of(running, disks),
        xml=move_xml.as_it_goes_on(running, definition),
        definition=definition,
        shared=any(volume.cache == "none" for volume in describe(definition).volumes),
    )


def _open_ways(data: Path, server_id: str, ways: Ways, virt_type: str) -> None:
    """The sockets that libvirt and qemu here connect to; only that for disks is qemu's."""
    folder = layout.passage(data, server_id)
    files.remove_folder(folder)
    files.make_folder(folder, 0o711)
    ways.open(folder / "libvirt", "libvirt")
    ways.open(folder / "memory", "memory")
    qemu = move_xml.qemu_owner(libvirt_conn.capabilities(), virt_type)
    ways.open(folder / "disks", "disks", qemu)


def _travel(channel: Channel, server_id: str, journey: Journey, limit_s: float) -> None:
    """Migrate, telling how far it is; called off when nobody listens, or at its limit."""
    errors: list[Exception] = []

    def work() -> None:
        try:
            libvirt_moves.migrate(server_id, journey, limit_s)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="migrate", daemon=True)
    thread.start()
    deadline = time.monotonic() + limit_s
    why: Optional[Exception] = None
    while thread.is_alive():
        thread.join(TELL_EVERY_S)
        if why is not None:
            continue
        try:
            _tell(channel, server_id)
            if time.monotonic() > deadline:
                raise StepFailed(f"it did not come to an end within {limit_s:g} s")
        except (ChannelLost, StepFailed) as error:
            why = error
            _call_off(server_id)
    if errors:
        raise why or errors[0]


def _tell(channel: Channel, server_id: str) -> None:
    channel.check()
    with suppress(LibvirtError):  # it is gone already
        now = libvirt_moves.progress(server_id)
        if now is not None:
            killpoint.reached(f"{server_id} on its way")
            channel.send(
                {
                    "type": "step",
                    "kind": "move",
                    "id": server_id,
                    "memory_bytes": now.memory_bytes,
                    "memory_total": now.memory_total,
                    "disk_bytes": now.disk_bytes,
                    "disk_total": now.disk_total,
                }
            )


def _call_off(server_id: str) -> bool:
    with suppress(LibvirtError):
        return libvirt_moves.call_off(server_id)
    return False


def abort_move(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Break a server's move off, so that it stays here: {server_id}; whether it was on its way."""
    server_id = layout.checked(args["server_id"])
    deadline = time.monotonic() + ABORT_PATIENCE_S
    while time.monotonic() < deadline:
        if _call_off(server_id):
            return {"aborted": True}
        check()
        time.sleep(whereabouts.POLL_S)
    return {"aborted": False}
