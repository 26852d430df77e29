"""All kinds, in the order in which they are made (and the reverse of it, removed)."""

from __future__ import annotations

from agent.resources import (
    adoption,
    attachment,
    backend,
    bridge,
    dhcp,
    disk,
    domain,
    flows,
    image,
    nic,
    port,
    router,
    snapshot,
    tunnel,
    volume,
    zones,
)
from agent.resources.base import Kind

NETWORK_KINDS: tuple[Kind, ...] = (
    bridge.KIND,
    tunnel.KIND,
    zones.KIND,
    port.KIND,
    flows.KIND,
    zones.CONNECTIONS,
    dhcp.KIND,
    router.KIND,
)
"""What a rebooted host gets back without a controller."""

KINDS: tuple[Kind, ...] = (
    adoption.KIND,
    *NETWORK_KINDS,
    image.KIND,
    disk.KIND,
    backend.KIND,
    volume.KIND,
    snapshot.KIND,
    domain.KIND,
    nic.KIND,
    attachment.KIND,
    disk.REPLACED,
)
