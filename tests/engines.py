"""Fixtures on real engines that tests/system and tests/faults share: one lab, one cloud on it."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest
import yaml

from stackctl.compute.flavors import NewFlavor, create_flavor
from stackctl.identity.bootstrap import create_cloud, public_key
from stackctl.identity.context import Watch, admin_context
from stackctl.image.service import create_image
from stackctl.image.types import NewImage
from stackctl.lab import guest, service
from stackctl.lab.cloud import lab_prefix, start_lab
from stackctl.lab.models import Lab, LabHost
from stackctl.lab.requirements import missing_commands
from stackctl.network.networks import NewNetwork, create_network
from stackctl.network.subnets import NewSubnet
from stackctl.state import Cloud, read
from tests.fleet import Fleet, Forks

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "stackctl"

TINY_GUEST = bytes.fromhex(
    "b80001 ba0206 ef"  # enable the power button: PM1_EN (0x602) = PWRBTN
    "fb f4"  # wait: sti; hlt
    "ba0006 ed f6c401 74f5"  # until PM1_STS (0x600) says that it was pressed
    "ba0406 b80020 ef ebfe"  # then power off: PM1_CNT (0x604) = SLP_EN
).ljust(510, b"\0") + bytes.fromhex("55aa")
"""A boot sector that is a whole guest: up at once, idle, and gone when ACPI asks it to go."""


class Shell:
    """An SSH connection to a lab host, its key pinned."""

    def __init__(self, host: LabHost, key: Path, user: str = "root", timeout: float = 10) -> None:
        kind, _, blob = host.host_key.partition(" ")
        assert kind == "ssh-ed25519"
        pinned = paramiko.Ed25519Key(data=base64.b64decode(blob))
        self.client = paramiko.SSHClient()
        self.client.get_host_keys().add(host.address, kind, pinned)
        self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            self.client.connect(
                host.address,
                port=host.ssh_port,
                username=user,
                pkey=paramiko.Ed25519Key.from_private_key_file(str(key)),
                look_for_keys=False,
                allow_agent=False,
                timeout=timeout,
            )
        except BaseException:
            self.client.close()
            raise

    def run(self, command: str, *, text: str = "", timeout: float = 60, check: bool = True) -> str:
        """Run a command on the host, return its stdout; a failure fails the test with its words."""
        stdin, stdout, stderr = self.client.exec_command(command, timeout=timeout)
        stdin.write(text)
        stdin.channel.shutdown_write()
        output, errors = stdout.read().decode(), stderr.read().decode()
        # Always await the end: dropbear closes the next channel when one is dropped before it.
        status = stdout.channel.recv_exit_status()
        assert status == 0 or not check, f"{command}: {errors or output}"
        return output

    def put(self, source: Path, target: str) -> None:
        """Copy a file to the host."""
        with self.client.open_sftp() as sftp:
            sftp.put(str(source), target)

    def close(self) -> None:
        """End the connection."""
        self.client.close()


@pytest.fixture(scope="session")
def lab_cloud(tmp_path_factory: pytest.TempPathFactory) -> Cloud:
    """The cloud whose lab all tests share; its hosts are registered by who needs them to be."""
    cloud = Cloud("lab", tmp_path_factory.mktemp("clouds") / "lab")
    create_cloud(cloud)
    # Lab hosts answer in milliseconds, or are off.
    settings: dict[str, object] = {"connect_timeout_s": 5, "peripheral_connect_timeout_s": 3}
    # No test is placed by what one before it made fail.
    settings["scheduler"] = {"build_failure_weight_multiplier": 0}
    (cloud.folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return cloud


@pytest.fixture(scope="session")
def lab_key(lab_cloud: Cloud) -> Path:
    """A private key that opens the lab's hosts; its public half lies beside it (.pub)."""
    return lab_cloud.key_file


@pytest.fixture(scope="session")
def lab(lab_cloud: Cloud) -> Iterator[Lab]:
    """A lab of two hosts; a missing engine is an error."""
    assert missing_commands() == []
    folder, key = lab_cloud.lab, public_key(lab_cloud)
    try:
        yield service.up(
            folder, lab_prefix(lab_cloud), 2, authorized_key=key, progress=lambda _: None
        )
    finally:
        service.down(folder)


@pytest.fixture
def shell(lab: Lab, lab_key: Path) -> Iterator[Callable[..., Shell]]:
    """Makes shells: ``shell("host1")``, ``shell("host2", user="operator")``."""
    with contextlib.ExitStack() as stack:

        def connect(name: str, user: str = "root") -> Shell:
            host = service.status(lab.folder).host(name)
            opened = Shell(host, lab_key, user)
            stack.callback(opened.close)
            return opened

        yield connect


@pytest.fixture(scope="session")
def guest_image() -> Path:
    """The small bootable guest, built once per machine."""
    return guest.build_guest_image(CACHE / "guest.qcow2", progress=lambda _: None)


@pytest.fixture(scope="session")
def direct_boot() -> guest.DirectBoot:
    """The small guest as kernel and ramdisk, built once per machine."""
    return guest.build_kernel_and_ramdisk(CACHE)


@pytest.fixture(scope="session")
def fleet(lab: Lab, lab_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The lab's cloud with its hosts registered, a network, a tiny flavor and image."""
    made = start_lab(lab_cloud, 2, watch=Watch(), progress=lambda _: None)
    assert made.failed == ()
    with read(lab_cloud) as reader:
        unready = reader.all(
            "SELECT name, disabled_reason, facts_json FROM hosts WHERE NOT enabled"
        )
    assert not unready, str(unready)
    context = admin_context(lab_cloud)
    tiny = io.BytesIO(TINY_GUEST.ljust(1024 * 1024, b"\0"))
    create_image(context, NewImage("tiny", "raw"), tiny).check()
    create_flavor(context, NewFlavor("tiny", vcpus=1, ram_mb=64, disk_gb=1)).check()
    subnet = NewSubnet(cidr="10.77.0.0/24")
    create_network(context, NewNetwork(name="faults", subnet=subnet)).check()
    forks = Forks(tmp_path_factory.mktemp("commands"))
    try:
        yield Fleet(lab_cloud, forks)
    finally:
        forks.close()


def eventually(check: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    """Wait until something holds, or fail naming it."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
