"""Registering, preparing and changing hosts."""

from stackctl.fleet.keys import FirstLogin
from stackctl.hosts.checks import parse_mapping
from stackctl.hosts.joining import add_host, known_key, scan_host_key
from stackctl.hosts.leaving import delete_host, fence_host, return_host
from stackctl.hosts.settings import refresh_host, refresh_hosts, set_host
from stackctl.hosts.types import Amount, Declared, Host, HostChanges, HostKey, NewHost, Ratios
from stackctl.hosts.views import list_hosts, show_host

__all__ = [
    "Amount",
    "Declared",
    "FirstLogin",
    "Host",
    "HostChanges",
    "HostKey",
    "NewHost",
    "Ratios",
    "add_host",
    "delete_host",
    "fence_host",
    "known_key",
    "list_hosts",
    "parse_mapping",
    "refresh_host",
    "refresh_hosts",
    "return_host",
    "scan_host_key",
    "set_host",
    "show_host",
]
