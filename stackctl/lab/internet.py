"""The lab's internet: a machine that is gateway, name server and web server, and leads nowhere."""

from __future__ import annotations

import shutil
from pathlib import Path

from stackctl.lab import host, machine, network
from stackctl.lab.host import HostPlan
from stackctl.lab.machine import Boot, Service
from stackctl.lab.models import Internet

NUMBER = 2
PROVIDER_VLAN = 101
PROVIDER_CIDR = "10.1.0.0/24"
UNTAGGED_CIDR = "10.2.0.0/24"
EXTERNAL_CIDR = "203.0.113.0/24"
DNS_ADDRESS = "198.51.100.53"
WEB_ADDRESS = "198.51.100.10"
WEB_NAMES = ("www.example.com", "www.google.com")
BRIDGE = "br-inet"
PAGE = "<html><body>The internet of this lab.</body></html>\n"
DNSMASQ_CONF = """\
keep-in-foreground
port=53
no-resolv
no-hosts
local=/#/
addn-hosts=/etc/lab-hosts
log-facility=-
pid-file=
user=root
"""


def describe(prefix: str, management_cidr: str, *, running: bool) -> Internet:
    """The internet of a lab: all of it is fixed but its management leg."""
    return Internet(
        namespace=namespace(prefix),
        running=running,
        management_address=network.host_address(management_cidr, NUMBER),
        dns_address=DNS_ADDRESS,
        web_address=WEB_ADDRESS,
        web_name=WEB_NAMES[0],
        web_names=WEB_NAMES,
        provider_vlan=PROVIDER_VLAN,
        provider_cidr=PROVIDER_CIDR,
        provider_gateway=network.host_address(PROVIDER_CIDR, 1),
        untagged_cidr=UNTAGGED_CIDR,
        untagged_gateway=network.host_address(UNTAGGED_CIDR, 1),
        external_cidr=EXTERNAL_CIDR,
        external_gateway=network.host_address(EXTERNAL_CIDR, 1),
    )


def namespace(prefix: str) -> str:
    """The namespace of the internet."""
    return f"{prefix}-inet"


def wiring(prefix: str, management_cidr: str) -> network.Wiring:
    """Its NICs, named for where they lead; the provider NIC is in its bridge, which does VLANs."""
    macs = [network.mac(management_cidr, 0xFE, nic) for nic in range(3)]
    management = f"{network.host_address(management_cidr, NUMBER)}/24"
    external = f"{network.host_address(EXTERNAL_CIDR, 1)}/24"
    nics = (
        network.Nic("mgmt", network.MANAGEMENT, macs[0], management),
        network.Nic("provider", network.PROVIDER, macs[1]),
        network.Nic("external", network.EXTERNAL, macs[2], external),
    )
    return network.Wiring(namespace(prefix), "i-", nics)


def make_files(folder: Path, prefix: str, management_cidr: str) -> None:
    """Make the internet's disk."""
    temporary = folder.with_name(folder.name + ".new")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    etc = machine.make_disk(temporary)
    host.make_ovs_database(etc)
    plans = [HostPlan(prefix, management_cidr, n) for n in range(1, host.MAX_HOSTS + 1)]
    names = [f"{WEB_ADDRESS} {name}" for name in WEB_NAMES]
    names += [f"{plan.address} {plan.name}" for plan in plans]
    (etc / "lab-hosts").write_text("\n".join([*names, ""]))
    (etc / "dnsmasq.conf").write_text(DNSMASQ_CONF)
    pages = temporary / "disk" / "srv" / "www"
    pages.mkdir()
    (pages / "index.html").write_text(PAGE)
    temporary.rename(folder)


def boot(folder: Path) -> Boot:
    """What the internet runs."""
    services = [
        *host.ovs_services(),
        Service("dnsmasq", ["dnsmasq", "--conf-file=/etc/dnsmasq.conf"]),
        Service("httpd", ["busybox", "httpd", "-f", "-p", "80", "-h", "/srv/www"]),
    ]
    tagged = f"{network.host_address(PROVIDER_CIDR, 1)}/24"
    untagged = f"{network.host_address(UNTAGGED_CIDR, 1)}/24"
    leg = f"vlan{PROVIDER_VLAN}"
    steps = [
        ["ip", "addr", "replace", f"{DNS_ADDRESS}/32", "dev", "lo"],
        ["ip", "addr", "replace", f"{WEB_ADDRESS}/32", "dev", "lo"],
        ["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"],
        *_closed_management(),
        *host.ovs_steps(folder, "internet"),
        [
            *host.add_bridge(BRIDGE),
            *("--", "--may-exist", "add-port", BRIDGE, "provider"),
            *("--", "--may-exist", "add-port", BRIDGE, leg, f"tag={PROVIDER_VLAN}"),
            *("--", "set", "interface", leg, "type=internal"),
        ],
        ["ip", "addr", "replace", tagged, "dev", leg],
        ["ip", "link", "set", leg, "up"],
        ["ip", "addr", "replace", untagged, "dev", BRIDGE],
        ["ip", "link", "set", BRIDGE, "up"],
    ]
    return Boot("internet", services, steps, ports=(53, 80))


def _closed_management() -> list[list[str]]:
    """Let hosts out, and nobody from the networks of guests into the management network."""
    forward = ["iptables", "-w", "-A", "FORWARD", "-o", "mgmt"]
    established = ["-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"]
    return [[*forward, *established], [*forward, "-j", "DROP"]]


def start(folder: Path, prefix: str, management_cidr: str) -> None:
    """Boot the internet; its first boot makes its disk."""
    if not folder.exists():
        make_files(folder, prefix, management_cidr)
    machine.kill(folder)
    wires = wiring(prefix, management_cidr)
    network.plug(prefix, wires)
    machine.start_or_kill(folder, wires.namespace, boot(folder))
