"""A host of the lab: the files that make it a server of its own, and what it runs."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from stackctl.lab import machine, network
from stackctl.lab.commands import run, succeeds
from stackctl.lab.machine import Boot, Service
from stackctl.lab.requirements import ADMIN_PATH

FIRST_NUMBER = 11
MAX_HOSTS = 50
OPERATOR = "operator"
OPERATOR_ID = 4000
DATABASE = "/etc/openvswitch/conf.db"
OVS_SOCKET = "/run/openvswitch/db.sock"
PID = "--pidfile"
VSCTL = ("ovs-vsctl", "--timeout=10")
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
VCPUS, RAM_MB, DISK_GB = 8, 16384, 100

SSHD_CONFIG = """\
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
# Without PAM a login costs a quarter of a second less; accounts are unlocked, not passwordless.
UsePAM no
PrintMotd no
UseDNS no
Subsystem sftp internal-sftp
"""
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
"""
LIBVIRTD_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
host_uuid = "{uuid}"
"""


@dataclass(frozen=True)
class HostPlan:
    """What a host is, by its number and its lab: all of it follows from these three."""

    prefix: str
    management_cidr: str
    number: int

    @property
    def name(self) -> str:
        """The host's name."""
        return f"host{self.number}"

    @property
    def address(self) -> str:
        """Its management address, where SSH listens."""
        return network.host_address(self.management_cidr, FIRST_NUMBER + self.number - 1)

    @property
    def tunnel_address(self) -> str:
        """Its end of every VXLAN tunnel."""
        cidr = network.tunnel_cidr(self.management_cidr)
        return network.host_address(cidr, FIRST_NUMBER + self.number - 1)

    @property
    def internet_address(self) -> str:
        """Its way out, and its name server."""
        return network.host_address(self.management_cidr, 2)

    @property
    def wiring(self) -> network.Wiring:
        """Its NICs: management, provider trunk, external, tunnel underlay."""
        macs = [network.mac(self.management_cidr, self.number, nic) for nic in range(4)]
        nics = (
            network.Nic("eth0", network.MANAGEMENT, macs[0], f"{self.address}/24"),
            network.Nic("eth1", network.PROVIDER, macs[1]),
            network.Nic("eth2", network.EXTERNAL, macs[2]),
            network.Nic("eth3", network.TUNNEL, macs[3], mtu=network.TUNNEL_MTU),
        )
        namespace = f"{self.prefix}-h{self.number}"
        return network.Wiring(namespace, f"h{self.number}", nics, self.internet_address)


def make_files(folder: Path, plan: HostPlan) -> None:
    """Make a host's disk as it is before its first boot."""
    temporary = folder.with_name(folder.name + ".new")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    etc = machine.make_disk(temporary)
    _write_identity(etc, plan)
    _write_accounts(etc)
    _write_ssh(etc, plan.name)
    make_ovs_database(etc)
    libvirt = machine.hide(etc, "libvirt")
    (libvirt / "qemu.conf").write_text(QEMU_CONF)
    (libvirt / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(uuid=uuid.uuid4()))
    temporary.rename(folder)


def _write_identity(etc: Path, plan: HostPlan) -> None:
    (etc / "hostname").write_text(plan.name + "\n")
    (etc / "machine-id").write_text(uuid.uuid4().hex + "\n")
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{plan.address} {plan.name}\n")
    (etc / "resolv.conf").write_text(f"nameserver {plan.internet_address}\n")


def _write_accounts(etc: Path) -> None:
    """Root and an operator with sudo, both by key alone, with a plain shell."""
    home = f"/home/{OPERATOR}"
    passwd = [line for line in _outer("passwd") if not line.startswith(f"{OPERATOR}:")]
    entry = f"{OPERATOR}:x:{OPERATOR_ID}:100::{home}:/bin/bash"
    (etc / "passwd").write_text("\n".join([*passwd, entry, ""]))
    users = ("root", OPERATOR)
    shadow = [line for line in _outer("shadow") if line.split(":")[0] not in users]
    shadow += [f"{name}:*:19000:0:99999:7:::" for name in users]
    (etc / "shadow").write_text("\n".join([*shadow, ""]))
    (etc / "shadow").chmod(0o640)
    machine.hide(etc, "profile.d")
    (etc / "profile").write_text(f"PATH={ADMIN_PATH}\nexport PATH\n")
    (etc / "bash.bashrc").write_text("")
    sudoers = etc / "sudoers"
    sudoers.write_text(
        "Defaults env_reset\nroot ALL=(ALL:ALL) ALL\n"
        f"{OPERATOR} ALL=(ALL:ALL) NOPASSWD: ALL\n@includedir /etc/sudoers.d\n"
    )
    sudoers.chmod(0o440)


def _outer(name: str) -> list[str]:
    return Path("/etc", name).read_text().splitlines()


def _write_ssh(etc: Path, name: str) -> None:
    ssh = machine.hide(etc, "ssh")
    (ssh / "sshd_config").write_text(SSHD_CONFIG)
    key = ssh / "ssh_host_ed25519_key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)])


def make_ovs_database(etc: Path) -> None:
    """Make an empty Open vSwitch database in place of the outer machine's."""
    folder = machine.hide(etc, "openvswitch")
    (folder / "system-id.conf").write_text(f"{uuid.uuid4()}\n")
    run(["ovsdb-tool", "create", str(folder / "conf.db"), SCHEMA])


def host_key(folder: Path) -> str:
    """The host's public key, as known_hosts holds it: type and base64."""
    file = folder / "layers" / "etc" / "upper" / "ssh" / "ssh_host_ed25519_key.pub"
    return " ".join(file.read_text().split()[:2])


def authorize(folder: Path, authorized_key: str) -> None:
    """Let this key in, as root and as the operator."""
    for home, owner in (("root", 0), (f"home/{OPERATOR}", OPERATOR_ID)):
        ssh = folder / "disk" / home / ".ssh"
        ssh.mkdir(parents=True, exist_ok=True)
        (ssh / "authorized_keys").write_text(authorized_key.strip() + "\n")
        for path, mode in ((ssh.parent, 0o700), (ssh, 0o700), (ssh / "authorized_keys", 0o600)):
            path.chmod(mode)
            os.chown(path, owner, 100 if owner else 0)


def datapath_type() -> str:
    """``system`` when this kernel has the Open vSwitch datapath, ``netdev`` (userspace) if not."""
    if not Path("/sys/module/openvswitch").exists():
        succeeds(["modprobe", "openvswitch"])
    return "system" if Path("/sys/module/openvswitch").exists() else "netdev"


def ovs_services() -> list[Service]:
    """The database and the switch."""
    return [
        # By their pid files ovs-appctl finds them.
        Service("ovsdb-server", ["ovsdb-server", DATABASE, f"--remote=punix:{OVS_SOCKET}", PID]),
        Service("ovs-vswitchd", ["ovs-vswitchd", f"unix:{OVS_SOCKET}", PID], after=OVS_SOCKET),
    ]


def boot(folder: Path, plan: HostPlan) -> Boot:
    """What the host runs, and what it does at each start."""
    services = [
        Service("sshd", ["/usr/sbin/sshd", "-D", "-e"]),
        *ovs_services(),
        Service("virtlogd", ["virtlogd"]),
        Service("libvirtd", ["libvirtd"]),
    ]
    steps = [
        *ovs_steps(folder, plan.name),
        # The userspace datapath sends VXLAN only from an address that sits on one of its bridges.
        [
            *add_bridge("br-phy"),
            *("--", "--may-exist", "add-port", "br-phy", "eth3"),
            *("--", "set", "interface", "br-phy", f"mtu_request={network.TUNNEL_MTU}"),
        ],
        ["ip", "addr", "replace", f"{plan.tunnel_address}/24", "dev", "br-phy"],
        ["ip", "link", "set", "br-phy", "up"],
        ["virsh", "-q", "-c", "qemu:///system", "version"],
    ]
    return Boot(plan.name, services, steps, ports=(22,))


def ovs_steps(folder: Path, name: str) -> list[list[str]]:
    """Tell the switch who it is, as the distribution's start script does."""
    file = folder / "layers" / "etc" / "upper" / "openvswitch" / "system-id.conf"
    identity = f"external_ids:system-id={file.read_text().strip()}"
    return [
        [*VSCTL, "--no-wait", "init"],
        [*VSCTL, "--no-wait", "set", "Open_vSwitch", ".", identity],
        [*VSCTL, "--no-wait", "set", "Open_vSwitch", ".", f"external_ids:hostname={name}"],
    ]


def add_bridge(bridge: str) -> list[str]:
    """The command that makes a bridge which switches by itself, unless it is there."""
    settings = [f"datapath_type={datapath_type()}", "fail_mode=standalone"]
    return [*VSCTL, "--may-exist", "add-br", bridge, "--", "set", "bridge", bridge, *settings]


def start(folder: Path, plan: HostPlan, authorized_key: str) -> None:
    """Boot the host; its first boot makes its disk."""
    if not folder.exists():
        make_files(folder, plan)
    machine.kill(folder)
    authorize(folder, authorized_key)
    network.plug(plan.prefix, plan.wiring)
    machine.start_or_kill(folder, plan.wiring.namespace, boot(folder, plan))
