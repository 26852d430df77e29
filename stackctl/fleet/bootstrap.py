"""What runs first on a host: find the wanted agent there, or ask for it; then become it.

The controller starts python3 with the arguments SHA256 SIZE FOLDER and feeds it this file. It
says MARK (whatever a login shell printed before does not count), then one frame
``agent {present, python}``; if the agent is not there it reads one blob from standard input,
verifies and unpacks it to FOLDER/agent/SHA256, and runs it in this same process.

It is written for Python 3.6, so that a python3 that is too old for the agent can still say so.
"""

import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import struct
import sys
import time
from pathlib import Path
from typing import Any

MARK = b"\nstackctl-agent 1\n"
COMPLETE = ".complete"
KEPT_VERSIONS = 2
READ_TIMEOUT_S = 60
PING_INTERVAL_S = 5
RESTORE_UNIT = Path("/etc/systemd/system/stackctl-restore.service")
HEADER = struct.Struct(">cI")


class Refusal(Exception):
    """The agent cannot run here; the text says why."""


def main() -> None:
    """Become the agent, or tell the controller why not."""
    sha256, size, base = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    os.umask(0o022)
    write_all(MARK)
    folder = base / "agent" / sha256
    version = ".".join(str(part) for part in sys.version_info[:3])
    try:
        if sys.version_info < (3, 9):  # noqa: UP036 - this file runs on what the host has
            raise Refusal(f"python3 is {version}; the agent needs 3.9 or later")
        present = is_complete(base, folder)
        say({"type": "agent", "present": present, "python": version})
        if not present:
            install(base, folder, receive(sha256, size))
        in_use(folder)
    except (Refusal, OSError) as error:
        say({"type": "error", "code": "environment", "message": str(error)})
        sys.exit(1)
    become(folder)


def become(folder: Path) -> None:
    """Run the agent in this process."""
    import runpy

    sys.path.insert(0, str(folder))
    sys.argv = [str(folder), "serve"]
    runpy.run_module("agent", run_name="__main__", alter_sys=True)


def in_use(folder: Path) -> None:
    """Mark the folder as used last, and used now: the lock lasts as long as this process."""
    marker = os.open(str(folder / COMPLETE), os.O_RDONLY)
    os.utime(marker)
    fcntl.flock(marker, fcntl.LOCK_SH)


def is_complete(base: Path, folder: Path) -> bool:
    """Whether the agent lies there whole, unchanged, and writable by nobody else."""
    try:
        for path in (base, folder.parent, folder):
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode) or not is_private(status):
                return False
        return (folder / COMPLETE).read_text() == inventory(folder)
    except OSError:
        return False


def is_private(status: os.stat_result) -> bool:
    """Whether a file is ours and only we may write to it."""
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def inventory(folder: Path) -> str:
    """One hash over path, size and time of every file (what python compiled does not count)."""
    lines = []
    for place, folders, names in os.walk(str(folder)):
        folders[:] = [name for name in folders if name != "__pycache__"]
        inside = os.path.relpath(place, str(folder))
        for name in names:
            if name != COMPLETE:
                status = Path(place, name).lstat()
                lines.append(f"{inside}/{name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def receive(sha256: str, size: int) -> bytes:
    """The archive, from standard input; what does not have the promised hash is refused."""
    kind, length = HEADER.unpack(read_exactly(HEADER.size))
    if kind != b"J":
        raise Refusal("expected the agent's archive, got something else")
    read_exactly(length)
    pieces = []
    missing = size
    while missing > 0:
        kind, length = HEADER.unpack(read_exactly(HEADER.size))
        if kind != b"B" or length > missing:
            raise Refusal("expected a piece of the agent's archive, got something else")
        pieces.append(read_exactly(length))
        missing -= length
    archive = b"".join(pieces)
    if hashlib.sha256(archive).hexdigest() != sha256:
        raise Refusal("the agent's archive arrived damaged (other SHA-256)")
    return archive


def install(base: Path, folder: Path, archive: bytes) -> None:
    """Unpack beside, compile, make durable, then rename into place; one process at a time."""
    store = folder.parent
    store.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = os.open(str(store / ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_complete(base, folder):
            require_private(base, store)
            remove_leftovers(store)
            fresh = store / f".new-{folder.name}"
            unpack(archive, fresh, folder)
            mark_complete(fresh)
            put_in_place(fresh, folder)
        forget_old(folder)
    finally:
        os.close(lock)


def require_private(base: Path, store: Path) -> None:
    """Refuse folders that another user of this host could write to."""
    for path in (base, store):
        if not is_private(path.lstat()):
            raise Refusal(f"{path} belongs to another user or is open to others")


def remove_leftovers(store: Path) -> None:
    """Remove what an interrupted installation left (we hold the lock)."""
    for path in store.iterdir():
        if path.name.startswith((".new-", ".old-")):
            shutil.rmtree(str(path))


def unpack(archive: bytes, fresh: Path, folder: Path) -> None:
    """Write, compile and sync the files of the archive."""
    import compileall
    import zipfile

    fresh.mkdir(mode=0o755)
    with zipfile.ZipFile(io.BytesIO(archive)) as content:
        for name in content.namelist():
            if name.startswith("/") or ".." in name.split("/"):
                raise Refusal("the agent's archive holds a path that leads outside")
        content.extractall(str(fresh))
    compileall.compile_dir(str(fresh), ddir=str(folder), quiet=2)
    said = time.monotonic()
    for place, _, names in os.walk(str(fresh)):
        for name in names:
            sync(Path(place, name))
            if time.monotonic() - said > PING_INTERVAL_S:
                say({"type": "ping"})
                said = time.monotonic()
        sync(Path(place))


def mark_complete(fresh: Path) -> None:
    """Say in the folder that all of it is there, and durable."""
    marker = fresh / COMPLETE
    marker.write_text(inventory(fresh))
    sync(marker)
    sync(fresh)


def put_in_place(fresh: Path, folder: Path) -> None:
    """Rename the fresh folder to its name; a damaged one under that name goes first."""
    if os.path.lexists(str(folder)):
        folder.rename(folder.with_name(f".old-{folder.name}"))
    fresh.rename(folder)
    sync(folder.parent)
    remove_leftovers(folder.parent)


def forget_old(folder: Path) -> None:
    """Remove all but the versions used last; one that runs now or at every boot stays."""
    try:
        kept = RESTORE_UNIT.read_text()
    except OSError:
        kept = ""
    others = [
        path
        for path in folder.parent.iterdir()
        if path != folder and not path.name.startswith(".") and path.name not in kept
    ]
    for path in sorted(others, key=last_used, reverse=True)[KEPT_VERSIONS - 1 :]:
        if not is_running(path):
            shutil.rmtree(str(path))


def last_used(folder: Path) -> float:
    """When an agent was last started from there; 0 for a folder that is not complete."""
    try:
        return (folder / COMPLETE).stat().st_mtime
    except OSError:
        return 0.0


def is_running(folder: Path) -> bool:
    """Whether an agent runs from there."""
    try:
        marker = os.open(str(folder / COMPLETE), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(marker)
    return False


def sync(path: Path) -> None:
    """Make a file or folder durable."""
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_exactly(count: int) -> bytes:
    """Read from standard input; a controller that is silent for too long ends this process."""
    pieces = []
    while count > 0:
        signal.alarm(READ_TIMEOUT_S)
        piece = os.read(0, count)
        signal.alarm(0)
        if not piece:
            raise Refusal("the controller is gone")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def say(message: Any) -> None:
    """Send one JSON frame."""
    payload = json.dumps(message).encode()
    write_all(HEADER.pack(b"J", len(payload)) + payload)


def write_all(data: bytes) -> None:
    """Write to standard output."""
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
