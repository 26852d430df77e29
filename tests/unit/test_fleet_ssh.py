"""Hosts that cannot be reached, that are no SSH servers, that refuse, each in its own words."""

import socket
import threading
import time

import pytest

from stackctl.errors import HostUnreachable, UsageError
from stackctl.fleet import HostRefused
from stackctl.fleet.pins import fingerprint, parse_host_key, pin_line
from stackctl.fleet.ssh import fetch_host_key
from stackctl.fleet.starting import explain_end

from .fake_agent import target

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAHsnjtsE6zINuEtzai3pSy6e7N5VzlwtDob/PP5dcKQ"


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


def serve(listener, answer):
    def work():
        for _ in range(8):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                answer(connection)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return listener.getsockname()[1]


def test_a_closed_port_says_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(HostUnreachable, match="connection refused"):
        fetch_host_key("127.0.0.1", port)


def test_a_name_without_address_says_so():
    with pytest.raises(HostUnreachable, match="no address"):
        fetch_host_key("no-such-host.invalid", 22)


def test_a_server_that_closes_at_once_has_too_many_logins(listener):
    port = serve(listener, lambda _: None)
    with pytest.raises(HostUnreachable) as caught:
        fetch_host_key("127.0.0.1", port)
    assert "MaxStartups" in caught.value.hint


def test_a_server_that_never_greets_is_given_up(listener, monkeypatch):
    monkeypatch.setattr("stackctl.fleet.ssh.HANDSHAKE_TIMEOUT_S", 0.5)
    port = serve(listener, lambda _: time.sleep(2))
    begun = time.monotonic()
    with pytest.raises(HostUnreachable):
        fetch_host_key("127.0.0.1", port, 0.5)
    assert time.monotonic() - begun < 5


def test_a_server_of_another_kind_is_not_an_ssh_server(listener):
    port = serve(listener, lambda connection: connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n"))
    with pytest.raises(HostUnreachable):
        fetch_host_key("127.0.0.1", port)


def test_keys_are_pinned_as_they_are_written_everywhere():
    kind, blob = parse_host_key(f"{KEY} root@node1")
    assert kind == "ssh-ed25519"
    assert pin_line(f"node1,10.0.0.1 {KEY}") == KEY
    assert fingerprint(blob).startswith("SHA256:")


@pytest.mark.parametrize(
    "line",
    ["", "ssh-ed25519", "ssh-ed25519 not-base64!", "ssh-dss AAAA", f"ssh-rsa {KEY.split()[1]}"],
)
def test_what_is_no_key_is_refused(line):
    with pytest.raises(UsageError):
        parse_host_key(line)


@pytest.mark.parametrize(
    ("status", "words", "told"),
    [
        (1, "sudo: a password is required", "become root"),
        (1, "sudo: sorry, you must have a tty to run sudo", "become root"),
        (127, "bash: line 1: /usr/bin/python3: No such file or directory", "has no /usr/bin/py"),
        (127, "sudo: python3: command not found", "become root"),
        (1, "This account is not available", "not available"),
    ],
)
def test_why_the_agent_did_not_start_is_told(status, words, told):
    error = explain_end(target(ssh_user="operator"), status, words)
    assert isinstance(error, HostRefused)
    assert told in error.message
    assert error.hint


def test_a_quiet_end_is_explained_by_what_happened():
    assert explain_end(target(), None, "") is None
