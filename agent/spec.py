"""The document that tells a host what to be: the contract between controller and agent.

A ``HostSpec`` holds everything that one host must have, in the words of the model (networks,
ports, disks, servers) and never in those of an engine. The controller builds it
(``stackctl.hostspec``), the agent compiles it (``agent.resources``). All ids are UUID strings,
all sizes carry their unit in the name, all addresses are plain text.

This module runs on both sides and therefore uses nothing but the standard library of Python 3.9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from agent.plain import SpecError as SpecError
from agent.plain import canonical as canonical
from agent.plain import digest as digest
from agent.plain import from_plain as from_plain
from agent.plain import to_plain as to_plain
from agent.spec_guest import USUAL_HARDWARE as USUAL_HARDWARE
from agent.spec_guest import DirectKernel as DirectKernel
from agent.spec_guest import FileContent as FileContent
from agent.spec_guest import Guest as Guest
from agent.spec_guest import Hardware as Hardware
from agent.spec_guest import PublicKey as PublicKey
from agent.spec_guest import Topology as Topology

SPEC_FORMAT = 2
"""Raised when a field changes its meaning; an agent refuses a format that it does not know."""


@dataclass(frozen=True)
class BridgeMapping:
    """A physical network of this host: its OVS bridge and the NIC in it (both by device name)."""

    physical_network: str
    bridge: str
    nic: str


@dataclass(frozen=True)
class HostSettings:
    """What the operator decided for one host.

    ``virt_type`` and ``datapath`` are ``auto`` unless the operator was told better;
    ``tunnel_address`` is None on a host without tunnel networks; ``on_boot`` is ``none`` or
    ``all`` (start servers that were running when the host went down).
    """

    virt_type: str = "auto"
    datapath: str = "auto"
    tunnel_address: Optional[str] = None
    bridge_mappings: tuple[BridgeMapping, ...] = ()
    on_boot: str = "none"


@dataclass(frozen=True)
class HostRoute:
    """A static route handed out by DHCP (RFC 3442)."""

    destination: str
    nexthop: str


@dataclass(frozen=True)
class Dhcp:
    """The DHCP and DNS server of a subnet: the same address and MAC on every host that has it.

    In an IPv6 subnet it is also the one that advertises the prefix (never itself as a router).
    """

    port_id: str
    address: str
    mac: str


@dataclass(frozen=True)
class Name:
    """A name that the subnet's DNS answers (hostname without the domain)."""

    hostname: str
    address: str


@dataclass(frozen=True)
class Subnet:
    """A subnet of a network. ``number`` is small and unique in the cloud: it numbers the
    host-local leg through which its name server reaches the outside.

    ``ipv6_mode`` says how guests of an IPv6 subnet get their addresses: ``slaac``,
    ``dhcpv6-stateful``, ``dhcpv6-stateless``, or None (by themselves, nothing is advertised).
    """

    id: str
    version: int
    number: int
    cidr: str
    gateway: Optional[str]
    dhcp: Optional[Dhcp]
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[HostRoute, ...] = ()
    ipv6_mode: Optional[str] = None


@dataclass(frozen=True)
class RemotePort:
    """A port of a tunnel network that lives on another host: where to send its unicast."""

    mac: str
    addresses: tuple[str, ...]
    tunnel_address: str


@dataclass(frozen=True)
class Network:
    """A network with ports on this host.

    ``type`` is vxlan, gre, vlan or flat; ``local_vlan`` is this host's own tag for it on br-int;
    ``flood_to`` the tunnel addresses of all other hosts that have the network.
    """

    id: str
    version: int
    type: str
    physical_network: Optional[str]
    segmentation_id: Optional[int]
    local_vlan: int
    mtu: int
    admin_up: bool
    domain: str
    subnets: tuple[Subnet, ...] = ()
    names: tuple[Name, ...] = ()
    remote_ports: tuple[RemotePort, ...] = ()
    flood_to: tuple[str, ...] = ()


@dataclass(frozen=True)
class FixedAddress:
    """One address of a port."""

    subnet_id: str
    address: str


@dataclass(frozen=True)
class AddressPair:
    """What a port may send from beside its own addresses: an address or prefix, and the MAC that
    goes with it (None: the port's own)."""

    cidr: str
    mac: Optional[str] = None


@dataclass(frozen=True)
class DhcpOption:
    """A DHCP option for one port: its number, and its value as the type of that number reads it."""

    ip_version: int
    number: int
    value: str


@dataclass(frozen=True)
class BandwidthLimit:
    """What a port may send (``egress``) and receive (``ingress``); None is unlimited."""

    egress_kbps: Optional[int] = None
    egress_burst_kb: Optional[int] = None
    ingress_kbps: Optional[int] = None
    ingress_burst_kb: Optional[int] = None


@dataclass(frozen=True)
class SecurityRule:
    """What a security group allows: everything that fits, in one direction.

    ``direction`` is ingress (to the port) or egress; ``ethertype`` IPv4 or IPv6; ``protocol`` an
    IP protocol number, None any. ``port_min`` and ``port_max`` are a range of TCP, UDP, SCTP or
    UDP-Lite ports, or type and code of ICMP. The other side is a prefix, the members of a group,
    or anybody.
    """

    id: str
    direction: str
    ethertype: str
    protocol: Optional[int] = None
    port_min: Optional[int] = None
    port_max: Optional[int] = None
    remote_cidr: Optional[str] = None
    remote_group_id: Optional[str] = None


@dataclass(frozen=True)
class SecurityGroup:
    """A group that a port of this host is in, with all its rules."""

    id: str
    version: int
    rules: tuple[SecurityRule, ...] = ()


@dataclass(frozen=True)
class Members:
    """From which addresses (or prefixes) members of a group send in one network of this host.

    Those are members in the network itself and in networks that routers connect with it.
    """

    group_id: str
    network_id: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Port:
    """A server's port on this host: a NIC of its own, or a subport of a trunk.

    ``role`` is active, or incoming/outgoing while its server moves. ``gives_default_route`` and
    ``gives_name_server`` say which of a server's ports carry these DHCP options: one each.

    With ``port_security`` it sends from its own addresses and ``allowed_pairs`` only, and what
    no rule of its ``security_groups`` allows is dropped in both directions; without it neither
    is looked at.
    """

    id: str
    version: int
    network_id: str
    server_id: str
    mac: str
    addresses: tuple[FixedAddress, ...]
    hostname: str
    admin_up: bool = True
    role: str = "active"
    port_security: bool = True
    gives_default_route: bool = True
    gives_name_server: bool = True
    security_groups: tuple[str, ...] = ()
    allowed_pairs: tuple[AddressPair, ...] = ()
    dhcp_options: tuple[DhcpOption, ...] = ()
    limit: BandwidthLimit = BandwidthLimit()


@dataclass(frozen=True)
class Subport:
    """A port that its server sees as a VLAN of another one: ``vlan`` is the tag there."""

    port_id: str
    vlan: int


@dataclass(frozen=True)
class Trunk:
    """A port of a server (``port_id``, its parent) that carries others beside its own traffic."""

    id: str
    version: int
    port_id: str
    subports: tuple[Subport, ...] = ()


@dataclass(frozen=True)
class RouterPort:
    """An interface of a router, or its gateway, with its addresses in the network's subnets."""

    id: str
    version: int
    network_id: str
    mac: str
    addresses: tuple[FixedAddress, ...]
    admin_up: bool = True


@dataclass(frozen=True)
class FloatingIp:
    """An address of the external network that stands for a port's fixed one."""

    id: str
    version: int
    address: str
    fixed_address: str


@dataclass(frozen=True)
class Router:
    """A router on this host, in the namespace ``qrouter-<id>``.

    With ``snat`` what leaves by the gateway and has no floating IP gets the gateway's address.
    The default routes are the gateways of the subnets that the gateway port has addresses in.
    """

    id: str
    version: int
    admin_up: bool
    interfaces: tuple[RouterPort, ...] = ()
    gateway: Optional[RouterPort] = None
    snat: bool = True
    routes: tuple[HostRoute, ...] = ()
    floating_ips: tuple[FloatingIp, ...] = ()


@dataclass(frozen=True)
class Image:
    """An image that the host needs in its cache, found there by its SHA-256.

    ``url`` is set when the host may fetch it by itself; otherwise the controller sends it.
    ``disk_format`` is qcow2 or raw (kernels and ramdisks are raw).
    """

    id: str
    sha256: str
    size_bytes: int
    disk_format: str
    url: Optional[str] = None


@dataclass(frozen=True)
class Disk:
    """One incarnation of a disk. Made only while ``build`` is set; its absence later is a fault.

    ``source_id``: it is made a copy of that disk, which no guest may run on meanwhile;
    ``source_host_id``: the other host that has it, if it is not this one. ``serial``: what the
    guest sees, when it is that of an incarnation before this one. ``adopts``: it is there already,
    at this path, and becomes ours with its server.
    """

    id: str
    version: int
    server_id: str
    kind: str
    format: str
    size_bytes: int
    build: bool
    image_id: Optional[str] = None
    source_id: Optional[str] = None
    source_host_id: Optional[str] = None
    serial: Optional[str] = None
    adopts: Optional[str] = None


@dataclass(frozen=True)
class Backend:
    """A place for volumes beside the host's own data folder.

    ``driver`` is folder (``location``: its path), nfs (``server:/export``) or pool (the name of a
    libvirt storage pool). A ``shared`` one is the same on every host that has it. ``claim``: this
    host is to make the cloud's own place in it, once; its absence later means that this host does
    not have the backend. ``look``: say whether this host has it, even if no volume here needs it.
    """

    id: str
    version: int
    driver: str
    location: str
    shared: bool
    claim: bool = False
    look: bool = False


@dataclass(frozen=True)
class Volume:
    """A volume that this host makes, grows and gives to its servers. Made only while ``build`` is
    set, of an image, of another volume here (``source_id``), or empty; its absence later is a
    fault. ``size_bytes`` may grow. A snapshot is a volume that no server gets.

    ``backend_id``: where it is kept (None: in the host's data folder). ``held``: making it failed;
    not tried again until somebody names it.
    """

    id: str
    version: int
    format: str
    size_bytes: int
    build: bool
    image_id: Optional[str] = None
    source_id: Optional[str] = None
    backend_id: Optional[str] = None
    held: bool = False


@dataclass(frozen=True)
class Attachment:
    """A volume of a server, and the name that the server's definition has for it (``vdb``)."""

    volume_id: str
    device: str


@dataclass(frozen=True)
class Power:
    """The last power command given to a server; obeyed once, when ``serial`` is newer than the
    one in the domain's metadata. ``action`` is start, stop, reboot (ACPI, then hard after
    ``timeout_s``), reboot-hard, pause, unpause, suspend (memory goes to disk) or resume."""

    serial: int
    action: str
    timeout_s: int = 60


@dataclass(frozen=True)
class Server:
    """A server on this host. ``disks`` and ``ports`` are ids in the order the guest sees them;
    ``volumes`` come after its disks.

    ``held``: building it failed; left as it is until somebody names it again. ``moving``: on two
    hosts for a while; convergence neither creates, starts, stops nor destroys it.
    ``machine_type`` is versioned and fixed when the server is created, like ``cpu_mode``.
    ``adopts``: libvirt has its domain already, somebody else's, which becomes ours as it runs.
    """

    id: str
    version: int
    vcpus: int
    ram_mb: int
    power: Power
    guest: Guest
    disks: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    machine_type: Optional[str] = None
    cpu_mode: Optional[str] = None
    disk_bus: str = "virtio"
    nic_model: str = "virtio"
    kernel: Optional[DirectKernel] = None
    held: bool = False
    moving: bool = False
    volumes: tuple[Attachment, ...] = ()
    adopts: bool = False
    hardware: Hardware = USUAL_HARDWARE


@dataclass(frozen=True)
class Tombstone:
    """Permission to destroy one incarnation: ``kind`` is domain (id: the server's), disk or volume.

    It stays in the spec until this host reports it ``removed``. Wanted beats deleted.
    ``backend_id``: where a volume is kept.
    """

    kind: str
    id: str
    version: int
    backend_id: Optional[str] = None


@dataclass(frozen=True)
class HostSpec:
    """Everything one host must have. ``(serial, nonce)`` names the transaction it was read at."""

    format: int
    cloud_id: str
    host_id: str
    serial: int
    nonce: str
    settings: HostSettings
    networks: tuple[Network, ...] = ()
    ports: tuple[Port, ...] = ()
    images: tuple[Image, ...] = ()
    disks: tuple[Disk, ...] = ()
    servers: tuple[Server, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()
    routers: tuple[Router, ...] = ()
    security_groups: tuple[SecurityGroup, ...] = ()
    members: tuple[Members, ...] = ()
    volumes: tuple[Volume, ...] = ()
    backends: tuple[Backend, ...] = ()
    trunks: tuple[Trunk, ...] = ()
