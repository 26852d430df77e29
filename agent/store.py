"""What a host remembers: whose it is, the last spec it accepted, contents, and unfinished effects.

Everything lies in one data folder (mode 0711, so that guests' processes reach their disks; what
is private is 0600 or in a folder of its own).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from agent import layout
from agent.spec import SPEC_FORMAT, HostSpec, from_plain
from agent.system import files

BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")

_OWN = ("agent", "host.lock", "restore.lock")
"""Entries of the data folder that are there before anybody claimed it."""


class Refused(Exception):
    """The exchange must end; ``code`` is one of wire.ERROR_CODES."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Accepted:
    """The last spec this host agreed to become, by the transaction that it came from."""

    serial: int
    nonce: str
    spec_format: int


class Store:
    """The data folder of this host."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def check_claim(self, cloud_id: str, host_id: str) -> bool:
        """True when the folder belongs to this cloud and host, False when nobody claimed it.

        Refused when it is another's, or when it holds data without saying whose.
        """
        claim = self.claimed_by()
        if claim is None:
            if self._holds_data():
                raise Refused("claim", f"{self.data} holds data but no claim file")
            return False
        if claim != (cloud_id, host_id):
            raise Refused("claim", f"this is host {claim[1]} of the cloud {claim[0]}")
        return True

    def claimed_by(self) -> Optional[tuple[str, str]]:
        """The ids of the cloud and of the host that this is, or None when nobody claimed it."""
        content = files.read_bytes(self.data / "claim.json")
        if content is None:
            return None
        claim = json.loads(content)
        return claim["cloud_id"], claim["host_id"]

    def claim(self, cloud_id: str, host_id: str) -> None:
        """Write whose this host is from now on."""
        files.make_folder(self.data, 0o711)
        claim = {"cloud_id": cloud_id, "host_id": host_id, "claimed_at": now()}
        files.write_atomic(self.data / "claim.json", _json(claim))

    def _holds_data(self) -> bool:
        if not self.data.is_dir():
            return False
        return any(entry.name not in _OWN for entry in self.data.iterdir())

    @contextmanager
    def lock(self, timeout_s: float) -> Iterator[None]:
        """Be the only one who changes this host; Refused ("busy") names who else does."""
        files.make_folder(self.data, 0o711)
        note = json.dumps({"pid": os.getpid(), "since": now()})
        try:
            with files.locked(self.data / "host.lock", timeout_s, note):
                yield
        except files.LockHeld as held:
            raise Refused("busy", f"another exchange holds this host: {held}") from None

    def accepted(self) -> Optional[Accepted]:
        """The pair of the last accepted spec, or None on a new host."""
        document = self._document()
        if document is None:
            return None
        return Accepted(document["serial"], document["nonce"], document["format"])

    def accept(self, plain: dict[str, Any]) -> None:
        """Remember a spec and its pair, durably, before the first change."""
        files.write_atomic(self.data / "spec.json", _json(plain))

    def spec(self) -> Optional[HostSpec]:
        """The last accepted spec."""
        document = self._document()
        return None if document is None else from_plain(HostSpec, document)

    def check_newer(self, spec: HostSpec) -> None:
        """Refused ("stale") unless ``spec`` is the accepted one or a later one."""
        last = self.accepted()
        if last is None:
            return
        if last.spec_format > SPEC_FORMAT:
            raise Refused("format", "this agent is older than the one that accepted the last spec")
        same = (spec.serial, spec.nonce) == (last.serial, last.nonce)
        if spec.serial <= last.serial and not same:
            raise Refused(
                "stale",
                f"this host is at serial {last.serial} ({last.nonce}), "
                f"the spec at {spec.serial} ({spec.nonce})",
            )

    def _document(self) -> Optional[dict[str, Any]]:
        content = files.read_bytes(self.data / "spec.json")
        if content is None:
            return None
        document: dict[str, Any] = json.loads(content)
        return document

    def boot_id_before(self) -> Optional[str]:
        """The boot in which the last convergence completed."""
        content = files.read_bytes(self.data / "boot_id")
        return None if content is None else content.decode()

    def record_boot(self, boot_id: str) -> None:
        """A convergence completed in this boot."""
        if self.boot_id_before() != boot_id:
            files.write_atomic(self.data / "boot_id", boot_id.encode())

    def blob(self, sha256: str) -> bytes:
        """The content behind a hash; FileNotFoundError when the controller never sent it."""
        return (self._blobs() / layout.checked_hash(sha256)).read_bytes()

    def lacking(self, hashes: Iterable[str]) -> list[str]:
        """Those of the hashes whose content is not here, each once, in order."""
        present = {path.name for path in self._blobs().iterdir()}
        return sorted(set(hashes) - present)

    def put_blob(self, sha256: str, content: bytes) -> None:
        """Keep a content under its hash; ValueError when it is not what the hash says."""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"content does not have the SHA-256 {sha256}")
        files.write_atomic(self._blobs() / layout.checked_hash(sha256), content)

    def drop_blobs(self, keep: Iterable[str]) -> None:
        """Forget the contents that no spec needs any more."""
        kept = set(keep)
        for path in list(self._blobs().iterdir()):
            if path.name not in kept:
                path.unlink()

    def _blobs(self) -> Path:
        return files.make_folder(self.data / "blobs", 0o700)


def mark_pending(data: Path, effect: str) -> None:
    """Say that an effect which cannot be observed afterwards is about to be due."""
    folder = files.make_folder(data / "pending", 0o700)
    files.write_atomic(folder / layout.checked(effect), b"")


def clear_pending(data: Path, effect: str) -> None:
    """The effect happened."""
    files.remove(data / "pending" / layout.checked(effect))


def is_pending(data: Path, effect: str) -> bool:
    """Whether the effect was due and perhaps never happened."""
    return (data / "pending" / layout.checked(effect)).exists()


def boot_id() -> str:
    """What names this boot of the host."""
    return BOOT_ID_FILE.read_text().strip()


def now() -> str:
    """The time in UTC, for people."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
