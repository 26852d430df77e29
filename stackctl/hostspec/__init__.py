"""Pure: from rows to the one document that tells a host what to be."""

from stackctl.hostspec.affected import Affected, affected_hosts
from stackctl.hostspec.build import build_spec, image_spec
from stackctl.hostspec.snapshot import HostSnapshot, load_snapshot

__all__ = [
    "Affected",
    "HostSnapshot",
    "affected_hosts",
    "build_spec",
    "image_spec",
    "load_snapshot",
]
