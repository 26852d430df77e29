"""A running server comes from another host: what must be here before, and the way it takes.

Its disks are built by convergence, like those of any server that the spec has; here its folder is
made ready, its definition is written (not yet given to libvirt: it comes with the guest), and
the other host is let in, as long as this exchange lasts.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Optional

from agent import killpoint, layout
from agent.faults import StepFailed
from agent.moves import whereabouts
from agent.moves.passage import Entrance, joined_to, received_as
from agent.resources import move_xml
from agent.resources.base import Host
from agent.resources.configdrive import tap_name
from agent.resources.domain_inputs import Platform, boot_files, domain_input, missing_disks
from agent.resources.domain_xml import Mark, compile_domain, input_digest
from agent.spec import HostSettings, HostSpec, Server
from agent.store import Store, boot_id
from agent.system import files, libvirt_conn, libvirt_moves, links

LOCK_TIMEOUT_S = 5.0
MAX_FILE_BYTES = 64 * 1024 * 1024

Args = dict[str, Any]

_open = ExitStack()
"""What lasts as long as this exchange, which ends with its process."""


def can_run(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Why a guest that runs elsewhere cannot go on here: {virt_type, machine_type, cpu, offload};
    an empty ``refusal`` when it can."""
    spec = store.spec()
    platform = Platform(_host(store), spec.settings if spec is not None else HostSettings())
    return {"refusal": _refusal(platform, args)}


def _refusal(platform: Platform, args: Args) -> str:
    virt_type, machine = str(args["virt_type"]), str(args["machine_type"])
    if platform.virt_type != virt_type:
        return f"its guests run by {platform.virt_type}, this one by {virt_type}"
    if machine not in platform.machine_types:
        return f"its qemu has no machine type {machine}"
    if args["offload"] and not platform.offload:
        return (
            "its switch runs in user space, and the guest leaves checksums to its host as only "
            "the kernel's datapath takes them"
        )
    cpu = args["cpu"]
    if cpu is not None and not libvirt_moves.can_have_cpu(str(cpu), machine, virt_type):
        return "its processor lacks features of the one that the guest was started with"
    return ""


def expect(store: Store, args: Args, check: Callable[[], None]) -> Args:
    """Be ready for a server until this exchange ends: {server_id, machine_type, address, token,
    certificate, key}. Returns {port, folder, xml}: where it is let in, the folder of the sockets,
    and its definition here."""
    server_id = layout.checked(args["server_id"])
    spec, server = _expected(store, server_id)
    atexit.register(_open.close)
    _open.enter_context(whereabouts.alone(store.data, server_id, LOCK_TIMEOUT_S))
    _open.callback(files.remove_folder, layout.passage(store.data, server_id))
    if libvirt_moves.place(server_id).exists:
        raise StepFailed(f"libvirt has a domain of server {server_id} here already")
    host = _host(store)
    _make_ready(host, spec, server)
    killpoint.reached(f"folder of {server_id} ready")
    entrance = Entrance(
        str(args["address"]),
        str(args["certificate"]),
        str(args["key"]),
        str(args["token"]),
        _ways(host, server),
    )
    xml = _definition(host, spec, replace(server, machine_type=str(args["machine_type"])))
    folder = str(layout.passage(store.data, server_id))
    return {"port": entrance.port, "folder": folder, "xml": xml}


def _expected(store: Store, server_id: str) -> tuple[HostSpec, Server]:
    spec: Optional[HostSpec] = store.spec()
    servers = () if spec is None else spec.servers
    server = next((each for each in servers if each.id == server_id), None)
    if spec is None or server is None or not server.moving:
        raise StepFailed(f"this host does not expect a server {server_id}")
    lacking = missing_disks(store.data, spec, server)
    if lacking:
        raise StepFailed(f"disk {lacking[0]} of the server is not there yet")
    return spec, server


def _make_ready(host: Host, spec: HostSpec, server: Server) -> None:
    folder = files.make_folder(layout.server(host.data, server.id), 0o711)
    boot_files(host, spec, server, folder)
    files.make_folder(layout.drives(host.data), 0o711)
    passage = layout.passage(host.data, server.id)
    files.remove_folder(passage)
    files.make_folder(passage.parent, 0o711)
    # qemu makes its sockets in it.
    files.make_folder(passage, 0o700)
    virt_type = Platform(host, spec.settings).virt_type
    os.chown(passage, *move_xml.qemu_owner(libvirt_conn.capabilities(), virt_type))


def _ways(host: Host, server: Server) -> dict[str, Any]:
    passage = layout.passage(host.data, server.id)
    log = layout.console_log(host.data, server.id)
    # Of what comes along its disks are let go of first, as soon as it stands still there.
    forget = partial(_forget_old_packets, server)
    return {
        "libvirt": joined_to(libvirt_moves.own_socket()),
        "memory": joined_to(passage / "memory", _nothing if server.disks else forget),
        "disks": joined_to(passage / "disks", forget),
        "drive": received_as(layout.drive(host.data, server.id), MAX_FILE_BYTES),
        # Where the daemon that writes it keeps what does not fit any more.
        "console-log": received_as(log.with_name(f"{log.name}.0"), MAX_FILE_BYTES),
    }


def _nothing() -> None:
    """What is done at the end of most ways."""


def _forget_old_packets(server: Server) -> None:
    """It stands still there. What its taps here hold from before, it has had already; what comes
    until it goes on waits for it, and is late but not lost."""
    for port_id in server.ports:
        links.drain(tap_name(port_id))


def _definition(host: Host, spec: HostSpec, server: Server) -> str:
    domain = domain_input(host, spec, server, Platform(host, spec.settings), None)
    mark = Mark(
        cloud_id=spec.cloud_id,
        server_id=server.id,
        project_id=server.guest.project_id,
        power_serial=0,
        digest=input_digest(domain),
    )
    return compile_domain(domain, mark)


def _host(store: Store) -> Host:
    now = boot_id()
    return Host(data=store.data, boot_id=now, boot_id_before=now, blob=store.blob)
