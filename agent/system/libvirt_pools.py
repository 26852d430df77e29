"""libvirt's storage pools and the volumes in them, in the few words that volumes need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional, TypeVar

from agent.system.libvirt_conn import _call, _libvirt, _open

CHANGE_TIMEOUT_S = 600.0
WIPE_TIMEOUT_S = 6 * 3600.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class PoolView:
    """A storage pool that the operator has defined: its XML, and whether it is active."""

    name: str
    active: bool
    xml: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class VolumeView:
    """A volume of a pool: the path or name that it has beside libvirt, and the size of the disk."""

    name: str
    path: str
    size_bytes: int


def pool(name: str) -> Optional[PoolView]:
    """A pool as it is, looked at anew; None when there is none of this name."""

    def work() -> Optional[PoolView]:
        found = _missing_is_none(lambda: _open().storagePoolLookupByName(name), "POOL")
        if found is None:
            return None
        active = bool(found.isActive())
        if active:
            found.refresh(0)
        _, total, _, free = found.info()
        return PoolView(name, active, found.XMLDesc(0), free, total)

    return _call(work, CHANGE_TIMEOUT_S)


def names(pool_name: str) -> list[str]:
    """The volumes of a pool."""
    found: list[str] = _call(lambda: _pool(pool_name).listVolumes())
    return found


def volume(pool_name: str, name: str) -> Optional[VolumeView]:
    """A volume of a pool, or None."""

    def work() -> Optional[VolumeView]:
        found = _lookup(pool_name, name)
        return None if found is None else VolumeView(name, found.path(), found.info()[1])

    return _call(work)


def create(pool_name: str, xml: str) -> None:
    """Make a volume; an error when there is one of its name."""
    _call(lambda: _pool(pool_name).createXML(xml, 0), CHANGE_TIMEOUT_S)


def resize(pool_name: str, name: str, size_bytes: int) -> None:
    """Make a volume larger."""
    _call(lambda: _lookup(pool_name, name).resize(size_bytes, 0), CHANGE_TIMEOUT_S)


def delete(pool_name: str, name: str, *, wipe: bool) -> None:
    """Delete a volume, if it is there; ``wipe``: write zeros over its content first."""

    def work() -> None:
        found = _lookup(pool_name, name)
        if found is not None:
            if wipe:
                found.wipe(0)
            found.delete(0)

    _call(work, WIPE_TIMEOUT_S if wipe else CHANGE_TIMEOUT_S)


def _pool(name: str) -> Any:
    return _open().storagePoolLookupByName(name)


def _lookup(pool_name: str, name: str) -> Any:
    return _missing_is_none(lambda: _pool(pool_name).storageVolLookupByName(name), "VOL")


def _missing_is_none(look: Callable[[], _T], what: str) -> Optional[_T]:
    try:
        return look()
    except _libvirt().libvirtError as error:
        if error.get_error_code() == getattr(_libvirt(), f"VIR_ERR_NO_STORAGE_{what}"):
            return None
        raise
