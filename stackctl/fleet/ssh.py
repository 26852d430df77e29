"""SSH with pinned keys: a host that shows another key than the pinned one gets nothing.

Only this module (and host preparation) imports paramiko, which costs 0.2 s: import it late.
"""

from __future__ import annotations

import base64
import errno
import io
import logging
import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko

from agent.wire import SILENCE_LIMIT_S
from stackctl.errors import HostKeyMismatch, HostUnreachable, NotFound, UsageError
from stackctl.fleet import counters
from stackctl.fleet.errors import HostRefused
from stackctl.fleet.pins import ALGORITHMS, fingerprint, parse_host_key, type_of
from stackctl.fleet.types import Target

logging.getLogger("paramiko").addHandler(logging.NullHandler())

Login = Callable[[paramiko.Transport, str], None]
"""Authenticates the user of this name; raises a StackctlError when refused."""

HANDSHAKE_TIMEOUT_S = 10.0
LAST_WORDS_BYTES = 4096
_CROWDED_ATTEMPTS = 4


def fetch_host_key(address: str, port: int, timeout_s: float = 10) -> tuple[str, str, str]:
    """The key that a host shows now: (type, base64, fingerprint). Nothing else is sent to it."""
    name = f"{address}:{port}"
    transport = _negotiate(name, address, port, tuple(ALGORITHMS), timeout_s)
    try:
        blob = transport.get_remote_server_key().asbytes()
    finally:
        transport.close()
    return type_of(blob), base64.b64encode(blob).decode(), fingerprint(blob)


def with_key_file(path: Path, password: str | None = None) -> Login:
    """Log in with a private key."""
    try:
        key = paramiko.PKey.from_path(path, password)
    except FileNotFoundError:
        raise NotFound(f"There is no SSH key {path}.") from None
    except (paramiko.SSHException, ValueError, TypeError) as error:
        raise UsageError(f"{path} is not a usable SSH private key: {error}") from None
    return lambda transport, user: _done(transport.auth_publickey(user, key))


def with_private_key(text: str, passphrase: str | None = None) -> Login:
    """Log in with the text of a private key."""
    problem: Exception = ValueError("unknown type")
    for key_class in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            key: Any = key_class.from_private_key(io.StringIO(text), passphrase)
        except paramiko.PasswordRequiredException:
            raise UsageError("The private key needs its passphrase.") from None
        except (paramiko.SSHException, ValueError, TypeError) as error:
            problem = error
            continue
        return lambda transport, user: _done(transport.auth_publickey(user, key))
    raise UsageError(f"This is not a usable SSH private key: {problem}.")


def with_password(password: str) -> Login:
    """Log in with a password."""
    return lambda transport, user: _done(transport.auth_password(user, password))


def with_agent() -> Login:
    """Log in with whichever key of the operator's SSH agent the host accepts."""

    def login(transport: paramiko.Transport, user: str) -> None:
        keys = paramiko.Agent().get_keys()
        for key in keys:
            try:
                return _done(transport.auth_publickey(user, key))
            except paramiko.AuthenticationException:
                continue
        raise paramiko.AuthenticationException(f"none of {len(keys)} keys of the SSH agent")

    return login


def _done(more_methods: list[str]) -> None:
    if more_methods:
        raise paramiko.AuthenticationException(f"also wants {', '.join(more_methods)}")


def connect(target: Target, login: Login | None = None) -> paramiko.Transport:
    """A connection to the host, its key checked before anything else, and logged in.

    ``login`` is the cloud's own key unless given.
    """
    login = login or with_key_file(target.key_file)
    pinned_type, pinned = parse_host_key(target.host_key)
    transport = _negotiate_patiently(target, (pinned_type,))
    try:
        shown = transport.get_remote_server_key().asbytes()
        if shown != pinned:
            raise _mismatch(target, f"shows the key {fingerprint(shown)}", pinned)
        _log_in(target, transport, login)
    except BaseException:
        transport.close()
        raise
    counters.count(counters.connections, target.name)
    return transport


def _mismatch(target: Target, what: str, pinned: bytes) -> HostKeyMismatch:
    return HostKeyMismatch(
        f"Host {target.name} ({target.address}:{target.ssh_port}) {what}, but "
        f"{fingerprint(pinned)} is pinned. Nothing was sent to it.",
        hint=f"if the host was installed anew: stackctl host-set {target.name} --host-key KEY",
    )


def _log_in(target: Target, transport: paramiko.Transport, login: Login) -> None:
    transport.auth_timeout = max(HANDSHAKE_TIMEOUT_S, target.connect_timeout_s)
    try:
        login(transport, target.ssh_user)
    except paramiko.AuthenticationException as error:
        raise HostRefused(
            f"Host {target.name} does not let user {target.ssh_user} in: {error}. "
            "Nothing was done there.",
            hint="put the cloud's key there: "
            f"ssh-copy-id -i {target.key_file}.pub -p {target.ssh_port} "
            f"{target.ssh_user}@{target.address}",
        ) from None
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise _broken(target.name, "login", error) from None


def _negotiate_patiently(target: Target, key_types: tuple[str, ...]) -> paramiko.Transport:
    """A host that closes at once has too many logins at a time (MaxStartups): ask again."""
    deadline = time.monotonic() + target.connect_timeout_s
    for attempt in range(1, _CROWDED_ATTEMPTS + 1):
        try:
            return _negotiate(
                target.name, target.address, target.ssh_port, key_types, target.connect_timeout_s
            )
        except _Crowded as error:
            pause = random.uniform(0.2, 0.4) * 2**attempt
            if attempt == _CROWDED_ATTEMPTS or time.monotonic() + pause > deadline:
                raise HostUnreachable(error.message, hint=error.hint) from None
            time.sleep(pause)
        except paramiko.ssh_exception.IncompatiblePeer as error:
            if "host key" not in str(error):
                raise _broken(target.name, "key exchange", error) from None
            pinned_type, pinned = parse_host_key(target.host_key)
            raise _mismatch(target, f"no longer has a key of type {pinned_type}", pinned) from None
    raise HostUnreachable(f"Host {target.name} does not answer.")


class _Crowded(HostUnreachable):
    """The host closed the connection before it said anything."""


def _negotiate(
    name: str, address: str, port: int, key_types: tuple[str, ...], timeout_s: float
) -> paramiko.Transport:
    transport = paramiko.Transport(_open_socket(name, address, port, timeout_s))
    patience_s = max(HANDSHAKE_TIMEOUT_S, timeout_s)
    transport.banner_timeout = transport.handshake_timeout = patience_s
    transport.channel_timeout = patience_s
    algorithms = [name for key_type in key_types for name in ALGORITHMS[key_type]]
    transport.get_security_options().key_types = tuple(algorithms)
    try:
        transport.start_client(timeout=patience_s)
        # start_client comes back without a word when its time is up.
        transport.get_remote_server_key()
    except BaseException as error:
        transport.close()
        raise _negotiation_error(name, f"{address}:{port}", error) from None
    return transport


def _negotiation_error(name: str, where: str, error: BaseException) -> BaseException:
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return error
    if isinstance(error, EOFError) or "banner" in str(error) or "reset" in str(error):
        return _Crowded(
            f"Host {name} ({where}) accepts connections but no SSH server greets: {error or 'EOF'}."
            " Nothing was done there.",
            hint="is that an SSH port? Has its sshd too many logins at a time (MaxStartups)?",
        )
    if isinstance(error, (paramiko.SSHException, OSError)):
        return _broken(name, "key exchange", error)
    return error


def _broken(name: str, during: str, error: BaseException) -> HostUnreachable:
    why = str(error) or type(error).__name__
    return HostUnreachable(
        f"The connection to host {name} broke during {during}: {why}. Nothing was done there.",
        hint="try again; if it stays: look at the host's sshd log",
    )


class _QuickSocket(socket.socket):
    """Acknowledges at once: sshd answers only when its last packet was acknowledged (Nagle), and
    the kernel likes to wait 40 ms with that. The option wears off, so it is set again and again."""

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send, and be quick about what comes back."""
        sent = super().send(data, flags)
        with suppress(OSError):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return sent


def _open_socket(name: str, address: str, port: int, timeout_s: float) -> socket.socket:
    try:
        connection = socket.create_connection((address, port), timeout_s)
    except OSError as error:
        raise HostUnreachable(
            f"Host {name} ({address}:{port}) cannot be reached: {_why(error, timeout_s)}. "
            "Nothing was done there.",
            hint=f"ssh -p {port} {address}   (is it on, is its network up, does sshd run?)",
        ) from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # A peer that acknowledges nothing is gone: without this, a send could hang for ever.
    limit_ms = int(SILENCE_LIMIT_S * 1000)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)
    return _QuickSocket(fileno=connection.detach())


def _why(error: OSError, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, socket.gaierror):
        return "its name has no address"
    if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH):
        return {
            errno.ECONNREFUSED: "connection refused",
            errno.EHOSTUNREACH: "no route to it",
            errno.ENETUNREACH: "no route to its network",
        }[error.errno]
    return error.strerror or str(error)


class SshStream:
    """A command on a host: its standard input and output over the one channel."""

    def __init__(self, transport: paramiko.Transport, channel: paramiko.Channel) -> None:
        self._transport = transport
        self._channel = channel
        self._words = b""
        channel.settimeout(SILENCE_LIMIT_S)

    def receive(self, count: int) -> bytes:
        """At most ``count`` bytes; b'' at the end; TimeoutError after the silence limit."""
        data = self._channel.recv(count)
        self._drain()
        return data

    def send(self, data: bytes) -> None:
        """Send all of it; TimeoutError when the host takes nothing for the silence limit."""
        self._channel.sendall(data)

    def last_words(self) -> str:
        """The end of what came over standard error."""
        self._drain()
        return self._words.decode(errors="replace")

    def _drain(self) -> None:
        while self._channel.recv_stderr_ready():
            piece = self._channel.recv_stderr(LAST_WORDS_BYTES)
            if not piece:
                return
            self._words = (self._words + piece)[-LAST_WORDS_BYTES:]

    def exit_status(self) -> int | None:
        """The exit status of the command, if it has ended (waits at most 2 s)."""
        if not self._channel.status_event.wait(2) or self._channel.exit_status < 0:
            return None
        return int(self._channel.exit_status)

    def close(self) -> None:
        """End the connection."""
        self._transport.close()


def open_stream(target: Target, command: str) -> SshStream:
    """Connect and run one command, on one channel."""
    transport = connect(target)
    try:
        channel: Any = transport.open_session(timeout=HANDSHAKE_TIMEOUT_S)
        channel.settimeout(HANDSHAKE_TIMEOUT_S)
        channel.exec_command(command)
    except (paramiko.SSHException, EOFError, OSError) as error:
        transport.close()
        raise HostRefused(
            f"Host {target.name} opens no session for user {target.ssh_user}: {error}. "
            "Nothing was done there.",
            hint="does its sshd allow commands for this user (MaxSessions, ForceCommand)?",
        ) from None
    counters.count(counters.channels, target.name)
    return SshStream(transport, channel)


def refusing_client() -> paramiko.SSHClient:
    """A client that knows no host and accepts none, for libraries that would accept any."""
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    return client


OUTPUT_LIMIT = 64 * 1024


def run_command(transport: paramiko.Transport, command: str, stdin: str = "") -> tuple[int, str]:
    """Run a short command over a connection: its exit status and what it printed, both streams."""
    try:
        channel = transport.open_session(timeout=HANDSHAKE_TIMEOUT_S)
        channel.settimeout(SILENCE_LIMIT_S)
        channel.set_combine_stderr(True)
        channel.exec_command(command)
        channel.sendall(stdin.encode())
        channel.shutdown_write()
        heard = b""
        while len(heard) < OUTPUT_LIMIT and (piece := channel.recv(4096)):
            heard += piece
        status = channel.recv_exit_status() if len(heard) < OUTPUT_LIMIT else -1
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise HostUnreachable(f"The connection broke: {error or type(error).__name__}.") from None
    return status, heard.decode(errors="replace")
