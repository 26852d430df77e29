"""Where volumes are, and whether there is room for them."""

from __future__ import annotations

from stackctl.errors import Conflict, NoCapacity
from stackctl.state import Reader, Row, find
from stackctl.state.usage import HOSTS_WITH_USAGE


def host_for(reader: Reader, word: str) -> Row:
    """The host that somebody asked for; Conflict when nothing new goes there."""
    host = find(reader, "hosts", word, noun="host")
    if host["fenced"] or not host["enabled"]:
        why = "fenced" if host["fenced"] else f"disabled {host['disabled_reason']}".rstrip()
        raise Conflict(
            f"Host {host['name']} is {why}: no volume is made there. Nothing was changed.",
            hint="stackctl host-list",
        )
    return host


def require_room(reader: Reader, volume: Row, size_gb: int, host_id: str | None = None) -> None:
    """NoCapacity when the host of a volume (or the one that it is to have) has not so much disk
    left, as its servers and volumes count. What is not in the host's own folder takes none."""
    host_id = host_id or volume["host_id"]
    if host_id is None or volume["type_id"] is not None:
        return
    host = reader.all(f"{HOSTS_WITH_USAGE} WHERE hosts.id = ?", host_id)[0]
    total = host["disk_gb"] * host["disk_ratio"]
    free = total - host["disk_gb_used"]
    if size_gb > free:
        raise NoCapacity(
            f"Host {host['name']} has {free:g} GB of disk left (of {total:g}); volume "
            f"{volume['name']} needs {size_gb}. Nothing was changed.",
            hint=f"stackctl host-show {host['name']}",
        )
