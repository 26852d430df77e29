"""Starting the agent on a host: one channel, its archive sent only when it is not there yet."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable

from agent import wire
from stackctl.errors import StackctlError
from stackctl.fleet import local, untrusted
from stackctl.fleet.bootstrap import MARK
from stackctl.fleet.channel import Channel
from stackctl.fleet.delivery import Archive, agent_archive, bootstrap_source, read_archive
from stackctl.fleet.errors import HostRefused
from stackctl.fleet.streams import Stream
from stackctl.fleet.types import Target

PYTHON = "/usr/bin/python3"
"""The distribution's own: the one that has its libvirt bindings."""

HOST_FOLDER = "/var/lib/stackctl/host"
NOISE_LIMIT = 64 * 1024
"""Bytes that a login shell may print before the agent is heard."""

Progress = Callable[[str, int, int], None]


def command_line(archive: Archive, source_size: int, *, as_root: bool) -> list[str]:
    """The argv that starts the agent; it holds no secret."""
    start = f"import sys;exec(sys.stdin.buffer.read({source_size}))"
    argv = [PYTHON, "-I", "-c", start, archive.sha256, str(archive.size), HOST_FOLDER]
    return argv if as_root else ["sudo", "-n", "--", *argv]


def open_stream(target: Target, argv: list[str]) -> Stream:
    """Run a command on a host."""
    if target.transport == "local":
        return local.open_stream(target.name, argv)
    from stackctl.fleet import ssh

    return ssh.open_stream(target, shlex.join(argv))


def start_agent(target: Target, progress: Progress) -> Channel:
    """Connect to a host and have the agent run there, ready for ``open``."""
    archive, source = agent_archive(), bootstrap_source()
    as_root = runs_as_root(target)
    stream = open_stream(target, command_line(archive, len(source), as_root=as_root))
    channel = Channel(target.name, stream)
    try:
        channel.send_raw(source)
        _find_mark(channel)
        found = channel.receive_message("agent")
        if found.get("present") is not True:
            _push(channel, archive, progress)
    except StackctlError as error:
        refusal = explain_end(target, *channel.end())
        channel.abort()
        raise refusal or error from None
    except BaseException:
        channel.abort()
        raise
    return channel


def runs_as_root(target: Target) -> bool:
    """Whether no sudo is needed there."""
    return os.geteuid() == 0 if target.transport == "local" else target.ssh_user == "root"


def _find_mark(channel: Channel) -> None:
    heard = b""
    while not heard.endswith(MARK):
        piece = channel.read_raw(1)
        if not piece:
            raise channel.lost("the command ended before the agent began")
        heard += piece
        if len(heard) > NOISE_LIMIT:
            raise channel.lost("it prints without end instead of starting the agent")


def _push(channel: Channel, archive: Archive, progress: Progress) -> None:
    content = read_archive(archive)
    what = f"sending the agent to {channel.name}"
    channel.send({"type": "blob", "sha256": archive.sha256, "size_bytes": len(content)})
    for start in range(0, len(content), wire.BLOB_CHUNK_BYTES):
        channel.send_bytes(content[start : start + wire.BLOB_CHUNK_BYTES])
        progress(what, min(start + wire.BLOB_CHUNK_BYTES, len(content)), len(content))


def explain_end(target: Target, status: int | None, words: str) -> HostRefused | None:
    """Why the command ended before the agent ran, from its exit status and last words."""
    said = untrusted.line(words, 300)
    if "sudo" in said and status != 0:
        return HostRefused(
            f"Host {target.name} does not let user {target.ssh_user} become root: {said}. "
            "Nothing was done there.",
            hint=f"there, as root: echo '{target.ssh_user} ALL=(root) NOPASSWD: ALL' "
            "> /etc/sudoers.d/stackctl",
        )
    if status == 127 or ("No such file" in said and PYTHON in said):
        return HostRefused(
            f"Host {target.name} has no {PYTHON}: {said or 'command not found'}. "
            "Nothing was done there.",
            hint=f"there, as root: apt-get install python3; then: stackctl host-prepare "
            f"{target.name}",
        )
    if said:
        return HostRefused(
            f"The agent does not start on host {target.name}: {said}. Nothing was done there.",
            hint=f"stackctl host-prepare {target.name} --check",
        )
    return None
