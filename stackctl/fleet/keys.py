"""The cloud's own key on a host: put there once by the operator's login, removed at the end."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stackctl.errors import ResourceFailed
from stackctl.fleet import untrusted
from stackctl.fleet.errors import HostRefused
from stackctl.fleet.types import Target

if TYPE_CHECKING:
    from stackctl.fleet.ssh import Login

# "restrict": no forwarding, no terminal; commands are what the key is for.
_INSTALL = """
umask 077; mkdir -p ~/.ssh || exit 1; f=~/.ssh/authorized_keys; read -r k; set -- $k
grep -qF -- "$2" "$f" 2>/dev/null && exit 0
if [ -s "$f" ] && [ -n "$(tail -c1 "$f")" ]; then echo >> "$f"; fi
printf 'restrict %s\\n' "$k" >> "$f"
"""
_REMOVE = """
umask 077; f=~/.ssh/authorized_keys; read -r k; set -- $k
[ -f "$f" ] || exit 0
grep -vF -- "$2" "$f" > "$f.stackctl"; mv "$f.stackctl" "$f"
"""


@dataclass(frozen=True)
class FirstLogin:
    """How the operator gets into a host that does not know the cloud's key yet.

    One of a private key (its text), a password, or whatever the operator's SSH agent has.
    """

    private_key: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    agent: bool = False


def install(target: Target, public_key: str, first: FirstLogin | None) -> bool:
    """Make the host accept the cloud's key; False when it did already.

    HostRefused when it does not and the operator's login does not work either.
    """
    from stackctl.fleet import ssh

    try:
        ssh.connect(target).close()
        return False
    except HostRefused as refused:
        if first is None:
            raise HostRefused(
                f"{refused.message}",
                hint="say how to log in once (--identity FILE or --ask-password), or put this "
                f"line into {target.ssh_user}'s ~/.ssh/authorized_keys there: {public_key}",
            ) from None
    _run(target, _login(first), _INSTALL, public_key)
    ssh.connect(target).close()
    return True


def remove(target: Target, public_key: str) -> None:
    """Take the cloud's key off the host."""
    _run(target, None, _REMOVE, public_key)


def _login(first: FirstLogin) -> Login:
    from stackctl.fleet import ssh

    if first.private_key is not None:
        return ssh.with_private_key(first.private_key, first.passphrase)
    if first.password is not None:
        return ssh.with_password(first.password)
    return ssh.with_agent()


def _run(target: Target, login: Login | None, script: str, public_key: str) -> None:
    from stackctl.fleet import ssh

    transport = ssh.connect(target, login)
    try:
        command = f"sh -c {shlex.quote(script)}"
        status, said = ssh.run_command(transport, command, f"{public_key}\n")
    finally:
        transport.close()
    if status != 0:
        raise ResourceFailed(
            f"The authorized_keys of user {target.ssh_user} on host {target.name} could not be "
            f"changed: {untrusted.line(said, 300)}."
        )
