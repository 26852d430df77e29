"""UEFI firmware that qemu's packages describe on this host (interop/firmware.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Optional

FOLDERS = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
"""The first one wins over files of the same name in the others."""

UNWANTED = {"requires-smm", "secure-boot", "enrolled-keys"}
"""Firmware that boots signed systems only, or needs another machine than the usual one."""


@dataclass(frozen=True)
class Uefi:
    """The files of a firmware: its code, and what the variables of a new machine are."""

    code: str
    variables: str


def find_uefi(machine_type: str) -> Optional[Uefi]:
    """The first firmware that fits a versioned machine type; None when there is none."""
    for described in _described():
        found = _fitting(described, machine_type)
        if found is not None:
            return found
    return None


def _described() -> Iterator[dict[str, Any]]:
    """All descriptions in the order of their names, as their makers want them to be tried."""
    names: dict[str, Path] = {}
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.json")):
            names.setdefault(path.name, path)
    for name in sorted(names):
        try:
            described = json.loads(names[name].read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(described, dict):
            yield described


def _fitting(described: dict[str, Any], machine_type: str) -> Optional[Uefi]:
    try:
        mapping = described["mapping"]
        fits = (
            "uefi" in described["interface-types"]
            and mapping["device"] == "flash"
            and not UNWANTED & set(described.get("features", ()))
            and any(_is_for(target, machine_type) for target in described["targets"])
        )
        parts = (mapping["executable"], mapping["nvram-template"]) if fits else ()
        raw = [str(part["filename"]) for part in parts if part["format"] == "raw"]
    except (KeyError, TypeError):
        return None
    if len(raw) != 2 or not all(Path(name).is_file() for name in raw):
        return None
    return Uefi(raw[0], raw[1])


def _is_for(target: dict[str, Any], machine_type: str) -> bool:
    return target["architecture"] == "x86_64" and any(
        fnmatchcase(machine_type, pattern) for pattern in target["machines"]
    )
