"""The lab's state file and its locks."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from stackctl.errors import NotFound
from stackctl.lab.errors import LabError
from stackctl.lab.models import LabState

FILE = "lab.json"
MACHINE_LOCK = Path("/run/lock/stackctl-lab.lock")


def load(folder: Path) -> LabState | None:
    """The state of the lab in this folder; None when there is no lab."""
    try:
        text = (folder / FILE).read_text()
    except FileNotFoundError:
        return None
    try:
        return LabState.from_dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise LabError(f"{folder / FILE} is not the state of a lab: {error}") from None


def save(folder: Path, state: LabState) -> None:
    """Write the state so that a crash leaves the old one or the new one."""
    temporary = folder / f"{FILE}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(state.to_dict(), stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(folder / FILE)
    parent = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lab: its folder is the lock, so that removing the lab leaves no lock file.

    Tools that run under it hold it, too, until they end (``commands.run``): what a command that
    was killed had begun is not still under way when the next one looks.
    """
    while True:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise NotFound(f"There is no lab in {folder}.", hint="stackctl lab-up") from None
        try:
            os.set_inheritable(descriptor, True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(folder, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _is_still(folder: Path, descriptor: int) -> bool:
    """Whether the locked folder is the one of this name; it may have been removed meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    return False


@contextlib.contextmanager
def machine_locked() -> Iterator[None]:
    """Hold what all labs of this machine share: the choice of a management network."""
    MACHINE_LOCK.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(MACHINE_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
