"""What a host needs, by distribution: the files in playbooks/hosts/."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import yaml

from stackctl.errors import Bug, Conflict


@dataclass(frozen=True)
class Playbook:
    """One file: packages, services, kernel modules, sysctl values and files of a distribution.

    ``tried`` are the releases on which it was run, of all ``versions`` it is made for.
    """

    distribution: str
    packager: str
    versions: tuple[str, ...]
    tried: tuple[str, ...]
    packages: tuple[str, ...]
    services: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    sysctl: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Release:
    """What /etc/os-release says."""

    id: str
    like: tuple[str, ...]
    version: str
    name: str


def parse_release(text: str) -> Release:
    """The content of /etc/os-release."""
    values = {}
    for line in text.splitlines():
        key, sign, value = line.strip().partition("=")
        if sign:
            values[key] = value.strip("\"'")
    return Release(
        id=values.get("ID", ""),
        like=tuple(values.get("ID_LIKE", "").split()),
        version=values.get("VERSION_ID", ""),
        name=values.get("PRETTY_NAME", values.get("ID", "an unknown system")),
    )


def playbook_for(release: Release) -> Playbook:
    """The playbook of a release, or of the one that it is like; Conflict when there is none."""
    known = _all()
    for name in (release.id, *release.like):
        if name in known:
            return known[name]
    raise Conflict(
        f"There is no playbook for {release.name}: there are {', '.join(sorted(known))}. "
        "Nothing was changed.",
        hint="install what playbooks/hosts/debian.yaml names, then: stackctl host-prepare --check",
    )


@cache
def _all() -> dict[str, Playbook]:
    folder = resources.files("playbooks") / "hosts"
    return {
        file.name.removesuffix(".yaml"): parse(file.name, file.read_text(encoding="utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    }


def parse(name: str, text: str) -> Playbook:
    """The text of a playbook file."""
    content: dict[str, Any] = yaml.safe_load(text)
    try:
        return Playbook(
            distribution=name.removesuffix(".yaml"),
            packager=content["packager"],
            versions=tuple(content["versions"]),
            tried=tuple(content["tried"]),
            packages=tuple(content["packages"]["host"]),
            services=tuple(content.get("services", ())),
            modules=tuple(content.get("modules", ())),
            sysctl={key: str(value) for key, value in content.get("sysctl", {}).items()},
            files=dict(content.get("files", {})),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise Bug(f"playbooks/hosts/{name} lacks something: {error}") from None
