"""Hosts that exist only as files: an agent that takes specs and remembers what it made of them.

``FakeFleet.open_session`` stands in for ``stackctl.fleet.session.open_session``. Each host is one
JSON file, locked while an exchange holds it, so it outlives the process that talked to it and
several processes can talk to it at once. What shall go wrong is told to ``FakeFleet.trouble``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.spec import HostSpec, from_plain, to_plain
from agent.wire import Fault, Report
from stackctl.errors import Conflict, HostAhead, HostUnreachable, ResourceFailed
from stackctl.fleet.errors import ChannelLost
from stackctl.fleet.types import Accepted, Hello

FACTS = {"machine_types": {"pc": "pc-i440fx-9.0"}, "virt_type": "qemu"}
NEW_HOST = {"claim": None, "accepted": None, "disks": {}, "domains": {}, "ports": [], "routers": {}}
NEW_HOST |= {"volumes": {}, "plugged": {}, "foreign": {}}


@dataclass
class Trouble:
    """What shall go wrong on one host.

    ``lose``: the channel breaks before the spec ("before") or after it was accepted ("after").
    ``die_at``: the agent ends before its n-th report. ``fail``: an id or kind -> words; "removal"
    fails what has a tombstone, "libvirt" everything of domains before it is begun.
    ``error``: what opening raises instead. ``times``: how many exchanges it concerns.
    """

    unreachable: bool = False
    error: Exception | None = None
    lose: str = ""
    die_at: int = 0
    fail: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    times: int = 1000

    def used(self) -> Trouble:
        """This trouble, once; calm when it is over."""
        self.times -= 1
        return self if self.times >= 0 else Trouble(fail=self.fail)


class FakeFleet:
    """All hosts of a test, by the name that their rows have."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.trouble: dict[str, Trouble] = {}
        self.opened: Counter = Counter()
        self.modes: list[tuple[str, str]] = []
        self.specs: list[HostSpec] = []
        self.before_open = None
        self.batches = False
        self.content = b""
        self.asked: list[tuple[str, dict]] = []
        self._lock = threading.Lock()

    def open_session(
        self,
        target,
        opening,
        *,
        open_image=None,
        progress=None,
        on_step=None,
        peer=None,
        disk_peer=None,
    ):
        """Begin an exchange, or raise what the trouble of this host says."""
        if self.before_open is not None:
            self.before_open(target.name)
        with self._lock:
            self.opened[target.name] += 1
            self.modes.append((target.name, opening.mode))
            trouble = self.trouble.get(target.name, Trouble()).used()
        if trouble.error is not None:
            raise trouble.error
        if trouble.unreachable:
            raise HostUnreachable(f"Host {target.name} does not answer.")
        if trouble.lose == "before":
            raise ChannelLost(f"The exchange with host {target.name} broke off.")
        return FakeSession(self, target, opening, trouble, on_step or (lambda _: None))

    def state(self, name: str) -> dict:
        """What a host has now."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else json.loads(json.dumps(NEW_HOST))

    def save(self, name: str, state: dict) -> None:
        """Give a host what it shall have."""
        fresh = self.folder / f".{name}.{threading.get_ident()}"
        fresh.write_text(json.dumps(state))
        fresh.replace(self.folder / f"{name}.json")

    @contextmanager
    def locked(self, name: str):
        """The host lock."""
        with (self.folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def domains(self) -> dict[str, str]:
        """Which server runs where: id -> host name; a server on two hosts fails the test."""
        found: dict[str, str] = {}
        for path in sorted(self.folder.glob("*.json")):
            for id_ in json.loads(path.read_text())["domains"]:
                assert id_ not in found, f"{id_} is on {found[id_]} and on {path.stem}"
                found[id_] = path.stem
        return found

    def routers(self) -> dict[str, str]:
        """Which router is where: id -> host name; a router on two hosts fails the test."""
        found: dict[str, str] = {}
        for path in sorted(self.folder.glob("*.json")):
            for id_ in json.loads(path.read_text())["routers"]:
                assert id_ not in found, f"router {id_} is on {found[id_]} and on {path.stem}"
                found[id_] = path.stem
        return found


class FakeSession:
    """An exchange with one host."""

    def __init__(self, fleet, target, opening, trouble, on_step) -> None:
        self._fleet, self._name, self._opening = fleet, target.name, opening
        self._trouble, self._host_id = trouble, target.host_id
        self._on_step = on_step
        self._hold = fleet.locked(self._name) if opening.mode != "act" else None
        if self._hold is not None:
            self._hold.__enter__()
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        state = self._fleet.state(self._name)
        claim = [self._opening.cloud_id, self._host_id]
        if state["claim"] is None:
            if not self._opening.claim:
                raise Conflict(f"Host {self._name} does not take our word.")
            if self._opening.mode == "converge":
                state["claim"] = claim
                self._fleet.save(self._name, state)
        elif state["claim"] != claim:
            raise Conflict(f"Host {self._name} belongs to another cloud.")
        accepted = Accepted(*state["accepted"]) if state["accepted"] else None
        self.hello = Hello(accepted, "boot-1", dict(FACTS))

    def converge(self, spec, blob, on_reports):
        """Become what the spec says; reports come one at a time, or in batches of a kind."""
        wanted = from_plain(HostSpec, json.loads(json.dumps(spec)))
        assert to_plain(wanted) == spec
        state = self._fleet.state(self._name)
        self._check_newer(state, wanted)
        with self._fleet._lock:
            self._fleet.specs.append(wanted)
        if self._opening.mode == "observe":
            on_reports(list(_Work(self._fleet, state, wanted, self._trouble).run()))
            return {}
        state["accepted"] = [wanted.serial, wanted.nonce]
        self._fleet.save(self._name, state)
        if self._trouble.lose == "after":
            raise self._lost()
        ready: list[Report] = []
        work = _Work(self._fleet, state, wanted, self._trouble, self._on_step)
        for number, report in enumerate(work.run(), start=1):
            if number == self._trouble.die_at:
                raise self._lost()
            if ready and not (self._fleet.batches and ready[-1].kind == report.kind):
                self._tell(on_reports, ready)
            self._fleet.save(self._name, state)
            ready.append(report)
        self._tell(on_reports, ready)
        return {}

    def _tell(self, on_reports, ready) -> None:
        if ready and not self._trouble.silent:
            on_reports(list(ready))
        ready.clear()

    def _check_newer(self, state, spec) -> None:
        last = state["accepted"]
        if last and spec.serial <= last[0] and [spec.serial, spec.nonce] != last:
            raise HostAhead(f"Host {self._name} is ahead of this database.")

    def _lost(self) -> ChannelLost:
        return ChannelLost(f"The exchange with host {self._name} broke off.", spec_sent=True)

    def act(self, name, arguments, timeout_s=60):
        """Actions are done at once. ``fail``: by their name they are not done, by their name and
        " unheard" they are, and the channel breaks."""
        self._fleet.asked.append((name, arguments))
        words = self._trouble.fail.get(name)
        if words is not None:
            raise ResourceFailed(f"{name} on host {self._name} failed: {words}.")
        value = getattr(self, f"_act_{name.replace('-', '_')}", lambda _: {"text": ""})(arguments)
        if f"{name} unheard" in self._trouble.fail:
            raise ChannelLost(f"The exchange with host {self._name} broke off.")
        return value

    def _act_inspect_domain(self, arguments):
        """A domain to look at is one of those that others made."""
        for domain in self._fleet.state(self._name)["foreign"].values():
            if arguments["domain"] in (domain["id"], domain["name"]):
                return domain
        raise ResourceFailed(
            f"inspect-domain on host {self._name} failed: there is no such domain."
        )

    def _act_power_states(self, arguments):
        there = self._fleet.state(self._name)["domains"]
        ids = [id_ for id_ in arguments["server_ids"] if id_ in there]
        return {"states": {id_: there[id_]["power"] for id_ in ids}}

    def _act_describe_server(self, _):
        guest = {"state": "RUNNING", "virt_type": "qemu", "machine_type": "pc-i440fx-9.0"}
        return {**guest, "cpu": None, "offload": False}

    def _act_can_run_server(self, _):
        return {"refusal": self._trouble.fail.get("refusal", "")}

    def _act_expect_server(self, arguments):
        state = self._fleet.state(self._name)
        assert arguments["server_id"] not in state["domains"]
        return {"port": 1, "folder": "/folder", "xml": self._name}

    def _act_send_server(self, arguments):
        """The guest goes on at the host that wrote the definition."""
        self._on_step({"type": "step", "kind": "move", "memory_bytes": 1, "memory_total": 2})
        here, there = (self._fleet.state(name) for name in (self._name, arguments["xml"]))
        guest = here["domains"].pop(arguments["server_id"])
        if "stands still" in self._trouble.fail:
            guest = {**guest, "power": "PAUSED"}
        there["domains"][arguments["server_id"]] = guest
        self._fleet.save(arguments["xml"], there)
        self._fleet.save(self._name, here)
        return {"seconds": 0.1}

    def _act_look_server(self, arguments):
        guest = self._fleet.state(self._name)["domains"].get(arguments["server_id"])
        power = guest["power"] if guest else "NOSTATE"
        return {"on": power in ("RUNNING", "PAUSED"), "state": power, "persistent": bool(guest)}

    def _act_resume_server(self, arguments):
        state = self._fleet.state(self._name)
        state["domains"][arguments["server_id"]]["power"] = "RUNNING"
        self._fleet.save(self._name, state)
        return {}

    def stream(self, name, arguments):
        """The file that the test gave its fleet, in two pieces; ``act`` troubles concern it."""
        words = self._trouble.fail.get(name)
        if words is not None:
            raise ResourceFailed(f"{name} on host {self._name} failed: {words}.")
        self._fleet.asked.append((name, arguments))
        return FakeFile(self._fleet.content, self._trouble)

    def close(self) -> None:
        """Let go of the host."""
        if self._hold is not None:
            self._hold.__exit__(None, None, None)
            self._hold = None

    abort = close


class FakeFile:
    """A file from a host."""

    def __init__(self, content: bytes, trouble: Trouble) -> None:
        self._content, self._trouble = content, trouble
        self.size_bytes = len(content)
        self.value = None

    def pieces(self):
        """The first half, and the rest."""
        half = len(self._content) // 2
        yield self._content[:half]
        if self._trouble.die_at:
            raise ChannelLost("The exchange broke off.", spec_sent=True)
        yield self._content[half:]
        found = hashlib.sha256(self._content).hexdigest()
        self.value = {"sha256": "0" * 64 if self._trouble.silent else found, "quiesced": False}


class Together:
    """Volumes that no single host has, by id with their sizes. Making or destroying one twice
    fails the test."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder

    def get(self, id_):
        path = self._folder / id_
        return int(path.read_text()) if path.exists() else None

    def __contains__(self, id_):
        return (self._folder / id_).exists()

    def __setitem__(self, id_, size_bytes):
        if id_ not in self:
            (self._folder / f"made-{id_}").touch(exist_ok=False)
        (self._folder / id_).write_text(str(size_bytes))

    def pop(self, id_, default=None):
        (self._folder / id_).unlink(missing_ok=True)

    def ids(self):
        return sorted(each.name for each in self._folder.iterdir() if "made-" not in each.name)


class _Work:
    """The difference between a host and a spec, carried out while it is told."""

    def __init__(self, fleet, state, spec, trouble, on_step=None) -> None:
        self._fleet, self._observing = fleet, on_step is None
        self._state, self._spec, self._trouble = state, spec, trouble
        self._on_step = on_step or (lambda _: None)
        self._together = Together(fleet.folder / "together")
        self._failed: set[str] = set()

    def run(self):
        """Yield a report of everything that is done, and of domains, disks and images always."""
        yield from self._removals()
        for server in self._spec.servers:
            if server.adopts and server.id not in self._state["domains"]:
                yield self._adoption(server)
        yield from self._ports()
        yield from self._routers()
        for image in self._spec.images:
            yield self._report("image", image.id, "unchanged")
        for disk in self._spec.disks:
            yield self._disk(disk)
        for backend in self._spec.backends:
            yield from self._backend(backend)
        for volume in self._spec.volumes:
            yield self._volume(volume)
        for server in self._spec.servers:
            if not server.adopts or server.id in self._state["domains"]:
                yield self._domain(server)
        for server in self._spec.servers:
            yield from self._attachments(server)

    def _removals(self):
        yield from self._releases()
        spec = self._spec
        wanted = {item.id for item in (*spec.servers, *spec.disks, *spec.volumes)}
        for stone in self._spec.tombstones:
            if stone.id not in wanted:
                words = self._trouble.fail.get(stone.id) or self._trouble.fail.get("removal")
                if words is None:
                    shared = self._shared(stone.backend_id)
                    (self._together if shared else self._state[f"{stone.kind}s"]).pop(stone.id, 0)
                    yield Report(stone.kind, stone.id, "removed")
                else:
                    yield self._fault(stone.kind, stone.id, 0, words)

    def _ports(self):
        wanted = [port.id for port in self._spec.ports]
        for id_ in [id_ for id_ in self._state["ports"] if id_ not in wanted]:
            self._state["ports"].remove(id_)
            yield self._report("port", id_, "removed")
        for port in self._spec.ports:
            if port.id not in self._state["ports"]:
                report = self._report("port", port.id, "made", port.version)
                if report.result == "made":
                    self._state["ports"].append(port.id)
                yield report

    def _routers(self):
        there, wanted = self._state["routers"], {router.id for router in self._spec.routers}
        for id_ in [id_ for id_ in there if id_ not in wanted]:
            report = self._report("router", id_, "removed")
            if report.result == "removed":
                del there[id_]
            yield report
        for router in self._spec.routers:
            plain = to_plain(router)
            result = {None: "made", json.dumps(plain): "unchanged"}.get(
                there.get(router.id), "changed"
            )
            report = self._report("router", router.id, result, router.version)
            if report.result == result:
                there[router.id] = json.dumps(plain)
            yield report

    def _disk(self, disk):
        server = next((item for item in self._spec.servers if item.id == disk.server_id), None)
        if disk.id in self._state["disks"]:
            return self._report("disk", disk.id, "unchanged", disk.version)
        if server is not None and server.held:
            return self._report("disk", disk.id, "held", disk.version)
        moving = server is not None and server.moving and not disk.build
        if moving or disk.adopts is not None:
            return self._report("disk", disk.id, "busy", disk.version)
        if not disk.build:
            return self._fault("disk", disk.id, disk.version, f"disk {disk.id} is missing")
        if disk.image_id in self._failed:
            return self._fault("disk", disk.id, disk.version, f"image {disk.image_id} failed")
        if disk.source_host_id is not None:
            words = self._no_copy(disk)
            if words:
                return self._fault("disk", disk.id, disk.version, words)
        report = self._report("disk", disk.id, "made", disk.version)
        if report.result == "made":
            self._state["disks"][disk.id] = {"server": disk.server_id}
        return report

    def _backend(self, backend):
        """A place is there, for all hosts, when one was told to make it."""
        path = self._fleet.folder / f"backend-{backend.id}"
        words = self._trouble.fail.get(f"backend {backend.location}")
        if backend.claim and words is None:
            path.touch()
        lacks = words or ("" if path.exists() or not backend.shared else "it is not mounted")
        if lacks:
            self._failed.add(backend.id)
        facts = {"usable": not lacks, "why": lacks, "free_gb": 90, "total_gb": 100}
        asked = backend.claim or backend.look
        used = {each.backend_id for each in (*self._spec.volumes, *self._spec.tombstones)}
        if asked or backend.id in used:
            yield Report("backend", backend.id, "unchanged", backend.version, facts)

    def _shared(self, backend_id):
        backends = {backend.id: backend for backend in self._spec.backends}
        return backend_id is not None and backends[backend_id].shared

    def _there(self, volume):
        """Where a volume is kept: by the host, or by all together."""
        return self._together if self._shared(volume.backend_id) else self._state["volumes"]

    def _no_copy(self, disk):
        """Why a disk of another host cannot be copied."""
        for name, trouble in self._fleet.trouble.items():
            if trouble.unreachable and self._fleet.state(name)["claim"][1] == disk.source_host_id:
                return f"host {name} does not answer"
        for path in self._fleet.folder.glob("*.json"):
            state = json.loads(path.read_text())
            if state["claim"][1] == disk.source_host_id and disk.source_id in state["disks"]:
                there = state["domains"].get(disk.server_id, {})
                assert self._observing or there.get("power") != "RUNNING", "copied while it runs"
                return ""
        return f"disk {disk.source_id} is not there"

    def _releases(self):
        """Guests let go of the volumes that they shall not have; dead ones of all."""
        wanted = {
            each.volume_id: server for server in self._spec.servers for each in server.volumes
        }
        versions = {server.id: server.version for server in self._spec.servers}
        for id_, holder in list(self._state["plugged"].items()):
            if id_ in wanted and wanted[id_].id == holder:
                continue
            report = self._report("attachment", id_, "removed", versions.get(holder, 0))
            if report.result == "removed":
                del self._state["plugged"][id_]
            yield report

    def _volume(self, volume):
        there = self._there(volume)
        if volume.backend_id in self._failed:
            return self._fault("volume", volume.id, volume.version, "not tried: its backend")
        if volume.held and volume.id not in there:
            self._failed.add(volume.id)
            return Report("volume", volume.id, "held", volume.version)
        if volume.id not in there and not volume.build:
            return self._fault(
                "volume", volume.id, volume.version, f"volume {volume.id} is missing"
            )
        source = next((each for each in self._spec.volumes if each.id == volume.source_id), None)
        lost = source is None or source.id not in self._there(source)
        if volume.source_id is not None and lost:
            return self._fault("volume", volume.id, volume.version, "there is nothing to copy")
        holder = self._state["plugged"].get(volume.id)
        facts = {"used_by": [holder] if holder else []}
        old = there.get(volume.id)
        grown = old is not None and old < volume.size_bytes
        result = "made" if old is None else "changed" if grown else "unchanged"
        if volume.source_id is not None and old is None:
            used = volume.source_id in self._state["plugged"]
            facts |= {"taken": "2026-01-01T00:00:00Z"}
            facts |= {"consistency": "crash-consistent" if used else "at-rest"}
        report = self._report("volume", volume.id, result, volume.version, facts)
        if report.result == result:
            there[volume.id] = volume.size_bytes
        return report

    def _attachments(self, server):
        there = self._state["domains"].get(server.id)
        for each in server.volumes:
            if self._failed & {each.volume_id, server.id}:
                words = "not tried"
                yield self._fault("attachment", each.volume_id, server.version, words)
                continue
            runs = there is not None and there["power"] == "RUNNING"
            old = self._state["plugged"].get(each.volume_id)
            result = "made" if runs and old is None else "unchanged"
            report = self._report("attachment", each.volume_id, result, server.version)
            if report.result == "made":
                self._state["plugged"][each.volume_id] = server.id
            yield report

    def _adoption(self, server):
        domain = self._state["foreign"].get(server.id)
        words = self._trouble.fail.get("adoption") or (None if domain else "it is not there")
        if words:
            return self._fault("domain", server.id, server.version, words)
        del self._state["foreign"][server.id]
        for disk in self._spec.disks:
            if disk.server_id == server.id:
                self._state["disks"][disk.id] = {"server": server.id, "path": disk.adopts}
        runs = domain["state"] == "RUNNING"
        mark = {"power": domain["state"], "served": 1, "as_adopted": runs}
        self._state["domains"][server.id] = mark
        facts = {"power_state": domain["state"], "as_adopted": runs}
        return self._report("domain", server.id, "changed", server.version, facts)

    def _domain(self, server):
        there = self._state["domains"].get(server.id)
        facts = {"power_state": there["power"] if there else "NOSTATE"}
        facts["as_adopted"] = bool(there and there.get("as_adopted"))
        if server.held or server.moving:
            result = "held" if server.held else "busy"
            return self._report("domain", server.id, result, server.version, facts)
        if there and there["served"] >= server.power.serial:
            return self._report("domain", server.id, "unchanged", server.version, facts)
        volumes = {each.volume_id for each in server.volumes}
        needs = self._failed & {*server.disks, *server.ports, *volumes}
        if needs:
            return self._fault("domain", server.id, server.version, f"not tried: {min(needs)}")
        power = "SHUTDOWN" if server.power.action == "stop" else "RUNNING"
        if "libvirt" in self._trouble.fail:
            words = self._trouble.fail["libvirt"]
            return self._fault("domain", server.id, server.version, words)
        self._on_step({"type": "step", "kind": "domain", "id": server.id})
        result = "changed" if there else "made"
        report = self._report("domain", server.id, result, server.version, {"power_state": power})
        if report.result == result:
            if power == "SHUTDOWN":
                held = self._state["plugged"]
                self._state["plugged"] = {k: v for k, v in held.items() if v != server.id}
            mark = {"power": power, "served": server.power.serial}
            self._state["domains"][server.id] = mark
        return report

    def _report(self, kind, id_, result, version=0, facts=None):
        words = self._trouble.fail.get(id_) or self._trouble.fail.get(kind)
        if words is not None:
            return self._fault(kind, id_, version, words)
        return Report(kind, id_, result, version, facts or {})

    def _fault(self, kind, id_, version, words):
        self._failed.add(id_)
        return Report(kind, id_, "failed", version, fault=Fault(words, "engine --do", "detail"))
