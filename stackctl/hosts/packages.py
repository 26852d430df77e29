"""Packages of a distribution: which are missing, and installing them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Protocol

from stackctl.errors import Bug
from stackctl.hosts.commands import INSTALL_TIMEOUT_S, Commands


class Packager(Protocol):
    """A distribution's way with packages."""

    def missing(self, commands: Commands, names: Iterable[str]) -> list[str]:
        """Those that are not installed."""
        ...

    def install(self, commands: Commands, names: Iterable[str]) -> None:
        """Install them, and nothing that is only recommended."""
        ...


class Apt:
    """Debian and Ubuntu."""

    def missing(self, commands: Commands, names: Iterable[str]) -> list[str]:
        """Those that dpkg does not call installed."""
        known = commands.must("dpkg-query -W -f='${db:Status-Status} ${Package}\\n'")
        installed = {line.partition(" ")[2] for line in known.splitlines() if _installed(line)}
        return [name for name in names if name not in installed]

    def install(self, commands: Commands, names: Iterable[str]) -> None:
        """Install; the lists are fetched only when those that are there will not do."""
        install = _apt(f"install {shlex.join(names)}")
        if commands.run(install, INSTALL_TIMEOUT_S).ok:
            return
        commands.must(_apt("update"), INSTALL_TIMEOUT_S)
        commands.must(install, INSTALL_TIMEOUT_S)


def _installed(line: str) -> bool:
    return line.startswith("installed ")


def _apt(words: str) -> str:
    return (
        "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends "
        "-o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "
        f"{words}"
    )


class Dnf:
    """Fedora and its relatives."""

    def missing(self, commands: Commands, names: Iterable[str]) -> list[str]:
        """Those that rpm does not know, by name or by what they provide."""
        return [name for name in names if not commands.run(f"rpm -q --whatprovides {name}").ok]

    def install(self, commands: Commands, names: Iterable[str]) -> None:
        """Install, without weak dependencies."""
        line = f"dnf -q -y --setopt=install_weak_deps=False install {shlex.join(names)}"
        commands.must(line, INSTALL_TIMEOUT_S)


def packager(name: str) -> Packager:
    """The packager that a playbook names."""
    known: dict[str, Packager] = {"apt": Apt(), "dnf": Dnf()}
    if name not in known:
        raise Bug(f"A playbook names the packager '{name}'; there are {', '.join(known)}.")
    return known[name]
