"""The one SQLite file of a cloud."""

from stackctl.state.clock import later, new_id, now, seconds_since
from stackctl.state.cloud import Cloud, existing_cloud, find_cloud
from stackctl.state.db import Change, Reader, Row, Writer, create, read, write
from stackctl.state.lookup import find

__all__ = [
    "Change",
    "Cloud",
    "Reader",
    "Row",
    "Writer",
    "create",
    "existing_cloud",
    "find",
    "find_cloud",
    "later",
    "new_id",
    "now",
    "read",
    "seconds_since",
    "write",
]
