"""A guest of a host's spec with its networks, and the domain that it becomes, for tests."""

from __future__ import annotations

from agent.resources.domain_xml import DiskInput, DomainInput, NicInput
from agent.spec import (
    Dhcp,
    FileContent,
    FixedAddress,
    Guest,
    HostSettings,
    HostSpec,
    Network,
    Port,
    Power,
    PublicKey,
    Server,
    Subnet,
)

ID = "0d8f3c1e-7f0b-4c59-9d1f-0d6b3a5f1c11"


def subnet(id_: str, cidr: str, gateway: str | None, dhcp: str | None, **more) -> Subnet:
    served = Dhcp(f"dhcp-{id_}", dhcp, "fa:16:3e:00:00:03") if dhcp else None
    return Subnet(id_, 1, 1, cidr, gateway, served, **more)


def network(id_: str, mtu: int, *subnets: Subnet) -> Network:
    return Network(id_, 1, "vxlan", None, 7, 1, mtu, True, "cluster.local", subnets=subnets)


def port(start: str, mac: str, network_id: str, *addresses: tuple[str, str], **more) -> Port:
    """A port of the guest, by the start of its id and the end of its MAC."""
    fixed = tuple(FixedAddress(*each) for each in addresses)
    id_ = f"{start}-1111-4111-8111-111111111111"
    return Port(id_, 1, network_id, ID, f"fa:16:3e:00:00:{mac}", fixed, "head", **more)


def spec(networks: tuple[Network, ...], ports: tuple[Port, ...], **more) -> HostSpec:
    given = {"networks": networks, "ports": ports, **more}
    return HostSpec(1, "cloud", "host", 1, "n", HostSettings(), **given)


def server(user_data: str, file: str, guest=(), **more) -> Server:
    """The head node; user data and its file are named by their hashes, ``guest`` says the rest."""
    described = Guest(
        hostname="head",
        name="Kopf \N{SNOWMAN}",
        project_id="project",
        launch_index=2,
        availability_zone="nova",
        public_keys=(PublicKey("mine", "ssh-ed25519 AAAA me"),),
        metadata=(("role", "head"),),
        user_data_sha256=user_data,
        files=(FileContent("/etc/hosts.extra", file, "0644"),),
        **dict(guest),
    )
    return Server(ID, 1, 2, 512, Power(1, "start"), described, **more)


def domain_input(id_: str = ID, **more) -> DomainInput:
    """A small domain under emulation, with one disk and one NIC."""
    usual = {
        "name": f"sc-{id_}",
        "vcpus": 1,
        "ram_mb": 512,
        "virt_type": "qemu",
        "machine_type": "pc-i440fx-7.2",
        "cpu_mode": "maximum",
        "disk_bus": "virtio",
        "nic_model": "virtio",
        "offload": False,
        "disks": (DiskInput("/d/a.qcow2", "qcow2", "a", "/i/b", "raw"),),
        "nics": (NicInput("fa:16:3e:00:00:01", "tap1", 1450),),
        "drive": "/d/a.iso",
        "console_log": "/d/console.log",
    }
    return DomainInput(id=id_, **{**usual, **more})
