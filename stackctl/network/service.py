"""Everything the network services can do, in one place for those who call them."""

from agent.spec import AddressPair, BandwidthLimit
from stackctl.network.dhcp_options import NewDhcpOption
from stackctl.network.group_rules import create_rule, delete_rule, list_rules, show_rule
from stackctl.network.groups import (
    GroupChange,
    NewGroup,
    create_group,
    delete_group,
    list_groups,
    set_group,
    show_group,
)
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
from stackctl.network.rule_checks import NewRule
from stackctl.network.subnets import (
    NewSubnet,
    SubnetChange,
    create_subnet,
    delete_subnet,
    list_subnets,
    set_subnet,
    show_subnet,
)
from stackctl.network.types import GroupRule, Network, Pool, Port, SecurityGroup, Subnet

__all__ = [
    "AddressPair",
    "BandwidthLimit",
    "FixedIp",
    "GroupChange",
    "GroupRule",
    "Network",
    "NetworkChange",
    "NewDhcpOption",
    "NewGroup",
    "NewNetwork",
    "NewPort",
    "NewRule",
    "NewSubnet",
    "Pool",
    "Port",
    "PortChange",
    "SecurityGroup",
    "Subnet",
    "SubnetChange",
    "create_group",
    "create_network",
    "create_port",
    "create_rule",
    "create_subnet",
    "delete_group",
    "delete_network",
    "delete_port",
    "delete_rule",
    "delete_subnet",
    "list_groups",
    "list_networks",
    "list_ports",
    "list_rules",
    "list_subnets",
    "set_group",
    "set_network",
    "set_port",
    "set_subnet",
    "show_group",
    "show_network",
    "show_port",
    "show_rule",
    "show_subnet",
]
