"""Bad input and a bad day: the promised exit status, one paragraph, nothing half-made."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from stackctl.cli.main import cli, run
from stackctl.state import db
from tests.engines import eventually
from tests.fleet import DATA, Fleet, Result, paragraph

TABLES = ("servers", "ports", "addresses", "disks", "networks", "subnets", "images", "clusters")
NO_SPACE = ("No space left on device", "exceeds free space")
"""As qemu-img and xorriso say it."""

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"


def refused(fleet: Fleet, exit: int, *argv: str) -> str:
    """Run a command that must be refused and leave no trace; what it said."""
    before = {table: fleet.rows(f"SELECT * FROM {table}") for table in TABLES}
    files = sorted(path.name for path in fleet.cloud.images.iterdir())
    result = fleet.run(*argv, exit=exit)
    assert {table: fleet.rows(f"SELECT * FROM {table}") for table in TABLES} == before
    assert sorted(path.name for path in fleet.cloud.images.iterdir()) == files
    assert result.out == ""
    return paragraph(result)[0]


def test_unknown_words(fleet: Fleet) -> None:
    tiny = dict(zip(fleet.tiny[::2], fleet.tiny[1::2], strict=True))
    for option, value in (("--image", "none"), ("--flavor", "none"), ("--nic", "net=none")):
        words = [word for pair in {**tiny, option: value}.items() for word in pair]
        assert "none" in refused(fleet, 3, "boot", "a", *words)
    assert "none" in refused(fleet, 3, "delete", "--yes", "none")
    assert "none" in refused(fleet, 3, "boot", "a", *fleet.tiny, "--host", "none")


def test_an_exhausted_pool(fleet: Fleet) -> None:
    fleet.run("net-create", "small", "--subnet", "10.78.0.0/29")
    small = ("--image", "tiny", "--flavor", "tiny", "--nic", "net=small")
    said = refused(fleet, 4, "boot", "a", *small, "--count", "5")
    assert "No more IP addresses available" in said
    fleet.run("boot", "a", *small, "--count", "4")
    assert "No more IP addresses available" in refused(fleet, 4, "boot", "b", *small)
    fleet.delete_all()
    fleet.run("net-delete", "small")
    fleet.check_at_rest()


def test_a_name_twice(fleet: Fleet) -> None:
    fleet.boot("a")
    assert "already a server called a" in refused(fleet, 4, "boot", "a", *fleet.tiny)
    assert "already" in refused(
        fleet, 4, "flavor-create", "tiny", "--ram", "64", "--disk", "1", "--vcpus", "1"
    )


def qemu_img(*argv: str) -> None:
    subprocess.run(["qemu-img", *argv], check=True, capture_output=True, timeout=30)


def test_a_truncated_image(fleet: Fleet, tmp_path: Path) -> None:
    for size in (60, 300, 65600):
        image = tmp_path / f"cut-{size}.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", str(image), "10M")
        with image.open("r+b") as file:
            file.truncate(size)
        said = refused(fleet, 31, "image-create", "cut", "--file", str(image))
        assert "cut" in said


def test_a_wrong_checksum(fleet: Fleet, tmp_path: Path) -> None:
    image = tmp_path / "image.raw"
    image.write_bytes(b"\0" * 4096)
    said = refused(
        fleet, 4, "image-create", "sum", "--file", str(image), "--sha256", "0" * 64,
        "--disk-format", "raw",
    )  # fmt: skip
    assert "0" * 64 in said


def test_an_unsafe_image(fleet: Fleet, tmp_path: Path) -> None:
    secret, unsafe = tmp_path / "secret.raw", tmp_path / "unsafe.qcow2"
    secret.write_bytes(b"secret" * 1000)
    backing = ("-b", str(secret), "-F", "raw")
    qemu_img("create", "-q", "-f", "qcow2", *backing, str(unsafe))
    for words in ((), ("--disk-format", "raw")):
        said = refused(fleet, 31, "image-create", "unsafe", "--file", str(unsafe), *words)
        assert "unsafe" in said


@contextmanager
def full_disk(fleet: Fleet, host: str, folder: str) -> Iterator[None]:
    """A folder of a host has almost no room meanwhile."""
    path = f"{DATA}/{folder}"
    fleet.inside(host, "mkdir", "-p", path)
    fleet.inside(host, "mount", "-t", "tmpfs", "-o", "size=64k", "small", path)
    try:
        yield
    finally:
        fleet.inside(host, "umount", path)


@pytest.mark.parametrize("folder", ["disks", "drives"])
def test_a_full_disk_on_a_host(fleet: Fleet, folder: str) -> None:
    with full_disk(fleet, "host2", folder):
        failed = fleet.boot("a", "--host", "host2", exit=30)
        text, hint = paragraph(failed)
        assert "host2" in text and any(words in text for words in NO_SPACE)
        assert hint
        assert fleet.statuses() == {"a": "ERROR"}
        assert any(words in fleet.run("explain", "a").out for words in NO_SPACE)
        assert [name for name in fleet.world("host2")[folder] if "part" in name] == []
    fleet.run("converge", "host2")
    assert fleet.statuses() == {"a": "ERROR"}, "what failed waits until it is named"
    fleet.run("reboot", "--hard", "a")
    assert fleet.statuses() == {"a": "ACTIVE"}
    fleet.check_at_rest()


@pytest.mark.parametrize("folder", ["disks", "drives"])
def test_what_a_full_host_cannot_build_another_one_does(fleet: Fleet, folder: str) -> None:
    with full_disk(fleet, "host2", folder):
        fleet.boot("a", "--count", "2")
        assert {row["Host"] for row in fleet.servers().values()} == {"host1"}
        assert fleet.world("host2")["domains"] == []
        assert any(words in fleet.run("events", "--errors").out for words in NO_SPACE)
    fleet.boot("b", "--host", "host2")  # what builds again is no last resort
    assert set(fleet.statuses().values()) == {"ACTIVE"}
    fleet.check_at_rest()


def test_a_full_disk_for_a_new_image_on_a_host(fleet: Fleet, tmp_path: Path) -> None:
    image = tmp_path / "new.raw"
    image.write_bytes(b"new".ljust(1024 * 1024, b"\0"))
    fleet.run("image-create", "new", "--file", str(image), "--disk-format", "raw")
    new = ("--image", "new", "--flavor", "tiny", "--nic", "net=faults", "--host", "host2")
    with full_disk(fleet, "host2", "images"):
        text, _ = paragraph(fleet.run("boot", "a", *new, exit=30))
        assert "host2" in text and "65536 are free" in text.replace("61440", "65536")
    fleet.run("reboot", "--hard", "a")
    fleet.check_at_rest()
    fleet.delete_all()
    fleet.run("image-delete", "--yes", "new")


@contextmanager
def other_host_key(fleet: Fleet, host: str) -> Iterator[None]:
    """A host shows another key meanwhile."""
    restart = "kill $(cat /run/sshd.pid 2>/dev/null || pgrep -o -x sshd)"
    fleet.inside(host, "sh", "-c", f"mv {HOST_KEY} {HOST_KEY}.true")
    fleet.inside(host, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", HOST_KEY)
    fleet.inside(host, "sh", "-c", restart)
    eventually(lambda: listens(fleet, host), "sshd runs again")
    try:
        yield
    finally:
        fleet.inside(host, "sh", "-c", f"mv {HOST_KEY}.true {HOST_KEY}; {restart}")
        fleet.inside(host, "sh", "-c", f"ssh-keygen -y -f {HOST_KEY} > {HOST_KEY}.pub")
        eventually(lambda: listens(fleet, host), "sshd runs again")


def listens(fleet: Fleet, host: str) -> bool:
    """Whether sshd has its port."""
    return ":22 " in fleet.inside(host, "ss", "-ltn")


def test_a_changed_host_key(fleet: Fleet) -> None:
    with other_host_key(fleet, "host2"):
        logins = fleet.logins("host2")
        assert "is pinned" in paragraph(fleet.boot("a", "--host", "host2", exit=21))[0]
        assert fleet.statuses() == {}
        assert "is pinned" in paragraph(fleet.run("converge", "host2", exit=21))[0]
        # The other host is none the worse for it.
        booted = fleet.boot("b", "--count", "2")
        assert {row["Host"] for row in booted.json} == {"host1"}
        assert fleet.logins("host2") == logins
    fleet.run("converge", "--all")
    fleet.check_at_rest()


def test_an_unreachable_host(fleet: Fleet) -> None:
    fleet.kill_host("host2")
    try:
        assert "host2" in paragraph(fleet.boot("a", "--host", "host2", exit=20))[0]
        assert "host2" in paragraph(fleet.run("converge", "host2", exit=20))[0]
        assert "host2" in paragraph(fleet.run("drift", exit=20))[0]
        assert fleet.statuses() == {}
    finally:
        fleet.start_host("host2")
    fleet.run("converge", "--all")
    fleet.check_at_rest()


def here(
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *argv: str,
) -> Result:
    """Run a command in this process, whose limits a test can shorten."""
    for name, value in fleet.environment({}).items():
        if name.startswith("STACKCTL_CLOUD"):
            monkeypatch.setenv(name, value)
    capsys.readouterr()
    status = run(cli, list(argv))
    out, err = capsys.readouterr()
    return Result(argv, status, out, err)


def test_a_locked_database(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(db, "LOCK_TIMEOUT_S", 0.3)
    fleet.run("keypair-list")
    with closing(sqlite3.connect(fleet.cloud.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        result = here(fleet, monkeypatch, capsys, "boot", "a", *fleet.tiny)
        assert result.exit == 10
        assert "pid" in paragraph(result)[0]
        assert here(fleet, monkeypatch, capsys, "list").exit == 0, "who only reads does not wait"
    assert fleet.statuses() == {}


def test_a_database_of_a_newer_version(fleet: Fleet) -> None:
    with closing(sqlite3.connect(fleet.cloud.database)) as other:
        (version,) = other.execute("PRAGMA user_version").fetchone()
        other.execute("PRAGMA user_version = 999")
        try:
            for argv in (("list",), ("boot", "a", *fleet.tiny), ("converge", "--all")):
                assert "newer" in paragraph(fleet.run(*argv, exit=11))[0]
        finally:
            other.execute(f"PRAGMA user_version = {version}")
    assert fleet.statuses() == {}


def copy_database(fleet: Fleet, to: Path) -> None:
    """A backup."""
    with (
        closing(sqlite3.connect(fleet.cloud.database)) as source,
        closing(sqlite3.connect(to)) as target,
    ):
        source.backup(target)


def put_database(fleet: Fleet, backup: Path) -> None:
    """Go back to a backup."""
    for path in fleet.cloud.folder.glob("state.db*"):
        path.unlink()
    shutil.copy(backup, fleet.cloud.database)
    fleet.cloud.database.chmod(0o600)


def test_hosts_that_are_ahead_of_a_restored_database(fleet: Fleet, tmp_path: Path) -> None:
    fleet.boot("kept", "--count", "2")
    older, newer = tmp_path / "older.db", tmp_path / "newer.db"
    copy_database(fleet, older)
    fleet.boot("later", "--count", "2")
    copy_database(fleet, newer)
    worlds = {host: fleet.world(host) for host in fleet.hosts()}

    put_database(fleet, older)
    try:
        ahead(fleet, worlds)
    finally:
        put_database(fleet, newer)
        fleet.run("recover", "--adopt")
    fleet.run("converge", "--all")
    assert len(fleet.statuses()) == 4
    fleet.check_at_rest()


def ahead(fleet: Fleet, worlds: dict[str, dict[str, Any]]) -> None:
    """The database is yesterday's; nothing is changed on hosts before somebody says so."""
    for argv in (("converge", "--all"), ("stop", "kept-1", "kept-2"), ("drift",)):
        text, hint = paragraph(fleet.run(*argv, exit=11))
        assert "has accepted serial" in text
        assert "recover --adopt" in hint
    refusal = fleet.boot("a", "--count", "2", exit=11)
    assert "recover --adopt" in paragraph(refusal)[1]
    assert {host: fleet.world(host) for host in fleet.hosts()} == worlds
    assert fleet.statuses() == {"kept-1": "ACTIVE", "kept-2": "ACTIVE"}

    fleet.run("recover", "--adopt")
    fleet.run("converge", "--all")
    orphans = fleet.run("drift", "-f", "json").json
    assert {step["Would be"] for step in orphans} == {"orphan"}
    assert {step["Kind"] for step in orphans} == {"domain", "disk"}
    assert fleet.statuses() == {"kept-1": "ACTIVE", "kept-2": "ACTIVE"}
    fleet.check_rows()
