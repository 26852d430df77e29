"""Everything the network services can do, in one place for those who call them."""

from stackctl.network.networks import (
    NetworkChange,
    NewNetwork,
    create_network,
    delete_network,
    list_networks,
    set_network,
    show_network,
)
from stackctl.network.ports import (
    FixedIp,
    NewPort,
    PortChange,
    create_port,
    delete_port,
    list_ports,
    set_port,
    show_port,
)
from stackctl.network.subnets import (
    NewSubnet,
    SubnetChange,
    create_subnet,
    delete_subnet,
    list_subnets,
    set_subnet,
    show_subnet,
)
from stackctl.network.types import Network, Pool, Port, Subnet

__all__ = [
    "FixedIp",
    "Network",
    "NetworkChange",
    "NewNetwork",
    "NewPort",
    "NewSubnet",
    "Pool",
    "Port",
    "PortChange",
    "Subnet",
    "SubnetChange",
    "create_network",
    "create_port",
    "create_subnet",
    "delete_network",
    "delete_port",
    "delete_subnet",
    "list_networks",
    "list_ports",
    "list_subnets",
    "set_network",
    "set_port",
    "set_subnet",
    "show_network",
    "show_port",
    "show_subnet",
]
