"""Fixtures on real engines: a lab of two hosts, shells on its hosts, the guest image."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest

from stackctl.lab import guest, service
from stackctl.lab.models import Lab, LabHost
from stackctl.lab.requirements import missing_commands

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "stackctl"


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
def lab_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key; its public half lies beside it (.pub)."""
    key = tmp_path_factory.mktemp("key") / "id_ed25519"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", str(key)]
    subprocess.run(argv, check=True, timeout=30)
    return key


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, lab_key: Path) -> Iterator[Lab]:
    """A lab of two hosts that all system tests share; a missing engine is an error."""
    assert missing_commands() == []
    folder = tmp_path_factory.mktemp("lab") / "lab"
    authorized_key = lab_key.with_suffix(".pub").read_text()
    prefix = unique_prefix()
    try:
        yield service.up(folder, prefix, 2, authorized_key=authorized_key, progress=lambda _: None)
    finally:
        service.down(folder)


def unique_prefix() -> str:
    """A lab prefix that nobody else on this machine has."""
    return "t" + secrets.token_hex(3)


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


def eventually(check: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    """Wait until something holds, or fail naming it."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
