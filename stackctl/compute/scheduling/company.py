"""Filters about what else is on hosts: servers of the same group, of hints, too many of any."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from stackctl.compute.scheduling import query
from stackctl.compute.scheduling.base import Filter
from stackctl.compute.scheduling.types import Candidate, Group, Request


class ServerGroupAffinityFilter(Filter):
    """Servers of a group with the policy affinity: all on one host."""

    def concerns(self, request: Request) -> bool:
        """Groups with this policy."""
        return _policy(request) == "affinity"

    def refusal(self, host: Candidate, request: Request) -> str:
        """The group is on another host already."""
        group = _group(request)
        if any(group.members.values()) and not group.members.get(host.id):
            return f"does not carry server group {group.name}, which is elsewhere (affinity)"
        return ""

    def note(self, host: Candidate, request: Request) -> str:
        """How many are there."""
        return _members(host, request)


class ServerGroupAntiAffinityFilter(Filter):
    """Servers of a group with the policy anti-affinity: so many on a host at most."""

    def concerns(self, request: Request) -> bool:
        """Groups with this policy."""
        return _policy(request) == "anti-affinity"

    def refusal(self, host: Candidate, request: Request) -> str:
        """The host has its share."""
        group = _group(request)
        here = group.members.get(host.id, 0)
        if here < group.max_per_host:
            return ""
        return f"carries {here} of server group {group.name}, at most {group.max_per_host} may be"

    def note(self, host: Candidate, request: Request) -> str:
        """How many are there."""
        return f"{_members(host, request)}, at most {_group(request).max_per_host}"


class DifferentHostFilter(Filter):
    """Not where any of the servers of the hint ``different_host`` is."""

    def concerns(self, request: Request) -> bool:
        """When the hint is given."""
        return bool(request.different_host)

    def refusal(self, host: Candidate, request: Request) -> str:
        """One of them is there."""
        here = [server.name for server in request.different_host if server.host_id == host.id]
        return f"carries {', '.join(here)} (hint different_host)" if here else ""


class SameHostFilter(Filter):
    """Where one of the servers of the hint ``same_host`` is."""

    def concerns(self, request: Request) -> bool:
        """When the hint is given."""
        return bool(request.same_host)

    def refusal(self, host: Candidate, request: Request) -> str:
        """None of them is there."""
        if any(server.host_id == host.id for server in request.same_host):
            return ""
        names = ", ".join(server.name for server in request.same_host)
        return f"does not carry {names} (hint same_host)"


class SimpleCIDRAffinityFilter(Filter):
    """Hosts whose address is near the one of the hint ``build_near_host_ip``."""

    def concerns(self, request: Request) -> bool:
        """When the hint is given."""
        return bool(request.near)

    def refusal(self, host: Candidate, request: Request) -> str:
        """Its address is outside, or it has only a name."""
        try:
            address = ipaddress.ip_address(host.address)
        except ValueError:
            return f"is reached by the name {host.address}: whether it is in {request.near} is open"
        if address in ipaddress.ip_network(request.near):
            return ""
        return f"has address {host.address}, which is not in {request.near}"

    def note(self, host: Candidate, request: Request) -> str:
        """Its address."""
        return f"{host.address} is in {request.near}"


class JsonFilter(Filter):
    """Hosts that satisfy the hint ``query``."""

    def concerns(self, request: Request) -> bool:
        """When the hint is given."""
        return request.query is not None

    def refusal(self, host: Candidate, request: Request) -> str:
        """The expression is false."""
        return "" if query.holds(request.query, host.capabilities) else "does not satisfy the query"


@dataclass(frozen=True)
class IoOpsFilter(Filter):
    """Hosts that do not build too many servers at once."""

    limits = ("max_io_ops_per_host",)
    max_io_ops_per_host: int = 8

    def refusal(self, host: Candidate, request: Request) -> str:
        """It is busy."""
        if host.builds < self.max_io_ops_per_host:
            return ""
        return f"builds {host.builds} servers, at most {self.max_io_ops_per_host} at once"

    def note(self, host: Candidate, request: Request) -> str:
        """How many it builds."""
        return f"builds {host.builds}, at most {self.max_io_ops_per_host}"


@dataclass(frozen=True)
class NumInstancesFilter(Filter):
    """Hosts that do not have too many servers."""

    limits = ("max_instances_per_host",)
    max_instances_per_host: int = 50

    def refusal(self, host: Candidate, request: Request) -> str:
        """It is full."""
        if host.servers < self.max_instances_per_host:
            return ""
        return f"has {host.servers} servers, at most {self.max_instances_per_host}"

    def note(self, host: Candidate, request: Request) -> str:
        """How many it has."""
        return f"has {host.servers}, at most {self.max_instances_per_host}"


def _policy(request: Request) -> str:
    return request.group.policy if request.group else ""


def _group(request: Request) -> Group:
    return request.group or Group("", "", "")


def _members(host: Candidate, request: Request) -> str:
    group = _group(request)
    return f"carries {group.members.get(host.id, 0)} of server group {group.name}"
