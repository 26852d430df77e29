"""All filters, by Nova's names: which hosts can take a request at all, and with what numbers.

A filter is a small object. ``concerns`` says whether it has anything to say about a request,
``refusal`` why a host cannot take it (empty: it can), ``note`` what it saw on a host that can.
"""

from __future__ import annotations

from collections.abc import Mapping

from stackctl.compute.scheduling.base import Filter
from stackctl.compute.scheduling.company import (
    DifferentHostFilter,
    IoOpsFilter,
    JsonFilter,
    NumInstancesFilter,
    SameHostFilter,
    ServerGroupAffinityFilter,
    ServerGroupAntiAffinityFilter,
    SimpleCIDRAffinityFilter,
)
from stackctl.compute.scheduling.room import (
    AvailabilityZoneFilter,
    ComputeFilter,
    CoreFilter,
    DiskFilter,
    HostHintFilter,
    NetworkFilter,
    RamFilter,
    VolumeTypeFilter,
)
from stackctl.compute.scheduling.traits import (
    AggregateInstanceExtraSpecsFilter,
    AggregateMultiTenancyIsolation,
    ComputeCapabilitiesFilter,
    ImagePropertiesFilter,
    IsolatedHostsFilter,
)

ALWAYS: tuple[Filter, ...] = (
    ComputeFilter(),
    HostHintFilter(),
    AvailabilityZoneFilter(),
    NetworkFilter(),
    CoreFilter(),
    RamFilter(),
    DiskFilter(),
    VolumeTypeFilter(),
)
"""Without these a host could not carry what it is given, or not where it was asked for."""

OPTIONAL: Mapping[str, type[Filter]] = {
    kind.__name__: kind
    for kind in (
        ComputeCapabilitiesFilter,
        ImagePropertiesFilter,
        ServerGroupAntiAffinityFilter,
        ServerGroupAffinityFilter,
        DifferentHostFilter,
        SameHostFilter,
        SimpleCIDRAffinityFilter,
        JsonFilter,
        AggregateInstanceExtraSpecsFilter,
        AggregateMultiTenancyIsolation,
        IoOpsFilter,
        NumInstancesFilter,
        IsolatedHostsFilter,
    )
}
"""Those that the configuration chooses from, by name."""
