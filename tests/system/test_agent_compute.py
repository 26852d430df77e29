"""Disks, domains and guests on a lab host: real sshd, libvirt, qemu, Open vSwitch and dnsmasq."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from agent import inspection
from agent.resources.configdrive import tap_name
from agent.spec import (
    SPEC_FORMAT,
    Dhcp,
    DirectKernel,
    Disk,
    FixedAddress,
    Guest,
    HostSettings,
    HostSpec,
    Image,
    Network,
    Port,
    Power,
    Server,
    Subnet,
    Tombstone,
    to_plain,
)
from agent.wire import Report
from stackctl.errors import ResourceFailed, StackctlError
from stackctl.fleet import Opening, Target, open_session
from stackctl.lab import guest, service
from stackctl.lab.models import Lab

from .conftest import Shell, unique_prefix

CLOUD, HOST = "11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000001"
DATA = "/var/lib/stackctl/host"
GIB = 1 << 30
NETWORK = Network(
    "33333333-0000-4000-8000-000000000001",
    1,
    "vxlan",
    None,
    0x65,
    1,
    1450,
    True,
    "cluster.local",
    subnets=(
        Subnet(
            "44444444-0000-4000-8000-000000000001",
            1,
            1,
            "192.168.1.0/24",
            None,
            Dhcp("55555555-0000-4000-8000-000000000001", "192.168.1.3", "fa:16:3e:00:00:03"),
        ),
    ),
)


@dataclass
class Outcome:
    """What one convergence said."""

    reports: list[Report]
    done: dict[str, Any]
    facts: dict[str, Any]

    def of(self, kind: str) -> Report:
        """The only report of a kind."""
        (found,) = [report for report in self.reports if report.kind == kind]
        return found

    @property
    def changes(self) -> list[Report]:
        """Reports of what was not yet as it should be (repeating a removal is no change)."""
        return [
            report
            for report in self.reports
            if report.result != "unchanged"
            and not (report.result == "removed" and not report.facts)
        ]


@dataclass
class Parts:
    """One server with all that belongs to it."""

    server: Server
    disk: Disk
    port: Port | None = None

    @property
    def graves(self) -> tuple[Tombstone, ...]:
        """The tombstones that delete it."""
        return (
            Tombstone("domain", self.server.id, 9),
            Tombstone("disk", self.disk.id, 9),
        )

    def with_power(self, serial: int, action: str, timeout_s: int = 20) -> Parts:
        """The same server after a power command."""
        return replace(self, server=replace(self.server, power=Power(serial, action, timeout_s)))


@dataclass
class Cloud:
    """A controller in a few lines: builds specs and sends them to one lab host."""

    target: Target
    image_file: Path
    image: Image
    serial: int = 0
    wanted: list[str] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def new(self, *, nic: bool = False, **changes: Any) -> Parts:
        """A server nobody has made yet."""
        server_id, disk_id = str(uuid.uuid4()), str(uuid.uuid4())
        server = Server(
            server_id,
            1,
            1,
            160,
            Power(1, "start"),
            Guest("vm", "vm", "project", 0, "nova"),
            disks=(disk_id,),
        )
        disk = Disk(disk_id, 1, server_id, "root", "qcow2", GIB, True, self.image.id)
        port = None
        if nic:
            port = Port(
                str(uuid.uuid4()),
                1,
                NETWORK.id,
                server_id,
                "fa:16:3e:00:00:0a",
                (FixedAddress(NETWORK.subnets[0].id, "192.168.1.4"),),
                "vm",
            )
            server = replace(server, ports=(port.id,))
        return Parts(replace(server, **changes), disk, port)

    def spec(self, *parts: Parts, graves: tuple[Tombstone, ...] = (), **changes: Any) -> HostSpec:
        """The newest spec: these servers and nothing else."""
        self.serial += 1
        ports = tuple(part.port for part in parts if part.port is not None)
        values: dict[str, Any] = {
            "settings": HostSettings(tunnel_address="172.31.99.99" if ports else None),
            "networks": (NETWORK,) if ports else (),
            "ports": ports,
            "images": (self.image,),
            "disks": tuple(part.disk for part in parts),
            "servers": tuple(part.server for part in parts),
            "tombstones": graves,
        }
        return HostSpec(
            SPEC_FORMAT, CLOUD, HOST, self.serial, f"n{self.serial}", **{**values, **changes}
        )

    @contextlib.contextmanager
    def session(self, mode: str = "converge", **opening: Any) -> Iterator[Any]:
        """An exchange that has said hello."""
        values = {"images": (self.image,), "claim": True, **opening}
        session = open_session(
            self.target,
            Opening(CLOUD, mode, **values),
            open_image=self._open_image,
            on_step=self.steps.append,
        )
        try:
            yield session
        finally:
            session.close()

    def _open_image(self, sha256: str) -> BinaryIO:
        self.wanted.append(sha256)
        return self.image_file.open("rb")

    def converge(self, spec: HostSpec, mode: str = "converge", **opening: Any) -> Outcome:
        """Have the host be what the spec says."""
        reports: list[Report] = []
        with self.session(mode, **opening) as session:
            done = session.converge(to_plain(spec), self._no_content, reports.extend)
            return Outcome(reports, done, session.hello.facts)

    def act(self, name: str, timeout_s: float = 90, **arguments: Any) -> Any:
        """Have the agent do one action."""
        with self.session("act") as session:
            return session.act(name, arguments, timeout_s)

    def _no_content(self, sha256: str) -> bytes:
        raise FileNotFoundError(sha256)


@pytest.fixture(scope="module")
def own_lab(tmp_path_factory: pytest.TempPathFactory, lab_key: Path) -> Iterator[Lab]:
    """A lab of one host, which belongs to the cloud of these tests."""
    folder = tmp_path_factory.mktemp("compute") / "lab"
    public = lab_key.with_suffix(".pub").read_text()
    try:
        yield service.up(folder, unique_prefix(), 1, authorized_key=public, progress=lambda _: None)
    finally:
        service.down(folder)


@pytest.fixture(scope="module")
def cloud(own_lab: Lab, lab_key: Path, guest_image: Path) -> Cloud:
    host = own_lab.hosts[0]
    target = Target(
        HOST, host.name, "ssh", host.address, host.ssh_port, host.user, host.host_key, lab_key
    )
    content = guest_image.read_bytes()
    image = Image(
        "66666666-0000-4000-8000-000000000001",
        hashlib.sha256(content).hexdigest(),
        len(content),
        "qcow2",
    )
    return Cloud(target, guest_image, image)


@pytest.fixture
def on_host(own_lab: Lab, lab_key: Path) -> Iterator[Callable[..., str]]:
    """Runs a command on the lab host."""
    shell = Shell(own_lab.hosts[0], lab_key)
    yield shell.run
    shell.close()


@pytest.fixture(autouse=True)
def empty_host(cloud: Cloud) -> Iterator[None]:
    """Every test leaves a host without servers."""
    made: list[Parts] = []
    new = cloud.new

    def remember(**options: Any) -> Parts:
        made.append(new(**options))
        return made[-1]

    cloud.new = remember  # type: ignore[method-assign]
    yield
    cloud.new = new  # type: ignore[method-assign]
    graves = tuple(grave for parts in made for grave in parts.graves)
    cloud.converge(cloud.spec(graves=graves))


def within(seconds: float, check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


def test_a_guest_boots_gets_its_address_and_answers(cloud, on_host):
    parts = cloud.new(nic=True)
    spec = cloud.spec(parts, settings=HostSettings(tunnel_address="172.31.1.11"))
    outcome = cloud.converge(spec)
    assert [report.fault for report in outcome.reports if report.fault] == []
    domain = outcome.of("domain")
    assert domain.result == "made"
    assert domain.facts["power_state"] == "RUNNING"
    assert domain.facts["machine_type"].startswith("pc-i440fx-")
    assert outcome.facts["machine_types"]["pc"] == domain.facts["machine_type"]
    assert domain.facts["virt_type"] == outcome.facts["virt_type"]
    assert tap_name(parts.port.id) in on_host(f"virsh domiflist sc-{parts.server.id}")

    again = cloud.converge(spec)
    assert again.changes == []
    assert again.done["counts"]["domain"] == {"unchanged": 1}

    port = {
        "mac": parts.port.mac,
        "address": "192.168.1.4",
        "subnet_id": NETWORK.subnets[0].id,
    }
    waiting = {"server_id": parts.server.id, "ports": [port], "timeout_s": 90}
    with cloud.session("act") as session:
        assert session.act("wait-guest", {**waiting, "what": "dhcp"}, 100)["seconds"] < 90
        assert session.act("wait-guest", {**waiting, "what": "ssh"}, 100)["seconds"] < 90
    assert relayed(cloud, b"SSH-2.0-test\r\n").startswith(b"SSH-2.0-dropbear")
    log = cloud.act("console-log", server_id=parts.server.id, max_bytes=100_000)["text"]
    assert "guest: hostname vm" in log


def relayed(cloud: Cloud, said: bytes) -> bytes:
    """What the guest's SSH server answers to ``said`` through the relay."""
    from_read, from_write = os.pipe()
    to_read, to_write = os.pipe()
    os.write(from_write, said)
    os.close(from_write)
    try:
        with cloud.session("act") as session:
            subnet_id = NETWORK.subnets[0].id
            session.relay(subnet_id, "192.168.1.4", 22, from_read, to_write)
        os.close(to_write)
        return os.read(to_read, 65536)
    finally:
        os.close(from_read)
        os.close(to_read)


def test_relaying_to_nobody_is_a_fault(cloud):
    with cloud.session("act") as session, pytest.raises(ResourceFailed, match=r"192\.168\.1\.4"):
        session.relay(NETWORK.subnets[0].id, "192.168.1.4", 22, 0, 1)


def test_power_is_commanded_and_not_converged(cloud, on_host):
    parts = cloud.new()
    name = f"sc-{parts.server.id}"
    cloud.converge(cloud.spec(parts))
    log = Path(f"{DATA}/servers/{parts.server.id}/console.log")
    within(60, lambda: "ready" in on_host(f"cat {log}"), "the guest is up")

    # The guest goes off by itself: nobody starts it again.
    on_host(f"virsh shutdown {name}")
    within(30, lambda: "shut off" in on_host(f"virsh domstate {name}"), "the guest went off")
    domain = cloud.converge(cloud.spec(parts)).of("domain")
    assert (domain.result, domain.facts["power_state"]) == ("unchanged", "SHUTDOWN")

    domain = cloud.converge(cloud.spec(parts.with_power(2, "start"))).of("domain")
    assert (domain.result, domain.facts["power_state"]) == ("changed", "RUNNING")
    first = on_host(f"virsh domid {name}")

    # Obeyed once; a second convergence with the same command does nothing.
    hard = cloud.spec(parts.with_power(3, "reboot-hard"))
    assert cloud.converge(hard).of("domain").result == "changed"
    second = on_host(f"virsh domid {name}")
    assert first != second
    assert cloud.converge(hard).of("domain").result == "unchanged"
    assert on_host(f"virsh domid {name}") == second

    within(60, lambda: on_host(f"cat {log}").count("ready") >= 2, "the guest is up again")
    begun = time.monotonic()
    domain = cloud.converge(cloud.spec(parts.with_power(4, "stop", 60))).of("domain")
    assert domain.facts["power_state"] == "SHUTDOWN"
    assert time.monotonic() - begun < 50  # it was asked and went by itself


def test_a_running_guest_is_redefined_and_not_restarted(cloud, on_host):
    parts = cloud.new()
    name = f"sc-{parts.server.id}"
    cloud.converge(cloud.spec(parts))
    before = on_host(f"virsh domid {name}")
    larger = replace(parts, server=replace(parts.server, ram_mb=192))
    domain = cloud.converge(cloud.spec(larger)).of("domain")
    assert (domain.result, domain.facts["restart_pending"]) == ("changed", True)
    assert on_host(f"virsh domid {name}") == before
    assert cloud.converge(cloud.spec(larger)).changes == []
    cloud.converge(cloud.spec(larger.with_power(2, "reboot-hard")))
    assert "196608 KiB" in on_host(f"virsh dominfo {name}")

    # Somebody edits it by hand: the next convergence puts it right.
    on_host(f"virsh setvcpus {name} 2 --maximum --config")
    domain = cloud.converge(cloud.spec(larger.with_power(2, "reboot-hard")), "observe").of("domain")
    assert domain.facts["planned"] is True
    assert "'2 vcpus'" in domain.facts["why"]
    assert cloud.converge(cloud.spec(larger.with_power(2, "reboot-hard"))).changes != []
    assert cloud.converge(cloud.spec(larger.with_power(2, "reboot-hard"))).changes == []


def test_what_is_deleted_is_gone_and_nothing_else(cloud, on_host):
    kept, deleted = cloud.new(), cloud.new()
    on_host(
        "virsh define /dev/stdin",
        text="<domain type='qemu'><name>foreign</name><memory>65536</memory>"
        "<os><type>hvm</type></os></domain>",
    )
    cloud.converge(cloud.spec(kept, deleted))
    # A row is gone but nobody gave permission to destroy: told, and left alone.
    outcome = cloud.converge(cloud.spec(kept))
    orphans = {(report.kind, report.id) for report in outcome.reports if report.result == "orphan"}
    assert orphans == {("domain", deleted.server.id), ("disk", deleted.disk.id)}

    outcome = cloud.converge(cloud.spec(kept, graves=deleted.graves))
    assert outcome.done["counts"]["domain"] == {"removed": 1, "unchanged": 1}
    assert deleted.server.id not in on_host(f"virsh list --all --uuid; find {DATA}")
    assert deleted.disk.id not in on_host(f"find {DATA}")
    assert kept.server.id in on_host("virsh list --uuid")
    assert "foreign" in on_host("virsh list --all --name")
    on_host("virsh undefine foreign")


def test_a_lost_disk_is_a_fault_and_never_a_fresh_one(cloud, on_host):
    parts = cloud.new()
    cloud.converge(cloud.spec(parts))
    built = replace(parts, disk=replace(parts.disk, build=False))
    on_host(f"virsh destroy sc-{parts.server.id}; rm {DATA}/disks/{parts.disk.id}.qcow2")
    outcome = cloud.converge(cloud.spec(built.with_power(2, "start")))
    assert "is missing" in outcome.of("disk").fault.message
    assert "not tried" in outcome.of("domain").fault.message


def test_held_servers_are_not_made(cloud, on_host):
    parts = cloud.new(held=True)
    outcome = cloud.converge(cloud.spec(parts))
    assert (outcome.of("disk").result, outcome.of("domain").result) == ("held", "held")
    assert parts.server.id not in on_host("virsh list --all --uuid")


def test_qemu_that_does_not_live_is_told_in_its_own_words(cloud):
    parts, healthy = cloud.new(ram_mb=40_000_000), cloud.new()
    outcome = cloud.converge(cloud.spec(parts, healthy))
    results = {report.id: report for report in outcome.reports if report.kind == "domain"}
    fault = results[parts.server.id].fault
    assert "memory" in fault.message.lower() + fault.detail.lower()
    assert "qemu-system" in fault.detail
    assert results[parts.server.id].facts["power_state"] == "SHUTDOWN"
    assert results[healthy.server.id].facts["power_state"] == "RUNNING"


def test_an_unknown_machine_type_fails_alone(cloud):
    parts = cloud.new(machine_type="pc-i440fx-99.9")
    fault = cloud.converge(cloud.spec(parts)).of("domain").fault
    assert "pc-i440fx-99.9" in fault.message


def test_a_kernel_is_booted_directly(cloud, on_host, direct_boot: guest.DirectBoot):
    files = {"kernel": direct_boot.kernel, "ramdisk": direct_boot.ramdisk}
    images = {
        name: Image(
            f"{name}-image",
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_size,
            "raw",
        )
        for name, path in files.items()
    }
    by_hash = {images[name].sha256: path for name, path in files.items()}
    kernel = DirectKernel("kernel-image", "ramdisk-image", "console=ttyS0")
    parts = cloud.new(kernel=kernel)
    spec = cloud.spec(parts)
    spec = replace(spec, images=(*spec.images, *images.values()))
    reports: list[Report] = []
    opening = Opening(CLOUD, "converge", images=tuple(images.values()))
    session = open_session(cloud.target, opening, open_image=lambda name: by_hash[name].open("rb"))
    try:
        session.converge(to_plain(spec), lambda sha256: b"", reports.extend)
    finally:
        session.close()
    assert [report.fault for report in reports if report.fault] == []
    log = f"{DATA}/servers/{parts.server.id}/console.log"
    within(60, lambda: "guest: kernel" in on_host(f"cat {log}"), "the kernel is up")
    assert "root" in on_host(f"stat -c %U {DATA}/images/{images['kernel'].sha256}")


def test_killed_between_any_two_effects_of_a_boot(cloud, on_host):
    for number in range(1, 100):
        parts = cloud.new()
        on_host(f"rm -rf {DATA}/images")
        killed = is_killed(cloud, cloud.spec(parts), number)
        healed(cloud, lambda parts=parts: cloud.spec(parts), "RUNNING")
        cloud.converge(cloud.spec(graves=parts.graves))
        assert left_of(parts, on_host) == ""
        if not killed:
            assert number > 8  # two of the image, two of the disk, four of the domain
            return
    pytest.fail("no end of kill points")


def test_killed_between_any_two_effects_of_a_delete(cloud, on_host):
    for number in range(1, 100):
        parts = cloud.new()
        cloud.converge(cloud.spec(parts))
        killed = is_killed(cloud, cloud.spec(graves=parts.graves), number)
        cloud.converge(cloud.spec(graves=parts.graves))
        assert left_of(parts, on_host) == ""
        assert cloud.converge(cloud.spec(graves=parts.graves)).changes == []
        if not killed:
            assert number > 4
            return
    pytest.fail("no end of kill points")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "state"), [("reboot-hard", "RUNNING"), ("reboot", "RUNNING"), ("stop", "SHUTDOWN")]
)
def test_killed_between_any_two_effects_of_a_power_command(cloud, action, state):
    parts = cloud.new()
    serial = 1
    for number in range(1, 100):
        cloud.converge(cloud.spec(parts.with_power(serial + 1, "start")))
        serial += 2
        commanded = parts.with_power(serial, action, 1)
        killed = is_killed(cloud, cloud.spec(commanded), number)
        healed(cloud, lambda commanded=commanded: cloud.spec(commanded), state)
        if not killed:
            assert number > 2
            return
    pytest.fail("no end of kill points")


def is_killed(cloud: Cloud, spec: HostSpec, number: int) -> bool:
    """Converge with the agent killed at a point; False when it has fewer."""
    try:
        cloud.converge(spec, kill_at=number)
    except StackctlError:
        return True
    return False


def healed(cloud: Cloud, spec: Callable[[], HostSpec], state: str) -> None:
    """The next convergence completes what is half made; the one after has nothing to do."""
    outcome = cloud.converge(spec())
    assert [report.fault for report in outcome.reports if report.fault] == []
    assert outcome.of("domain").facts["power_state"] == state
    assert cloud.converge(spec()).changes == []


def left_of(parts: Parts, on_host: Callable[..., str]) -> str:
    """Everything on the host that still carries the ids of a server."""
    ids = f"{parts.server.id}|{parts.disk.id}"
    return on_host(
        f"(virsh list --all --uuid; find {DATA} -path {DATA}/agent -prune -o -print)"
        f" | grep -E '{ids}' || true"
    )


def test_two_exchanges_fetch_an_image_once(cloud, on_host):
    on_host(f"rm -rf {DATA}/images")
    cloud.wanted.clear()
    outcomes: list[Outcome] = []
    spec = cloud.spec()
    threads = [
        threading.Thread(target=lambda: outcomes.append(cloud.converge(spec))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cloud.wanted == [cloud.image.sha256]
    assert [outcome.of("image").result for outcome in outcomes] == ["unchanged", "unchanged"]


def test_a_full_disk_leaves_nothing_half_made(cloud, on_host):
    on_host(f"rm -rf {DATA}/images && mkdir {DATA}/images")
    on_host(f"mount -t tmpfs -o size=8m tmpfs {DATA}/images")
    try:
        parts = cloud.new()
        outcome = cloud.converge(cloud.spec(parts))
        assert "free" in outcome.of("image").fault.message
        assert "image" in outcome.of("disk").fault.message
        assert "disk" in outcome.of("domain").fault.message
        assert on_host(f"find {DATA}/images -type f") == ""
    finally:
        on_host(f"umount {DATA}/images")
    assert cloud.converge(cloud.spec(parts)).of("domain").facts["power_state"] == "RUNNING"


def test_a_rebooted_host_starts_its_guests_when_told_to(cloud, own_lab, lab_key):
    parts = cloud.new()
    before = cloud.converge(cloud.spec(parts))
    assert before.of("domain").result == "made"
    name = own_lab.hosts[0].name
    public = lab_key.with_suffix(".pub").read_text()
    service.kill_host(own_lab.folder, name)
    service.start_host(own_lab.folder, name, public)
    domain = cloud.converge(cloud.spec(parts)).of("domain")
    assert (domain.result, domain.facts["power_state"]) == ("unchanged", "SHUTDOWN")
    service.kill_host(own_lab.folder, name)
    service.start_host(own_lab.folder, name, public)
    told = HostSettings(on_boot="all")
    domain = cloud.converge(cloud.spec(parts, settings=told)).of("domain")
    assert (domain.result, domain.facts["power_state"]) == ("changed", "RUNNING")
    assert cloud.converge(cloud.spec(parts, settings=told)).changes == []


def test_libvirt_that_is_not_there_fails_domains_and_says_so(cloud, on_host):
    parts, other = cloud.new(), cloud.new()
    cloud.converge(cloud.spec(parts))
    on_host("mv /run/libvirt/libvirt-sock /run/libvirt/hidden")
    try:
        outcome = cloud.converge(cloud.spec(parts, other))
        faults = [report.fault for report in outcome.reports if report.kind == "domain"]
        assert all("libvirt" in fault.message for fault in faults)
        assert outcome.facts["libvirt_error"]
        assert outcome.done["counts"]["disk"] == {"unchanged": 1, "made": 1}
    finally:
        on_host("mv /run/libvirt/hidden /run/libvirt/libvirt-sock")
    assert cloud.converge(cloud.spec(parts, other)).done["counts"]["domain"] == {
        "unchanged": 1,
        "made": 1,
    }


def test_a_host_that_leaves_is_empty(cloud, on_host):
    parts = cloud.new()
    cloud.converge(cloud.spec(parts))
    with pytest.raises(ResourceFailed, match="must name the host"):
        cloud.act("purge", host_id="another")
    cloud.act("purge", host_id=HOST)
    assert sorted(on_host(f"ls {DATA}").split()) == ["agent", "host.lock"]
    assert parts.server.id not in on_host("virsh list --all --uuid")
    assert "br-int" not in on_host("ovs-vsctl list-br")


def test_what_qemu_img_makes_passes_the_inspection(tmp_path: Path):
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(1 << 20) + bytes(4 << 20))
    for number, options in enumerate(
        (
            [],
            ["-c"],
            ["-o", "cluster_size=4k"],
            ["-o", "compat=0.10"],
            ["-c", "-o", "cluster_size=2M"],
        )
    ):
        image = tmp_path / f"{number}.qcow2"
        argv = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, str(raw), str(image)]
        subprocess.run(argv, check=True, timeout=60)
        found = inspection.inspect(image, "qcow2", image.stat().st_size)
        assert found.virtual_size_bytes == 5 << 20
    empty = tmp_path / "empty.qcow2"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", str(empty), "1T"]
    subprocess.run(argv, check=True, timeout=60)
    assert inspection.inspect(empty, "qcow2", empty.stat().st_size).virtual_size_bytes == 1 << 40
