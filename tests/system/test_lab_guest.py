"""The guest image, booted on a lab host with a config drive and a DHCP server beside it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from stackctl.lab import guest
from stackctl.lab.guest import DirectBoot
from stackctl.lab.models import Lab

from .conftest import Shell, eventually

Connect = Callable[..., Shell]

FOLDER = "/var/lib/libvirt/images"
OFFLOADS = (
    "<driver><host csum='off' gso='off' tso4='off' tso6='off' ecn='off' ufo='off' mrg_rxbuf='off'/>"
    "<guest csum='off' tso4='off' tso6='off' ecn='off' ufo='off'/></driver>"
)
NIC = (
    "<interface type='bridge'><source bridge='br-guest'/><mac address='{mac}'/>"
    "<virtualport type='openvswitch'/><model type='virtio'/>" + OFFLOADS + "</interface>"
)
DISK = (
    "<disk type='file' device='disk'><driver name='qemu' type='{kind}'/>"
    "<source file='{file}'/><target dev='{target}' bus='virtio'/></disk>"
)
CDROM = (
    "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
    "<source file='{file}'/><target dev='hdd' bus='ide'/><readonly/></disk>"
)
DOMAIN = """\
<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='{machine}'>hvm</type>{boot}</os><features><acpi/></features>
<devices>{devices}<serial type='file'><source path='/var/log/{name}.console'/></serial></devices>
</domain>
"""
DHCP = """\
port=53
interface=br-guest
bind-interfaces
no-resolv
no-hosts
domain=lab.example
local=/#/
host-record=named.lab.example,192.168.77.77
dhcp-range=192.168.77.10,192.168.77.200,255.255.255.0,1h
dhcp-host=fa:16:3e:00:00:01,192.168.77.21
dhcp-host=fa:16:3e:00:00:02,set:routed,192.168.77.22
dhcp-host=fa:16:3e:00:00:03,192.168.77.23
dhcp-option=option:mtu,1400
dhcp-option=tag:!routed,option:router,192.168.77.1
dhcp-option=tag:routed,option:classless-static-route,10.9.0.0/16,192.168.77.9
dhcp-leasefile=/run/guest.leases
pid-file=/run/guest.dnsmasq
"""
CONSOLE_SECONDS = 120


@pytest.fixture(scope="module")
def stage(lab: Lab, lab_key: Path) -> Iterator[Shell]:
    """host1 with a bridge for guests and a DHCP and DNS server on it."""
    root = Shell(lab.hosts[0], lab_key)
    root.run("cat > /etc/guest.conf", text=DHCP)
    root.run(
        "ovs-vsctl add-br br-guest -- set bridge br-guest datapath_type=netdev"
        " && ip addr add 192.168.77.1/24 dev br-guest && ip link set br-guest up"
        " && dnsmasq --conf-file=/etc/guest.conf"
    )
    yield root
    root.run("kill $(cat /run/guest.dnsmasq); ovs-vsctl del-br br-guest; rm /etc/guest.conf")
    root.close()


def config_drive(tmp_path: Path, metadata: dict[str, object], files: dict[str, str]) -> Path:
    """A config drive as OpenStack lays it out."""
    tree = tmp_path / "drive"
    latest = tree / "openstack" / "latest"
    latest.mkdir(parents=True)
    (latest / "meta_data.json").write_text(json.dumps(metadata))
    for name, text in files.items():
        file = tree / "openstack" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    iso = tmp_path / "config.iso"
    argv = ["xorriso", "-as", "mkisofs", "-quiet", "-V", "config-2", "-J", "-r", "-o", str(iso)]
    subprocess.run([*argv, str(tree)], check=True, timeout=30, capture_output=True)
    return iso


@contextmanager
def domain(
    root: Shell, name: str, devices: str, *, boot: str = "", machine: str = "pc"
) -> Iterator[Callable[[], str]]:
    """Run a domain; gives a function that reads its console."""
    xml = DOMAIN.format(name=name, devices=devices, boot=boot, machine=machine)
    root.run(f"cat > /tmp/{name}.xml", text=xml)
    root.run(f"virsh define /tmp/{name}.xml && virsh start {name}")

    def console() -> str:
        return root.run(f"cat /var/log/{name}.console", check=False)

    try:
        yield console
    finally:
        root.run(
            f"virsh destroy {name}; virsh undefine {name}; rm /var/log/{name}.console", check=False
        )


def overlay(root: Shell, image: Path, name: str) -> str:
    """A disk of its own for a guest, over the image."""
    root.put(image, f"{FOLDER}/{image.name}")
    disk = f"{FOLDER}/{name}.qcow2"
    root.run(f"qemu-img create -q -f qcow2 -b {image.name} -F qcow2 {disk} 1G")
    return DISK.format(kind="qcow2", file=disk, target="vda")


@contextmanager
def guest_shell(root: Shell, address: str, key: Path) -> Iterator[Shell]:
    """SSH to a guest through the host."""
    transport = root.client.get_transport()
    assert transport is not None
    channel = transport.open_channel("direct-tcpip", (address, 22), ("127.0.0.1", 0), timeout=20)
    shell = Shell.__new__(Shell)
    shell.client = paramiko.SSHClient()
    # The guest made its host key itself a moment ago.
    shell.client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    shell.client.connect(
        address,
        username="root",
        pkey=paramiko.Ed25519Key.from_private_key_file(str(key)),
        sock=channel,
        look_for_keys=False,
        allow_agent=False,
        timeout=30,
        banner_timeout=60,
        auth_timeout=60,
    )
    try:
        yield shell
    finally:
        shell.close()


@pytest.fixture
def cluster_key(tmp_path: Path) -> Path:
    key = tmp_path / "id_ed25519"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "cluster", "-f", str(key)]
    subprocess.run(argv, check=True, timeout=10)
    return key


def test_guest_boots_from_its_disk(
    stage: Shell, guest_image: Path, lab_key: Path, cluster_key: Path, tmp_path: Path
) -> None:
    """Hostname, keys, files, lease, names, ssh in and out, user data, power button."""
    public = cluster_key.with_suffix(".pub").read_text()
    metadata: dict[str, object] = {
        "uuid": "11111111-2222-3333-4444-555555555555",
        "name": "Head Node",
        "hostname": "head-node.novalocal",
        "public_keys": {"mine": lab_key.with_suffix(".pub").read_text(), "cluster": public},
        "files": [{"content_path": "/content/0000", "path": "/root/.ssh/id_ed25519"}],
    }
    script = "#!/bin/sh\necho ran >> /root/ran\nsleep 1\n"
    contents = {"content/0000": cluster_key.read_text(), "latest/user_data": script}
    iso = config_drive(tmp_path, metadata, contents)
    stage.put(iso, f"{FOLDER}/head.iso")
    devices = overlay(stage, guest_image, "head")
    devices += CDROM.format(file=f"{FOLDER}/head.iso")
    devices += NIC.format(mac="fa:16:3e:00:00:01") + NIC.format(mac="fa:16:3e:00:00:02")
    with domain(stage, "head", devices) as console:
        eventually(lambda: "guest: ready" in console(), "ready", seconds=CONSOLE_SECONDS)
        said = console()
        assert "guest: hostname head-node" in said
        assert "guest: eth0 192.168.77.21/24" in said
        assert "guest: user data ended with 0" in said
        assert "head-node" in stage.run("cat /run/guest.leases")
        with guest_shell(stage, "192.168.77.21", lab_key) as inside:
            check_identity(inside)
            check_network(inside)
            check_names(inside)
            assert inside.run("ssh -o StrictHostKeyChecking=no root@head-node hostname") == (
                "head-node\n"
            )
            inside.run("echo kept > /root/kept; sync")
        check_power_button(stage, "head")
        stage.run("virsh start head")
        eventually(lambda: "guest: ready" in console(), "ready again", seconds=CONSOLE_SECONDS)
        with guest_shell(stage, "192.168.77.21", lab_key) as inside:
            assert inside.run("cat /root/kept /root/ran") == "kept\nran\n"


def check_identity(inside: Shell) -> None:
    assert inside.run("hostname").strip() == "head-node"
    assert inside.run("stat -c '%a %n' /root/.ssh /root/.ssh/id_ed25519").split() == [
        "700", "/root/.ssh", "600", "/root/.ssh/id_ed25519",
    ]  # fmt: skip
    assert inside.run("wc -l < /root/.ssh/authorized_keys").strip() == "2"
    assert inside.run("cat /root/ran") == "ran\n"


def check_network(inside: Shell) -> None:
    """Both NICs: MTU, the router only where given, classless routes, one resolver file."""
    assert "mtu 1400" in inside.run("ip link show eth0")
    routes = inside.run("ip route")
    assert routes.count("default") == 1
    assert "default via 192.168.77.1 dev eth0" in routes
    assert "10.9.0.0/16 via 192.168.77.9 dev eth1" in routes
    assert routes.count("192.168.77.0/24 dev eth") == 2
    assert inside.run("cat /etc/resolv.conf").splitlines() == [
        "search lab.example",
        "nameserver 192.168.77.1",
    ]


def check_names(inside: Shell) -> None:
    assert inside.run("ping -c 1 -W 2 192.168.77.1")
    assert "192.168.77.77" in inside.run("nslookup named.lab.example")
    assert "192.168.77.77" in inside.run("ping -c 1 -W 1 named", check=False)
    assert "127.0.1.1" in inside.run("ping -c 1 head-node")
    assert "bad address" in inside.run("wget http://absent.example/ 2>&1", check=False)


def check_power_button(root: Shell, name: str) -> None:
    root.run(f"virsh shutdown {name}")
    eventually(
        lambda: root.run(f"virsh domstate {name}").strip() == "shut off",
        "the power button works",
        seconds=15,
    )


def test_guest_boots_from_kernel_and_ramdisk_without_config_drive(
    stage: Shell, direct_boot: DirectBoot
) -> None:
    for file in (direct_boot.kernel, direct_boot.ramdisk):
        stage.put(file, f"{FOLDER}/{file.name}")
    boot = (
        f"<kernel>{FOLDER}/{direct_boot.kernel.name}</kernel>"
        f"<initrd>{FOLDER}/{direct_boot.ramdisk.name}</initrd>"
        f"<cmdline>{direct_boot.cmdline}</cmdline>"
    )
    nic = NIC.format(mac="fa:16:3e:00:00:03")
    with domain(stage, "direct", nic, boot=boot, machine="q35") as console:
        eventually(lambda: "guest: ready" in console(), "ready", seconds=CONSOLE_SECONDS)
        assert "guest: no config drive" in console()
        assert "guest: eth0 192.168.77.23/24" in console()
        check_power_button(stage, "direct")


def test_image_is_built_once(guest_image: Path) -> None:
    before = guest_image.stat()
    said: list[str] = []
    guest.build_guest_image(guest_image, progress=said.append)
    assert said == []
    assert guest_image.stat().st_ino == before.st_ino


def test_image_is_reproducible(guest_image: Path, tmp_path: Path) -> None:
    again = guest.build_guest_image(tmp_path / "again.qcow2", progress=lambda _: None)
    assert again.read_bytes() == guest_image.read_bytes()
