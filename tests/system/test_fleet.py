"""Reaching hosts over real sshd, with the real agent: pinned keys, one channel, nobody hangs."""

import base64
import contextlib
import socket
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest

from stackctl.errors import HostKeyMismatch, HostUnreachable
from stackctl.fleet import (
    ChannelLost,
    HostRefused,
    Opening,
    Target,
    counters,
    for_each,
    open_session,
    ssh,
)
from stackctl.fleet.delivery import agent_archive
from stackctl.fleet.keys import FirstLogin, install, remove
from stackctl.lab.models import Lab

from .conftest import eventually

CLOUD_ID = str(uuid.uuid4())


@pytest.fixture
def targets(lab: Lab, lab_key: Path) -> dict[str, Target]:
    counters.reset()
    return {
        host.name: Target(
            str(uuid.uuid4()),
            host.name,
            "ssh",
            host.address,
            host.ssh_port,
            "root",
            host.host_key,
            lab_key,
        )
        for host in lab.hosts
    }


def changed(target: Target, **values) -> Target:
    return Target(**{**vars(target), **values})


def asking(**values) -> Opening:
    return Opening(CLOUD_ID, "act", claim=True, **values)


class Proxy:
    """Forwards a port to a host and counts; it hangs or cuts after ``cut_at`` bytes to it."""

    def __init__(self, target: Target, cut_at: int | None = None, black_hole: bool = False) -> None:
        self.to_host = 0
        self.black_hole = threading.Event()
        self._cut_at, self._hang = cut_at, black_hole
        self._server = socket.create_server(("127.0.0.1", 0))
        self._host = (target.address, target.ssh_port)
        self.port = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            host = socket.create_connection(self._host)
            self._open += [client, host]
            threading.Thread(target=self._pump, args=(client, host, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(host, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, drain: socket.socket, to_host: bool) -> None:
        while True:
            try:
                data = source.recv(4096)
                if to_host:
                    self.to_host += len(data)
                    if self._cut_at is not None and self.to_host >= self._cut_at:
                        if not self._hang:
                            self.close()
                            return
                        self.black_hole.set()
                if self.black_hole.is_set():
                    time.sleep(0.1)
                    continue
                if not data:
                    drain.shutdown(socket.SHUT_WR)
                    return
                drain.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        self._server.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@pytest.fixture
def proxies():
    made: list[Proxy] = []

    def make(target: Target, **how) -> tuple[Proxy, Target]:
        proxy = Proxy(target, **how)
        made.append(proxy)
        return proxy, changed(target, address="127.0.0.1", ssh_port=proxy.port)

    yield make
    for proxy in made:
        proxy.close()


def test_the_agent_is_sent_once_and_then_only_run(targets, shell):
    shell("host1").run("rm -rf /var/lib/stackctl/host/agent")
    sent: list[int] = []
    for _ in range(2):
        session = open_session(
            targets["host1"], asking(), progress=lambda _, done, __: sent.append(done)
        )
        session.close()
    archive = agent_archive()
    assert sent[-1] == archive.size
    assert len(sent) == -(-archive.size // (256 * 1024))
    assert session.hello.facts["agent"] == archive.sha256
    assert session.hello.facts["hostname"] == "host1"


def test_one_connection_and_one_channel_per_host(targets):
    for_each(targets.values(), lambda target: open_session(target, asking()).close())
    assert counters.connections == {"host1": 1, "host2": 1}
    assert counters.channels == {"host1": 1, "host2": 1}


def test_hosts_are_reached_side_by_side(targets):
    open_session(targets["host1"], asking()).close()
    open_session(targets["host2"], asking()).close()

    def both_open(target: Target) -> None:
        session = open_session(target, asking())
        together.wait(10)
        session.close()

    together = threading.Barrier(2)
    assert set(for_each(targets.values(), both_open).values()) == {None}


def test_another_key_than_the_pinned_one_gets_nothing(targets, proxies, lab):
    """The impostor sees the key exchange and then the end: no login, no byte of ours."""
    proxy, target = proxies(targets["host2"])
    with pytest.raises(HostKeyMismatch) as caught:
        open_session(changed(target, host_key=targets["host1"].host_key), asking())
    assert caught.value.exit_status == 21
    assert "Nothing was sent" in caught.value.message
    baseline, honest = proxies(targets["host2"])
    transport = ssh._negotiate("x", "127.0.0.1", honest.ssh_port, ("ssh-ed25519",), 10)
    transport.close()
    time.sleep(0.2)
    # What a mere key exchange sends (give or take its random padding), and nothing more.
    assert abs(proxy.to_host - baseline.to_host) < 256
    assert counters.connections == {}


def test_a_host_that_lost_its_kind_of_key_is_a_mismatch_too(targets):
    other = "ecdsa-sha2-nistp256"
    blob = len(other).to_bytes(4, "big") + other.encode() + bytes(80)
    line = f"{other} {base64.b64encode(blob).decode()}"
    with pytest.raises(HostKeyMismatch, match="no longer has a key"):
        open_session(changed(targets["host1"], host_key=line), asking())


def test_the_key_that_a_host_shows_can_be_fetched(targets, lab):
    host = lab.host("host1")
    kind, encoded, fingerprint = ssh.fetch_host_key(host.address, host.ssh_port)
    assert f"{kind} {encoded}" == " ".join(host.host_key.split()[:2])
    assert fingerprint.startswith("SHA256:")


def test_a_user_with_sudo_will_do(targets):
    session = open_session(changed(targets["host1"], ssh_user="operator"), asking())
    session.close()
    assert session.hello.facts["hostname"] == "host1"


def test_a_user_without_sudo_is_told_what_to_write(targets, shell):
    root = shell("host1")
    root.run("useradd -m -s /bin/sh plain; install -d -o plain -m 700 ~plain/.ssh")
    root.run("install -o plain -m 600 ~/.ssh/authorized_keys ~plain/.ssh/authorized_keys")
    root.run("usermod -p '*' plain")
    with pytest.raises(HostRefused, match="become root") as caught:
        open_session(changed(targets["host1"], ssh_user="plain"), asking())
    assert "NOPASSWD" in caught.value.hint


def test_a_login_shell_that_prints_does_not_matter(targets, shell):
    root = shell("host2")
    root.run("usermod -s /bin/bash operator; echo 'echo Welcome; echo J' > ~operator/.bashrc")
    session = open_session(changed(targets["host2"], ssh_user="operator"), asking())
    session.close()
    assert session.hello.boot_id


def test_a_user_who_is_not_there_is_refused_at_once(targets):
    begun = time.monotonic()
    with pytest.raises(HostRefused, match="does not let user nobody2 in"):
        open_session(changed(targets["host1"], ssh_user="nobody2"), asking())
    assert time.monotonic() - begun < 5


def test_a_port_without_sshd_is_unreachable(targets):
    with pytest.raises(HostUnreachable, match="connection refused"):
        open_session(changed(targets["host1"], ssh_port=2), asking())


def test_an_agent_that_is_killed_is_a_loss(targets, shell):
    session = open_session(targets["host1"], asking())
    try:
        shell("host1").run("pkill -9 -f '[p]ython3 -I -c'")
        with pytest.raises(ChannelLost) as caught:
            session.act("console-log", {"server_id": "x", "max_bytes": 10})
        assert not caught.value.spec_sent
    finally:
        session.close()


def test_two_exchanges_of_one_host_take_turns(targets, shell):
    """Only the one that holds the host's lock may converge; the other is told who has it."""
    from stackctl.fleet import HostBusy

    target = targets["host2"]
    converging = Opening(CLOUD_ID, "converge", claim=True, lock_timeout_s=1)
    first = open_session(target, converging)
    try:
        with pytest.raises(HostBusy) as caught:
            open_session(target, converging)
        assert caught.value.exit_status == 10
    finally:
        first.close()
    eventually(lambda: _opens(target, converging), "the lock is free again", seconds=15)
    shell("host2").run("rm -f /var/lib/stackctl/host/claim.json")


def _opens(target: Target, opening: Opening) -> bool:
    try:
        open_session(target, opening).close()
    except HostUnreachable:
        return False
    return True


@pytest.mark.parametrize("cut_at", [1, 500, 4200, 5000, 300_000])
def test_a_connection_that_breaks_at_any_byte_changes_nothing(targets, proxies, shell, cut_at):
    shell("host1").run("rm -rf /var/lib/stackctl/host/agent")
    _, target = proxies(targets["host1"], cut_at=cut_at)
    with pytest.raises(HostUnreachable):
        open_session(changed(target, connect_timeout_s=2), asking())
    session = open_session(targets["host1"], asking())
    session.close()
    assert session.hello.boot_id


def test_a_black_hole_is_given_up(targets, proxies, monkeypatch):
    monkeypatch.setattr(ssh, "SILENCE_LIMIT_S", 1.0)
    proxy, target = proxies(targets["host1"])
    session = open_session(target, asking())
    proxy.black_hole.set()
    begun = time.monotonic()
    with pytest.raises(ChannelLost):
        session.act("console-log", {"server_id": "x", "max_bytes": 10})
    session.close()
    assert time.monotonic() - begun < 15


def test_the_clouds_key_is_put_on_a_host_and_taken_away(targets, shell, tmp_path, lab_key):
    key = tmp_path / "cloud"
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "cloud", "-f", str(key)]
    subprocess.run(words, check=True, timeout=30)
    public = key.with_suffix(".pub").read_text().strip()
    target = changed(targets["host1"], key_file=key)
    with pytest.raises(HostRefused, match="does not let") as caught:
        install(target, public, None)
    assert public in caught.value.hint
    first = FirstLogin(private_key=lab_key.read_text())
    assert install(target, public, first) is True
    assert install(target, public, first) is False
    lines = shell("host1").run("cat ~/.ssh/authorized_keys").splitlines()
    assert f"restrict {public}" in lines
    open_session(target, asking()).close()
    remove(target, public)
    assert public not in shell("host1").run("cat ~/.ssh/authorized_keys")
    open_session(targets["host1"], asking()).close()
