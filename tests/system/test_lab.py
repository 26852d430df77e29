"""A lab on real engines: sshd, libvirt, Open vSwitch, dnsmasq, namespaces."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from stackctl.errors import NotFound
from stackctl.lab import machine, network, service
from stackctl.lab.errors import LabError
from stackctl.lab.models import Lab

from .conftest import Shell, eventually, unique_prefix

Connect = Callable[..., Shell]

ROOT = Path(__file__).parents[2]

DOMAIN = """\
<domain type='qemu'><name>tiny</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64'>hvm</type></os></domain>
"""


def quiet(_: str) -> None:
    pass


def up(lab: Lab, lab_key: Path) -> Lab:
    key = lab_key.with_suffix(".pub").read_text()
    return service.up(lab.folder, lab.prefix, 2, authorized_key=key, progress=quiet)


def traces(prefix: str, folder: Path) -> list[str]:
    """What this machine shows of a lab: namespaces, links, mounts, processes, files."""
    namespaces = subprocess.check_output(["ip", "netns"], text=True, timeout=10).splitlines()
    links = subprocess.check_output(["ip", "-o", "link"], text=True, timeout=10).splitlines()
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [line for line in [*namespaces, *links, *mounts] if prefix in line]
    found += [line for line in mounts if str(folder) in line]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            root = str((process.parent / "root").readlink())
        except OSError:
            continue
        if str(folder) in words + root or prefix in words:
            found.append(words)
    return found + [str(path) for path in folder.parent.glob(folder.name + "*")]


def test_up_is_idempotent(lab: Lab, lab_key: Path) -> None:
    before = service.status(lab.folder)  # tests before this one may have restarted hosts
    again = up(lab, lab_key)
    assert again == before
    assert [host.running for host in again.hosts] == [True, True]
    assert (lab.folder / "lab.json").stat().st_mode & 0o777 == 0o600


def test_hosts_are_servers_of_their_own(lab: Lab, shell: Connect) -> None:
    seen = {}
    for host in service.status(lab.folder).hosts:
        root = shell(host.name)
        assert root.run("hostname").strip() == host.name
        assert root.run("cat /proc/sys/kernel/random/boot_id").strip() == host.boot_id
        seen[host.name] = (
            root.run("cat /etc/machine-id"),
            root.run("virsh capabilities | grep -m1 uuid"),
            root.run("ovs-vsctl get Open_vSwitch . external_ids:system-id"),
            host.host_key,
            host.boot_id,
        )
    assert all(one != two for one, two in zip(*seen.values(), strict=True))


def test_hosts_hide_the_machine_below(shell: Connect) -> None:
    root = shell("host1")
    assert root.run("ls -A /root").split() == [".ssh"]
    assert root.run("virsh list --all --name").split() == []
    assert root.run("virsh net-list --all --name").split() == []
    assert root.run("ovs-vsctl list-br").split() == ["br-phy"]
    assert root.run("ls /sys/fs/cgroup").split() == []


def test_a_host_writes_to_its_own_disk_only(shell: Connect) -> None:
    root = shell("host1")
    for path in ("/usr/local/bin/mine", "/etc/mine", "/var/lib/mine", "/opt/mine", "/tmp/mine"):
        root.run(f"touch {path}")
        assert not Path(path).exists()
        assert "mine" not in shell("host2").run(f"ls {Path(path).parent}")


def test_operator_has_sudo(shell: Connect) -> None:
    operator = shell("host1", user="operator")
    assert operator.run("id -un").strip() == "operator"
    assert operator.run("sudo -n id -u").strip() == "0"


def test_another_key_is_not_let_in(lab: Lab, tmp_path: Path) -> None:
    key = tmp_path / "other"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    subprocess.run(argv, check=True, timeout=10)
    with pytest.raises(paramiko.AuthenticationException):
        Shell(lab.hosts[0], key)


def test_domains_start(shell: Connect) -> None:
    root = shell("host1")
    root.run("cat > /tmp/tiny.xml", text=DOMAIN)
    root.run("virsh define /tmp/tiny.xml")
    try:
        root.run("virsh start tiny")
        assert root.run("virsh domstate tiny").strip() == "running"
    finally:
        root.run("virsh destroy tiny", check=False)
        root.run("virsh undefine tiny")


def test_tunnel_underlay_carries_full_frames_in_vxlan(lab: Lab, shell: Connect) -> None:
    one, two = lab.hosts
    size = one.tunnel_mtu - 28
    shell("host1").run(f"ping -c 2 -W 2 -M do -s {size} {two.tunnel_address}")


def test_hosts_reach_the_internet(lab: Lab, shell: Connect) -> None:
    root = shell("host1")
    assert "internet of this lab" in root.run(f"wget -qO- http://{lab.internet.web_name}/")
    assert root.run("getent hosts host2").split()[0] == lab.hosts[1].address
    assert root.run("getent hosts no.such.name", check=False) == ""
    assert root.run("ping -c 1 -W 1 192.0.2.1", check=False).count("100% packet loss") == 1


@pytest.fixture
def provider_leg(lab: Lab, shell: Connect) -> Iterator[Shell]:
    """A namespace on host1 that sits on the provider network's VLAN, through a bridge on eth1."""
    root = shell("host1")
    vlan = lab.internet.provider_vlan
    root.run(
        "ovs-vsctl add-br br-try -- set bridge br-try datapath_type=netdev"
        f" -- add-port br-try eth1 -- add-port br-try leg tag={vlan}"
        " -- set interface leg type=internal"
        " && ip netns add try && ip link set leg netns try"
        " && ip -n try addr add 10.1.0.200/24 dev leg && ip -n try link set leg up"
        f" && ip -n try route add default via {lab.internet.provider_gateway}"
        f" && mkdir -p /etc/netns/try"
        f" && echo nameserver {lab.internet.dns_address} > /etc/netns/try/resolv.conf"
    )
    yield root
    root.run("ip netns del try; ovs-vsctl del-br br-try; rm -r /etc/netns/try")


def test_internet_answers_on_the_provider_vlan(lab: Lab, provider_leg: Shell) -> None:
    def inside(words: str) -> str:
        return provider_leg.run(f"ip netns exec try {words}")

    for name in lab.internet.web_names:
        assert inside(f"getent hosts {name}").split()[0] == lab.internet.web_address
        assert "internet of this lab" in inside(f"wget -T 5 -qO- http://{name}/")
    inside(f"ping -c 1 -W 2 -M do -s 1472 {lab.internet.web_address}")
    # Checksum offload breaks bulk TCP while ping works.
    big = lab.folder / "internet" / "disk" / "srv" / "www" / "big"
    big.write_bytes(os.urandom(8 << 20))
    said = inside(f"wget -T 20 -qO- http://{lab.internet.web_address}/big | sha256sum")
    assert said.split()[0] == hashlib.sha256(big.read_bytes()).hexdigest()
    big.unlink()
    inside(f"ping -c 1 -W 2 {lab.internet.external_gateway}")


def test_guest_networks_do_not_reach_the_management_network(lab: Lab, provider_leg: Shell) -> None:
    said = provider_leg.run(f"ip netns exec try ping -c 1 -W 1 {lab.hosts[1].address}", check=False)
    assert "100% packet loss" in said


def test_internet_answers_untagged_and_on_the_external_network(lab: Lab, shell: Connect) -> None:
    root = shell("host2")
    legs = (
        ("eth1", "10.2.0.200/24", lab.internet.untagged_gateway),
        ("eth2", "203.0.113.200/24", lab.internet.external_gateway),
    )
    for nic, address, gateway in legs:
        root.run(f"ip addr add {address} dev {nic}")
        try:
            root.run(f"ping -c 1 -W 2 {gateway}")
        finally:
            root.run(f"ip addr del {address} dev {nic}")


def test_a_dead_service_comes_back(shell: Connect) -> None:
    root = shell("host2")
    before = root.run("pidof ovs-vswitchd").strip()
    root.run("kill -9 $(pidof ovs-vswitchd)")
    eventually(
        lambda: root.run("pidof ovs-vswitchd", check=False).strip() not in ("", before),
        "ovs-vswitchd runs again",
    )
    root.run("ovs-vsctl --timeout=10 add-br br-back -- set bridge br-back datapath_type=netdev")
    root.run("ovs-vsctl --timeout=10 del-br br-back")


def test_a_killed_host_starts_again_with_its_disk(lab: Lab, lab_key: Path, shell: Connect) -> None:
    before = service.status(lab.folder).host("host2")
    root = shell("host2")
    root.run("echo kept > /root/kept; touch /run/lost /tmp/lost; sync")
    root.run("ovs-vsctl add-br br-kept -- set bridge br-kept datapath_type=netdev")
    root.run("virsh define /dev/stdin && virsh start tiny", text=DOMAIN)
    root.run("ip link add lost type dummy || ip link add lost type veth peer name lost2")

    service.kill_host(lab.folder, "host2")
    dead = service.status(lab.folder).host("host2")
    assert (dead.running, dead.init_pid, dead.boot_id) == (False, None, None)
    assert not Path(f"/proc/{before.init_pid}/exe").exists()
    assert service.status(lab.folder).host("host1").running
    with pytest.raises(OSError):
        Shell(before, lab_key, timeout=2)

    key = lab_key.with_suffix(".pub").read_text()
    service.start_host(lab.folder, "host2", key)
    service.start_host(lab.folder, "host2", key)
    after = service.status(lab.folder).host("host2")
    assert after.boot_id != before.boot_id
    assert (after.address, after.host_key) == (before.address, before.host_key)
    root = shell("host2")
    assert root.run("cat /root/kept") == "kept\n"
    assert root.run("ls -d /run/lost /tmp/lost", check=False) == ""
    assert root.run("cat /proc/sys/kernel/random/boot_id").strip() == after.boot_id
    assert root.run("ovs-vsctl list-br").split() == ["br-kept", "br-phy"]
    assert "lost" not in root.run("ip -o link")
    assert root.run("virsh domstate tiny").strip() == "shut off"
    root.run("virsh undefine tiny")
    root.run("ovs-vsctl del-br br-kept; rm /root/kept")
    assert up(lab, lab_key) == service.status(lab.folder)


def test_up_starts_what_was_killed(lab: Lab, lab_key: Path) -> None:
    service.kill_host(lab.folder, "host1")
    machine.kill(lab.folder / "internet")
    assert not service.status(lab.folder).internet.running
    again = up(lab, lab_key)
    assert again.internet.running
    assert all(host.running for host in again.hosts)


def test_a_host_told_to_stop_ends(lab: Lab, lab_key: Path, shell: Connect) -> None:
    root = shell("host1")
    root.run("setsid sh -c 'trap : TERM; while :; do sleep 1; done' > /dev/null 2>&1 &")
    pid = service.status(lab.folder).host("host1").init_pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not service.status(lab.folder).host("host1").running, "host1 ends")
    assert up(lab, lab_key).host("host1").running


def test_orphans_are_reaped(shell: Connect) -> None:
    root = shell("host1")
    root.run("setsid -f sh -c 'sleep 0.2'; sleep 0.6")
    assert root.run("ps -eo stat= | grep -c Z", check=False).strip() == "0"


def test_unknown_host_is_refused(lab: Lab) -> None:
    with pytest.raises(NotFound, match="no host 'host9'"):
        service.kill_host(lab.folder, "host9")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and prefix for a second lab, removed at the end whatever became of it."""
    folder, prefix = tmp_path / "other", unique_prefix()
    yield folder, prefix
    service.down(folder)
    eventually(lambda: traces(prefix, folder) == [], "the lab is gone without a trace", seconds=10)


def test_second_lab_stands_beside_and_goes_without_trace(
    lab: Lab, lab_key: Path, other: tuple[Path, str]
) -> None:
    folder, prefix = other
    key = lab_key.with_suffix(".pub").read_text()
    second = service.up(folder, prefix, 1, authorized_key=key, progress=quiet)
    assert second.management_cidr != lab.management_cidr
    Shell(second.hosts[0], lab_key).close()
    assert traces(prefix, folder) != []
    with pytest.raises(LabError, match="prefix"):
        service.up(folder / "x", prefix, 1, authorized_key=key, progress=quiet)
    service.down(folder)
    eventually(lambda: traces(prefix, folder) == [], "the lab is gone without a trace", seconds=10)
    service.down(folder)
    with pytest.raises(NotFound, match="no lab"):
        service.status(folder)
    assert service.status(lab.folder).hosts[0].running


def test_lab_returns_after_the_machine_was_rebooted(lab_key: Path, other: tuple[Path, str]) -> None:
    folder, prefix = other
    key = lab_key.with_suffix(".pub").read_text()
    first = service.up(folder, prefix, 1, authorized_key=key, progress=quiet)
    connection = Shell(first.hosts[0], lab_key)
    connection.run("echo kept > /root/kept")
    connection.close()
    # What a reboot leaves: the folder, with pids that mean nothing any more.
    service.kill_host(folder, "host1")
    machine.kill(folder / "internet")
    subprocess.run(["ip", "netns", "del", first.internet.namespace], check=True, timeout=10)
    network.remove_fabric(prefix)
    again = service.up(folder, prefix, 1, authorized_key=key, progress=quiet)
    connection = Shell(again.hosts[0], lab_key)
    assert connection.run("cat /root/kept") == "kept\n"
    connection.close()
    assert again.hosts[0].host_key == first.hosts[0].host_key
    assert again.hosts[0].boot_id != first.hosts[0].boot_id


START_AND_DIE = """
import sys
from pathlib import Path
from stackctl.lab import service
folder, prefix, key = sys.argv[1:]
print("go", flush=True)
service.up(Path(folder), prefix, 2, authorized_key=key, progress=lambda _: None)
"""


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_half_made_lab_is_finished_or_removed(
    seconds: float, lab_key: Path, other: tuple[Path, str]
) -> None:
    folder, prefix = other
    key = lab_key.with_suffix(".pub").read_text()
    argv = [sys.executable, "-c", START_AND_DIE, str(folder), prefix, key]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        time.sleep(seconds)
        process.kill()
    if seconds in (0.05, 0.3):
        again = service.up(folder, prefix, 2, authorized_key=key, progress=quiet)
        assert all(host.running for host in again.hosts)
    service.down(folder)
    eventually(lambda: traces(prefix, folder) == [], "the lab is gone without a trace", seconds=10)


def test_labs_made_at_once_do_not_meet(tmp_path: Path, lab_key: Path) -> None:
    key = lab_key.with_suffix(".pub").read_text()
    folders = {unique_prefix(): tmp_path / name for name in ("one", "two", "three")}

    def make(prefix: str) -> Lab:
        return service.up(folders[prefix], prefix, 1, authorized_key=key, progress=quiet)

    try:
        with ThreadPoolExecutor(3) as pool:
            labs = list(pool.map(make, folders))
        assert len({made.management_cidr for made in labs}) == 3
        for made in labs:
            Shell(made.hosts[0], lab_key).close()
    finally:
        for folder in folders.values():
            service.down(folder)
