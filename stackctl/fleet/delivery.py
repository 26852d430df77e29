"""The agent's archive: built the same way every time, cached, and named by its SHA-256."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import json
import os
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stackctl.errors import Bug

PACKAGES = ("agent", "pyroute2")
"""What runs on a host; everything else there comes from its distribution."""

_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Archive:
    """A built archive: a zip file of ``size`` bytes."""

    sha256: str
    path: Path
    size: int


def agent_archive() -> Archive:
    """The archive of the agent as it is installed here; built only when a file of it changed.

    Looked for once in a process, however many hosts want it.
    """
    with _looking:
        return _find_archive()


_looking = threading.Lock()


@functools.cache
def _find_archive() -> Archive:
    sources = dict(_sources())
    note = _cache_folder() / f"{_inputs_digest(sources)}.json"
    return _cached(note) or _build(sources, note)


def bootstrap_source() -> bytes:
    """The text that starts the agent on a host (see bootstrap.py)."""
    return Path(__file__).with_name("bootstrap.py").read_bytes()


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(root) / "stackctl" / "agent"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _sources() -> Iterator[tuple[str, Path]]:
    """Name in the archive and file, for every file that belongs in it."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise Bug(f"The package {package} is not installed beside stackctl.")
        root = Path(spec.submodule_search_locations[0])
        for path in root.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{package}/{path.relative_to(root)}", path
        # By name and not by importlib.metadata, whose import every command would pay for.
        for path in root.parent.glob(f"{package}-*.dist-info/licenses/*"):
            yield f"{package}.licenses/{path.name}", path


def _inputs_digest(sources: dict[str, Path]) -> str:
    """Tells by name, size and time of every file whether an archive still fits."""
    digest = hashlib.sha256()
    for name in sorted(sources):
        status = sources[name].stat()
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _cached(note: Path) -> Archive | None:
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        path = note.with_name(f"{known['sha256']}.zip")
        archive = Archive(known["sha256"], path, known["size"])
        return archive if path.stat().st_size == archive.size else None
    except (OSError, ValueError, KeyError):
        return None


def _build(sources: dict[str, Path], note: Path) -> Archive:
    content = pack(sources)
    sha256 = hashlib.sha256(content).hexdigest()
    archive = Archive(sha256, note.with_name(f"{sha256}.zip"), len(content))
    _remove_old(note.parent)
    _write(archive.path, content)
    _write(note, json.dumps({"sha256": sha256, "size": archive.size}).encode())
    return archive


def pack(sources: dict[str, Path]) -> bytes:
    """A zip of these files: the same contents give the same bytes, whatever their times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(sources):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, sources[name].read_bytes())
    return buffer.getvalue()


def _remove_old(folder: Path) -> None:
    """Keep the cache small: only the newest few archives and notes."""
    files = [path for path in folder.iterdir() if path.suffix in {".zip", ".json"}]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)[8:]:
        path.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    """Write beside and rename: another command may be building the same."""
    descriptor, fresh = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    Path(fresh).replace(path)


def read_archive(archive: Archive) -> bytes:
    """The bytes of an archive, as promised by its hash; a damaged cache is built anew.

    Another version of stackctl that runs meanwhile may have tidied it away.
    """
    try:
        content = archive.path.read_bytes()
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() == archive.sha256:
        return content
    with _looking:
        archive.path.unlink(missing_ok=True)
        _find_archive.cache_clear()
    return agent_archive().path.read_bytes()
