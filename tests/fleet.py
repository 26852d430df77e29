"""A cloud on the lab as tests use it: the real command, what hosts hold, what the database says."""

from __future__ import annotations

import json
import os
import select
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stackctl.compute.views import list_servers
from stackctl.identity.bootstrap import public_key
from stackctl.identity.context import Watch, admin_context
from stackctl.lab import machine, service
from stackctl.lab.cloud import kill_lab_host, lab_of
from stackctl.lab.models import Internet, LabHost
from stackctl.operation import keep
from stackctl.state import Cloud

ROOT = Path(__file__).parents[1]
DATA = "/var/lib/stackctl/host"
COMMAND_LIMIT_S = 150
RUNS = ("active", "rescued", "resized")
SETTLED = (*RUNS, "stopped", "error", "soft-delete", "shelved", "shelved_offloaded")

LOOK = r"""
import json, os, re, subprocess, sys
data = sys.argv[1]
def words(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    if done.returncode:
        sys.exit(f"{argv}: {done.stderr}")
    return done.stdout.split()
def files(name):
    folder = os.path.join(data, name)
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
dnsmasq = []
guests = 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        argv = open(f"/proc/{pid}/cmdline").read().split("\0")
        state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    except OSError:
        continue
    if state == "Z":
        continue
    if argv[0].endswith("dnsmasq"):
        dnsmasq += sorted(set(re.findall(r"[0-9a-f-]{36}", " ".join(argv))))
    guests += "qemu-system" in argv[0] and "-name" in argv
devices = [n for n in os.listdir("/sys/class/net") if n.startswith("tap")]
# An end of a router that is outside its namespace is too much, too.
ends = [n for n in os.listdir("/sys/class/net") if n.startswith(("qr-", "qg-"))]
namespaces = sorted(n for n in os.listdir("/run/netns")) if os.path.isdir("/run/netns") else []
for name in namespaces:
    if name.startswith("qrouter-"):
        inside = words("ip", "netns", "exec", name, "ls", "/sys/class/net")
        ends += [f"{name}/{n}" for n in inside if n != "lo"]
zones = os.path.join(data, "zones.json")
ledger = json.load(open(zones)) if os.path.exists(zones) else {}
print(json.dumps({
    "router_ends": sorted(ends),
    "routers": files("routers"),
    "zones": sorted(f"{n} {zone['network']}" for n, zone in ledger.items()),
    "taps": sorted(devices),
    "ports": sorted(words("ovs-vsctl", "--timeout=10", "list-ports", "br-int"))
        if "br-int" in words("ovs-vsctl", "--timeout=10", "list-br") else [],
    "trunk_bridges": sorted(n for n in words("ovs-vsctl", "--timeout=10", "list-br")
        if n.startswith("tbr-")),
    # An adopted domain keeps its name: its id tells whose it is.
    "domains": sorted("sc-" + id for id in words("virsh", "-q", "list", "--all", "--uuid")),
    "guests": guests,
    "disks": files("disks"),
    "volumes": files("volumes"),
    "drives": files("drives"),
    "servers": files("servers"),
    "pending": files("pending"),
    "namespaces": namespaces,
    "dnsmasq": sorted(dnsmasq),
}))
"""


@dataclass(frozen=True)
class Result:
    """What a command said."""

    argv: tuple[str, ...]
    exit: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout, read as JSON."""
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"stackctl {' '.join(self.argv)} -> {self.exit}\n{self.out}{self.err}"


@dataclass(frozen=True)
class Running:
    """A command that was started and not yet waited for."""

    argv: tuple[str, ...]
    process: subprocess.Popen[str]

    def wait(self, timeout: float = COMMAND_LIMIT_S) -> Result:
        """Its end."""
        out, err = self.process.communicate(timeout=timeout)
        return Result(self.argv, self.process.returncode, out, err)


class Forks:
    """Runs commands, one at a time, in a process that has imported everything: see forked.py."""

    def __init__(self, folder: Path) -> None:
        self._out, self._err = folder / "out", folder / "err"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(self, argv: tuple[str, ...], environment: Mapping[str, str]) -> Result:
        """Run a command to its end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._out.write_text("")
        self._err.write_text("")
        files = {"out": str(self._out), "err": str(self._err)}
        request = {"argv": argv, "environment": dict(environment), **files}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], COMMAND_LIMIT_S)
        assert ready, f"stackctl {' '.join(argv)} does not end"
        status = int(self._process.stdout.readline())
        return Result(argv, status, self._out.read_text(), self._err.read_text())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@dataclass
class Fleet:
    """A cloud whose hosts are those of a lab."""

    cloud: Cloud
    forks: Forks
    tiny = ("--image", "tiny", "--flavor", "tiny", "--nic", "net=faults")
    """The words that boot the tiny guest."""

    # --- commands ---------------------------------------------------------------------------

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """What commands of this cloud find around them."""
        clouds, name = str(self.cloud.folder.parent), self.cloud.name
        ours = {"STACKCTL_CLOUDS": clouds, "STACKCTL_CLOUD": name, "PYTHONPATH": str(ROOT)}
        return {**os.environ, **ours, **more}

    def start(self, *argv: str, **environment: str) -> Running:
        """Start a command as a process of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "stackctl", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(environment),
        )
        return Running(argv, process)

    def run(self, *argv: str, exit: int | None = 0, **environment: str) -> Result:
        """Run a command to its end; ``exit``: the status it must have (None: any)."""
        result = self.forks.run(argv, self.environment(environment))
        assert exit is None or result.exit == exit, str(result)
        assert "Traceback" not in result.err, str(result)
        return result

    def boot(self, name: str, *argv: str, exit: int | None = 0, **environment: str) -> Result:
        """Boot servers of the tiny guest."""
        return self.run("boot", name, *self.tiny, *argv, "-f", "json", exit=exit, **environment)

    def servers(self) -> dict[str, Mapping[str, Any]]:
        """What ``list`` shows, by name."""
        titles = ("ID", "Instance Name", "IP Address", "Status", "Task", "Power State", "Host")
        words = [word for title in titles for word in ("-c", title)]
        return {row["Instance Name"]: row for row in self.run("list", "-f", "json", *words).json}

    def statuses(self) -> dict[str, str]:
        """The status of each server, by name."""
        return {row.name: row.status for row in list_servers(admin_context(self.cloud))}

    def delete_all(self) -> None:
        """Delete every server."""
        names = list(self.statuses())
        if names:
            self.run("delete", "--yes", *names)

    # --- hosts ------------------------------------------------------------------------------

    def lab_host(self, name: str) -> LabHost:
        """A host of the lab, as it is now."""
        return lab_of(self.cloud).host(name)

    def hosts(self) -> list[str]:
        """The names of all hosts."""
        return [host.name for host in lab_of(self.cloud).hosts]

    def lab_internet(self) -> Internet:
        """The lab's internet, as it is now."""
        return lab_of(self.cloud).internet

    def kill_host(self, name: str) -> None:
        """Pull a host's plug."""
        kill_lab_host(self.cloud, name)

    def start_host(self, name: str) -> None:
        """Start a host that was killed; nobody converges it."""
        service.start_host(self.cloud.lab, name, public_key(self.cloud))

    @contextmanager
    def down(self, *hosts: str) -> Iterator[None]:
        """Hosts are off meanwhile; afterwards they run and are what the rows say."""
        for host in hosts:
            self.kill_host(host)
        try:
            yield
        finally:
            for host in hosts:
                self.start_host(host)
            self.run("converge", "--all", exit=None)

    def killing_agents(self, at: int, *argv: str, hosts: Sequence[str] = ("host1",)) -> int:
        """Run a command whose agents on these hosts die at a point; how many did, by the logins:
        each is started again."""
        before = sum(map(self.logins, hosts))
        self.run(*argv, STACKCTL_AGENT_KILL_AT=str(at))
        return sum(map(self.logins, hosts)) - before - len(hosts)

    def answers(self, host: str, address: str) -> bool:
        """Whether a guest answers the DHCP server of its own host."""
        name = next(name for name in self.world(host)["namespaces"] if name.startswith("qdhcp-"))
        ping = ("ping", "-c", "1", "-W", "1", address)
        return " 0% packet loss" in self.inside(
            host, "ip", "netns", "exec", name, *ping, check=False
        )

    def inside(self, host: str, *argv: str, check: bool = True, text: str = "") -> str:
        """Run a program on a host, beside SSH and the agent."""
        pid = machine.init_pid(self.cloud.lab / "hosts" / host)
        assert pid is not None, f"{host} is not running"
        enter = ["nsenter", "-t", str(pid), "-m", "-u", "-n", "-i", "-p", "--"]
        done = subprocess.run(
            [*enter, *argv],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        assert not check or done.returncode == 0, f"{argv}: {done.stderr or done.stdout}"
        return done.stdout

    def world(self, host: str) -> dict[str, Any]:
        """What a host holds of us."""
        seen: dict[str, Any] = json.loads(
            self.inside(host, "/usr/bin/python3", "-I", "-c", LOOK, DATA)
        )
        return seen

    def logins(self, host: str) -> int:
        """How often somebody logged in to a host."""
        return self.inside(host, "cat", "/var/log/sshd.log").count("Accepted ")

    def images(self, host: str) -> list[str]:
        """The files of a host's image cache, hidden ones too."""
        return self.inside(host, "ls", "-A", f"{DATA}/images").split()

    # --- the database -----------------------------------------------------------------------

    def rows(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        """A look into the database, beside our own code."""
        with closing(sqlite3.connect(f"file:{self.cloud.database}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(sql, parameters)]

    def wanted(self, host: str) -> dict[str, Any]:
        """What a host must hold, told from the rows alone; ``may``: what it need not."""
        (row,) = self.rows("SELECT * FROM hosts WHERE name = ? AND deleted_at IS NULL", host)
        bound = self.rows(
            "SELECT ports.id, device_owner, device_id FROM bindings "
            "JOIN ports ON ports.id = port_id WHERE host_id = ? AND deleted_at IS NULL",
            row["id"],
        )
        ends = [port for port in bound if port["device_owner"].startswith("network:router")]
        ports = [port for port in bound if port not in ends]
        routers = {port["device_id"] for port in ends}
        subports = {port["id"] for port in ports if port["device_owner"] == "trunk:subport"}
        trunks = [
            trunk
            for trunk in self.rows("SELECT id, port_id FROM trunks WHERE deleted_at IS NULL")
            if trunk["port_id"] in {port["id"] for port in ports}
        ]
        parents = {trunk["port_id"] for trunk in trunks}
        zones = self.rows(
            "SELECT local_vlan, network_id FROM host_networks "
            "WHERE host_id = ? AND released_serial IS NULL",
            row["id"],
        )
        # A router needs no DHCP server: only subnets that a server's port lies on have one.
        subnets = self.rows(
            "SELECT DISTINCT subnets.id, dhcp.port_id FROM bindings "
            "JOIN ports ON ports.id = bindings.port_id "
            "JOIN addresses AS its ON its.port_id = ports.id AND its.released_serial IS NULL "
            "JOIN subnets ON subnets.id = its.subnet_id "
            "JOIN addresses AS dhcp ON dhcp.subnet_id = subnets.id AND dhcp.kind = 'dhcp' "
            "AND dhcp.released_serial IS NULL "
            "WHERE host_id = ? AND ports.deleted_at IS NULL AND subnets.dhcp = 1 "
            "AND device_owner NOT LIKE 'network:%'",
            row["id"],
        )
        servers = self.rows(
            "SELECT * FROM servers WHERE host_id = ? AND deleted_at IS NULL", row["id"]
        )
        disks = self.rows("SELECT * FROM disks WHERE host_id = ? AND deleted_at IS NULL", row["id"])
        volumes = self.rows(
            "SELECT id, format FROM volumes WHERE host_id = ? AND built = 1 AND deleted_at IS NULL "
            "AND type_id IS NULL UNION SELECT id, format FROM volume_snapshots "
            "WHERE host_id = ? AND built = 1 AND deleted_at IS NULL AND type_id IS NULL",
            row["id"],
            row["id"],
        )
        broken = {server["id"] for server in servers if server["vm_state"] == "error"}
        whole = [server["id"] for server in servers if server["id"] not in broken]
        # Of a server that was moved the old disks stay until that is confirmed.
        error = self.rows("SELECT id FROM servers WHERE vm_state = 'error' AND deleted_at IS NULL")
        lame = {server["id"] for server in error}
        return {
            "taps": sorted(f"tap{p['id'][:11]}" for p in ports if p["id"] not in subports),
            "trunk_bridges": sorted(f"tbr-{trunk['id'][:11]}" for trunk in trunks),
            "legs": sorted(
                [f"tpi-{id_[:11]}" for id_ in parents] + [f"spi-{id_[:11]}" for id_ in subports]
            ),
            "parents": sorted(f"tap{id_[:11]}" for id_ in parents),
            "dhcp_taps": sorted(f"tap{subnet['port_id'][:11]}" for subnet in subnets),
            "domains": sorted(f"sc-{id_}" for id_ in whole),
            "guests": sum(runs(server) for server in servers),
            "disks": sorted(
                f"{disk['id']}.{disk['format']}" for disk in disks if disk["server_id"] not in lame
            ),
            "drives": sorted(f"{id_}.iso" for id_ in whole),
            "volumes": sorted(f"{volume['id']}.{volume['format']}" for volume in volumes),
            "servers": sorted(whole),
            "pending": [],
            "namespaces": sorted(
                [f"qdhcp-{subnet['id']}" for subnet in subnets]
                + [f"qrouter-{id_}" for id_ in routers]
            ),
            "router_ports": sorted(_end_name(port) for port in ends),
            "router_ends": sorted(f"qrouter-{p['device_id']}/{_end_name(p)}" for p in ends),
            "routers": sorted(routers),
            "zones": sorted(f"{zone['local_vlan']} {zone['network_id']}" for zone in zones),
            "dnsmasq": sorted(subnet["id"] for subnet in subnets),
            "broken": sorted(broken),
            "adopted": {disk["server_id"] for disk in disks if disk["path"]},
            "broken_disks": {disk["id"] for disk in disks if disk["server_id"] in lame},
        }

    # --- what must hold ---------------------------------------------------------------------

    def check(self, hosts: Iterable[str] | None = None) -> None:
        """Hosts hold what the rows say and nothing else; the rows contradict nobody."""
        self.check_rows()
        for host in self.hosts() if hosts is None else hosts:
            problems = differences(self.world(host), self.wanted(host))
            assert problems == [], f"{host}: {problems}"

    def check_rows(self) -> None:
        """The database is whole, no address or MAC is there twice, every server is settled."""
        assert self.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
        assert self.rows("PRAGMA foreign_key_check") == []
        twice = "SELECT {0}, count(*) FROM {1} GROUP BY {0} HAVING count(*) > 1"
        assert self.rows(twice.format("mac", "ports WHERE deleted_at IS NULL")) == []
        live = "addresses WHERE released_serial IS NULL"
        assert self.rows(twice.format("network_id || address", live)) == []
        loose = self.rows(
            "SELECT addresses.address FROM addresses JOIN ports ON ports.id = port_id "
            "WHERE released_serial IS NULL AND deleted_at IS NOT NULL"
        )
        assert loose == []
        unsettled = self.rows(
            "SELECT name, vm_state, task_state, fault_json FROM servers WHERE deleted_at IS NULL "
            f"AND (task_state IS NOT NULL OR vm_state NOT IN {SETTLED} "
            "OR (vm_state = 'error' AND ifnull(json_extract(fault_json, '$.message'), '') = ''))"
        )
        assert unsettled == []

    def check_at_rest(self) -> None:
        """Hosts and rows agree, and neither a look nor another convergence finds work."""
        self.check()
        assert self.rows("SELECT port_id FROM bindings WHERE role != 'active'") == []
        lame = "SELECT name, status, fault_json FROM routers WHERE deleted_at IS NULL AND "
        assert self.rows(lame + "host_id IS NOT NULL AND status != 'ACTIVE'") == []
        context = admin_context(self.cloud)
        assert keep.drift(context, ()) == ([], [])
        changed: list[str] = []

        def listen(step: str, host: str, resource: str, _: float) -> None:
            if step.endswith((" made", " changed", " removed", " failed", " busy", " orphan")):
                changed.append(f"{host} {step} {resource}")

        context = replace(context, watch=Watch(trace=listen))
        keep.converge_hosts(context, (), everything=True).check()
        assert changed == []
        self.check()
        assert self.rows("SELECT summary FROM operations WHERE outcome = 'running'") == []


COMPARED = (
    "domains", "drives", "servers", "disks", "volumes", "pending", "namespaces", "dnsmasq",
    "routers", "router_ends", "zones",
)  # fmt: skip


def differences(seen: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """How a host differs from its rows. A broken server may have all, some or none of its parts;
    an adopted one gets its drive when it is first started."""
    broken = wanted["broken"]
    unstarted = wanted["adopted"] - {name[: -len(".iso")] for name in seen["drives"]}
    optional = {
        "domains": {f"sc-{id_}" for id_ in broken},
        "drives": {f"{id_}.iso" for id_ in broken},
        "servers": set(broken),
        "disks": {name for name in seen["disks"] if _disk_id(name) in wanted["broken_disks"]},
    }
    problems = []
    for kind in COMPARED:
        found = set(seen[kind]) - optional.get(kind, set())
        if kind in ("drives", "servers"):
            found |= {name for name in wanted[kind] if name.partition(".")[0] in unstarted}
        if found != set(wanted[kind]):
            problems.append(_difference(kind, found, wanted[kind]))
    guest_taps = set(seen["taps"]) - set(wanted["dhcp_taps"])
    if guest_taps != set(wanted["taps"]):
        problems.append(_difference("taps", guest_taps, wanted["taps"]))
    begin = ("tap", "qr-", "qg-", "spi-", "tpi-")
    ports = {name for name in seen["ports"] if name.startswith(begin)}
    wanted_ports = {*wanted["taps"], *wanted["dhcp_taps"], *wanted["router_ports"]}
    # A trunk's parent is in the trunk's bridge, which leads to br-int by patches.
    wanted_ports = wanted_ports - set(wanted["parents"]) | set(wanted["legs"])
    if seen["trunk_bridges"] != wanted["trunk_bridges"]:
        seen_bridges, bridges = seen["trunk_bridges"], wanted["trunk_bridges"]
        problems.append(_difference("bridges of trunks", seen_bridges, bridges))
    if ports != wanted_ports:
        problems.append(_difference("switch ports", ports, wanted_ports))
    if not wanted["guests"] <= seen["guests"] <= wanted["guests"] + len(broken):
        problems.append(f"{seen['guests']} guests run, should be {wanted['guests']}")
    if len(seen["dnsmasq"]) != len(set(seen["dnsmasq"])):
        problems.append(f"two dnsmasq for one subnet: {seen['dnsmasq']}")
    return problems


def runs(server: Mapping[str, Any]) -> bool:
    """Whether a server's guest should be there: one that was moved, or resized, may be off."""
    state, power = server["vm_state"], server["power_state"]
    return state in RUNS and (state != "resized" or power == "RUNNING")


def _end_name(port: Mapping[str, Any]) -> str:
    prefix = "qg-" if port["device_owner"] == "network:router_gateway" else "qr-"
    return prefix + str(port["id"])[:11]


def _difference(kind: str, found: Iterable[str], wanted: Iterable[str]) -> str:
    extra, missing = set(found) - set(wanted), set(wanted) - set(found)
    return f"{kind}: too much {sorted(extra)}, missing {sorted(missing)}"


def _disk_id(name: str) -> str:
    return name.lstrip(".").partition(".")[0]


def paragraph(result: Result) -> tuple[str, str]:
    """The one paragraph of an error and the command to type next."""
    lines: Sequence[str] = result.err.strip().splitlines()
    lines = [line for line in lines if not line.startswith("Warning:")]
    assert lines and lines[0].startswith("Error: "), str(result)
    assert all(line.strip() for line in lines), str(result)
    hints = [line for line in lines if line.startswith("Try: ")]
    body = [line for line in lines if not line.startswith("Try: ")]
    assert len(hints) <= 1 and len(body) == 1, str(result)
    return body[0], hints[0].removeprefix("Try: ") if hints else ""
