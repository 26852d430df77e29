"""What a lab is: the dataclasses that callers get and that its state file holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PHYSICAL_NETWORKS: Mapping[str, str] = {"provider": "eth1", "external": "eth2"}
"""Physical networks of every lab host and the NIC that leads there: VLAN trunk, flat."""


@dataclass(frozen=True)
class LabHost:
    """A host of the lab, reached as a real one is: SSH, pinned key.

    ``bridge_nics`` maps each physical network to its NIC; ``namespace`` and ``init_pid`` are
    this machine's view of it; capacity is declared, since all hosts share one memory.
    """

    name: str
    address: str
    ssh_port: int
    user: str
    host_key: str
    tunnel_address: str
    tunnel_mtu: int
    bridge_nics: Mapping[str, str]
    running: bool
    namespace: str
    init_pid: int | None
    boot_id: str | None
    vcpus: int
    ram_mb: int
    disk_gb: int


@dataclass(frozen=True)
class Internet:
    """The world beyond the lab: a router, a DNS server and a web server, with no way out.

    It has a leg in each network: VLAN ``provider_vlan`` and the untagged frames of the provider
    network, the external network, and the management network.
    """

    namespace: str
    running: bool
    management_address: str
    dns_address: str
    web_address: str
    web_name: str
    web_names: tuple[str, ...]
    provider_vlan: int
    provider_cidr: str
    provider_gateway: str
    untagged_cidr: str
    untagged_gateway: str
    external_cidr: str
    external_gateway: str


@dataclass(frozen=True)
class Lab:
    """A fleet of hosts in namespaces on this machine."""

    name: str
    prefix: str
    folder: Path
    management_cidr: str
    hosts: tuple[LabHost, ...]
    internet: Internet
    physical_networks: tuple[str, ...]

    def host(self, name: str) -> LabHost:
        """The host of this name; KeyError when there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)


@dataclass(frozen=True)
class LabState:
    """The lab's state file: what cannot be worked out from the prefix or seen on the machine.

    ``machine_boot_id`` tells a reboot of the machine: then every pid in the folder is void.
    """

    prefix: str
    management_cidr: str
    host_count: int
    machine_boot_id: str
    format: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> LabState:
        """The state from its JSON form; unknown keys raise TypeError."""
        return cls(**value)
