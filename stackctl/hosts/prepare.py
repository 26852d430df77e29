"""Preparing hosts: what a playbook names is installed and set, then the engines are asked."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from stackctl.errors import ResourceFailed, StackctlError
from stackctl.fleet import Target, for_each, target_of
from stackctl.hosts.commands import Commands, commands_on
from stackctl.hosts.enabling import welcome
from stackctl.hosts.facts import missing_engines
from stackctl.hosts.joining import ask
from stackctl.hosts.packages import packager
from stackctl.hosts.playbook import Playbook, parse_release, playbook_for
from stackctl.identity.context import Context
from stackctl.state import Row, find, read

MODULES_FILE = "/etc/modules-load.d/stackctl.conf"
SYSCTL_FILE = "/etc/sysctl.d/60-stackctl.conf"
HEADER = "# Written by stackctl host-prepare.\n"


@dataclass(frozen=True)
class Finding:
    """One thing that a host needs. ``result``: ok, done (changed now), missing, failed, absent
    (the host does without) or skipped."""

    host: str
    step: str
    what: str
    result: str
    why: str = ""


@dataclass(frozen=True)
class Preparation:
    """The work on one host: look, and unless only looking, make it so."""

    commands: Commands
    playbook: Playbook
    check_only: bool

    def settle(
        self, step: str, what: str, *, there: bool, make: Callable[[], object], why: str = ""
    ) -> Finding:
        """One finding: what is not there is made, or said to be missing."""
        host = self.commands.host
        if there:
            return Finding(host, step, what, "ok")
        if self.check_only:
            return Finding(host, step, what, "missing", why)
        try:
            make()
        except ResourceFailed as error:
            return Finding(host, step, what, "failed", error.message)
        return Finding(host, step, what, "done", why)


def prepare_hosts(
    context: Context, names: Sequence[str], *, check_only: bool = False
) -> tuple[list[Finding], dict[str, StackctlError]]:
    """Prepare hosts, all at once: what was found and done, and errors by host name.

    A host that was disabled because it was not prepared is enabled when nothing is missing.
    """
    with read(context.cloud) as reader:
        rows = {
            row["id"]: row for row in (find(reader, "hosts", name, noun="host") for name in names)
        }
    findings: list[Finding] = []
    errors: dict[str, StackctlError] = {}
    results = for_each(
        [target_of(row, context.cloud) for row in rows.values()],
        lambda target: _prepare(context, rows[target.host_id], target, check_only),
    )
    for host_id, result in results.items():
        if isinstance(result, StackctlError):
            errors[rows[host_id]["name"]] = result
        elif isinstance(result, Exception):
            raise result
        else:
            findings += result
    return findings, errors


def _prepare(context: Context, row: Row, target: Target, check_only: bool) -> list[Finding]:
    progress = context.watch.progress
    with commands_on(target) as commands:
        release = parse_release(commands.must("cat /etc/os-release"))
        playbook = playbook_for(release)
        work = Preparation(commands, playbook, check_only)
        steps = (_packages, _files, _modules, _sysctl, _services)
        findings = [_release(target.name, playbook, release.version, release.name)]
        for done, step in enumerate(steps):
            what = f"preparing {target.name}: {step.__name__.strip('_')}"
            progress(what, done, len(steps))
            findings += step(work)
            progress(what, done + 1, len(steps))
    hello = ask(context, target)
    findings += engine_findings(target.name, hello.facts)
    if not check_only and not missing_engines(hello.facts):
        welcome(context, row, hello)
    return findings


def _release(host: str, playbook: Playbook, version: str, name: str) -> Finding:
    why = "" if version in playbook.tried else "the playbook was not tried on this release"
    return Finding(host, "release", name, "ok", why)


def _packages(work: Preparation) -> Iterator[Finding]:
    tool = packager(work.playbook.packager)
    missing = tool.missing(work.commands, work.playbook.packages)
    what = f"{len(work.playbook.packages)} packages"
    yield work.settle(
        "packages",
        what,
        there=not missing,
        make=lambda: tool.install(work.commands, missing),
        why=" ".join(missing),
    )


def _files(work: Preparation) -> Iterator[Finding]:
    for path, content in work.playbook.files.items():
        yield _file(work, "file", path, content)


def _file(work: Preparation, step: str, path: str, content: str) -> Finding:
    found = work.commands.run(f"cat {shlex.quote(path)}")
    return work.settle(
        step,
        path,
        there=found.ok and found.text.strip() == content.strip(),
        make=lambda: work.commands.must(_write(path, content)),
        why="is not there" if not found.ok else "has other content",
    )


def _write(path: str, content: str) -> str:
    place, fresh = shlex.quote(path), shlex.quote(f"{path}.stackctl-new")
    return f"printf %s {shlex.quote(content)} > {fresh} && chmod 644 {fresh} && mv {fresh} {place}"


def _modules(work: Preparation) -> Iterator[Finding]:
    known = []
    for module in work.playbook.modules:
        if work.commands.run(f"test -d /sys/module/{module}").ok:
            known.append(module)
            yield Finding(work.commands.host, "module", module, "ok")
        elif work.commands.run(f"modprobe -n -q {module}").ok:
            known.append(module)
            load = f"modprobe {module}"
            yield _settle_command(work, "module", module, load, "is not loaded")
        else:
            why = "this kernel does not have it; the host works without"
            yield Finding(work.commands.host, "module", module, "absent", why)
    if known:
        content = HEADER + "".join(f"{module}\n" for module in known)
        yield _file(work, "module", MODULES_FILE, content)


def _settle_command(work: Preparation, step: str, what: str, line: str, why: str) -> Finding:
    return work.settle(step, what, there=False, make=lambda: work.commands.must(line), why=why)


def _sysctl(work: Preparation) -> Iterator[Finding]:
    for key, value in work.playbook.sysctl.items():
        now = work.commands.run(f"sysctl -n {key}").text.strip()
        if now.isdigit() and value.isdigit() and int(now) >= int(value):
            yield Finding(work.commands.host, "sysctl", key, "ok")
            continue
        why = f"is {now or 'unknown'}, should be {value}"
        yield _settle_command(work, "sysctl", key, f"sysctl -q -w {key}={value}", why)
    lines = "".join(f"{key} = {value}\n" for key, value in work.playbook.sysctl.items())
    yield _file(work, "sysctl", SYSCTL_FILE, HEADER + lines)


def _services(work: Preparation) -> Iterator[Finding]:
    if not work.commands.run("test -d /run/systemd/system").ok:
        why = "systemd does not run this host: whoever does must start them"
        what = ", ".join(work.playbook.services)
        yield Finding(work.commands.host, "service", what, "skipped", why)
        return
    for service in work.playbook.services:
        look = f"systemctl -q is-enabled {service} && systemctl -q is-active {service}"
        yield work.settle(
            "service",
            service,
            there=work.commands.run(look).ok,
            make=partial(work.commands.must, f"systemctl enable --now {service}"),
            why="is not enabled and running",
        )


def engine_findings(host: str, facts: dict[str, object]) -> Iterator[Finding]:
    """What the host can do, in clear words, from what its agent says."""
    missing = missing_engines(facts)
    for why in missing:
        yield Finding(host, "engine", why.split()[0], "missing", why)
    versions = facts.get("versions")
    for name, version in versions.items() if isinstance(versions, dict) else ():
        if version:
            yield Finding(host, "engine", f"{name} {version}", "ok")
    kvm = facts.get("virt_type") == "kvm"
    slow = "the processor offers no virtualisation here: servers are emulated, which is slow"
    yield Finding(host, "engine", "KVM", "ok" if kvm else "absent", "" if kvm else slow)
    fast = facts.get("ovs_datapath") == "system"
    user = "Open vSwitch forwards in user space, without the kernel's datapath"
    yield Finding(
        host, "engine", "kernel datapath", "ok" if fast else "absent", "" if fast else user
    )
