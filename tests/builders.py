"""Worlds for tests: a cloud with hosts, an image, networks, and a fleet that is not there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from stackctl.compute import service, views
from stackctl.compute.types import BootRequest, Nic
from stackctl.identity.bootstrap import create_cloud
from stackctl.identity.context import Context, Watch, admin_context
from stackctl.network.allocation import make_port
from stackctl.network.networks import NewNetwork, create_network
from stackctl.network.subnets import NewSubnet
from stackctl.operation.keep import converge_hosts
from stackctl.state import Cloud, new_id, now, read, write
from tests.fakes import FakeFleet, Trouble

ROOT = Path(__file__).parents[1]


class Killed(BaseException):
    """What no handler of a command expects: it stands for kill -9."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, *where) -> Iterator[None]:
    """The command in the block ends where it calls this, and nothing of it goes on."""

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*where, die)
        yield


@cache
def _template() -> Path:
    """An empty cloud, made once: keys and schema cost more than a copy."""
    folder = Path(mkdtemp(prefix="stackctl-template-"))
    create_cloud(Cloud("test", folder / "cloud"))
    return folder


def forget_template() -> None:
    """Remove the template of clouds."""
    if _template.cache_info().currsize:
        shutil.rmtree(_template())
        _template.cache_clear()


def new_cloud(folder: Path) -> Cloud:
    """A fresh, empty cloud in ``folder``/cloud."""
    shutil.copytree(_template() / "cloud", folder / "cloud")
    return Cloud("test", folder / "cloud")


@dataclass
class World:
    """A cloud, who asks, and the hosts that he gets to see."""

    context: Context
    fleet: FakeFleet
    warnings: list[str]

    @property
    def cloud(self) -> Cloud:
        return self.context.cloud

    def asked(self, **more) -> Context:
        """The same asker, otherwise (dry_run, request_id)."""
        return dataclasses.replace(self.context, **more)

    def add_host(self, name: str, **columns) -> str:
        """A host that has said what it has but was never converged; returns its id."""
        number = self.value("SELECT count(*) + 1 FROM hosts")
        row = {"id": new_id(), "name": name, "transport": "ssh", "address": name, "ssh_port": 22}
        row |= {"ssh_user": "root", "host_key": "ssh-ed25519 AAAA"}
        row |= {"tunnel_address": f"10.9.0.{number}"}
        row |= {"vcpus": 16, "ram_mb": 65536, "disk_gb": 500, "created_at": now()}
        row |= {"facts_json": json.dumps({"machine_types": {"pc": "pc-i440fx-9.0"}})}
        with write(self.cloud) as writer:
            return writer.insert("hosts", {**row, **columns})["id"]

    def add_hosts(self, *names: str) -> list[str]:
        return [self.add_host(name) for name in names]

    def add_image(self, name: str = "cirros", **columns) -> str:
        """An active image; its file is nowhere, since the fake hosts do not ask for it."""
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        row = {"id": new_id(), "project_id": self.context.project_id, "name": name}
        row |= {"status": "active", "disk_format": "qcow2", "size_bytes": 100, "sha256": sha256}
        row |= {"virtual_size_bytes": 1 << 29, "visibility": "public", "created_at": now()}
        with write(self.cloud) as writer:
            return writer.insert("images", {**row, **columns})["id"]

    def add_network(self, name: str = "net", cidr: str = "192.168.1.0/24", **more):
        wanted = NewNetwork(name, subnet=NewSubnet(cidr) if cidr else None, **more)
        return create_network(self.context, wanted).value

    def request(self, name: str = "vm", **more) -> BootRequest:
        """What a test boots unless it says otherwise; ``net`` names the networks of its NICs."""
        nets = more.pop("net", ["net"])
        nics = more.pop("nics", tuple(Nic(network=word) for word in nets))
        return BootRequest(
            **{"name": name, "image": "cirros", "flavor": "m1.tiny", "nics": nics, **more}
        )

    def boot(self, name: str = "vm", **more):
        """Boot and return the whole outcome."""
        return service.boot(self.context, self.request(name, **more))

    def booted(self, name: str = "vm", **more):
        """Boot servers that must come up; returns them."""
        done = self.boot(name, **more)
        done.check()
        return done.value

    def converge(self, *words: str, everything: bool = False):
        return converge_hosts(self.context, words, everything=everything)

    def servers(self) -> dict[str, str]:
        """The status of every live server by name."""
        return {server.name: server.status for server in views.list_servers(self.context)}

    def server(self, name: str):
        return views.show_server(self.context, name)

    def rows(self, sql: str, *parameters):
        with read(self.cloud) as reader:
            return reader.all(sql, *parameters)

    def value(self, sql: str, *parameters):
        with read(self.cloud) as reader:
            return reader.value(sql, *parameters)

    def column(self, sql: str, *parameters):
        with read(self.cloud) as reader:
            return reader.column(sql, *parameters)

    def host(self, name: str):
        return self.rows("SELECT * FROM hosts WHERE name = ?", name)[0]

    def trouble(self, host: str, **what) -> None:
        """From now on this goes wrong on a host; nothing named: all is well again."""
        self.fleet.trouble[host] = Trouble(**what)


def new_world(folder: Path) -> World:
    """An empty cloud with its fleet; the caller puts ``fleet.open_session`` in place."""
    return open_world(new_cloud(folder), folder / "fleet")


def open_world(cloud: Cloud, fleet: Path) -> World:
    """A world that is already there, as another process sees it."""
    warnings: list[str] = []
    context = admin_context(cloud, watch=Watch(warn=warnings.append))
    return World(context, FakeFleet(fleet), warnings)


def furnished(world: World, *hosts: str) -> World:
    """With hosts, the image cirros and the network net."""
    world.add_hosts(*hosts)
    world.add_image()
    world.add_network()
    return world


def join_networks(world: World, *names: str) -> str:
    """A router on no host, with an interface in each of these networks; returns its id."""
    project_id, id_ = world.context.project_id, new_id()
    with write(world.cloud) as writer:
        row = {"id": id_, "project_id": project_id, "name": f"router-{id_}", "created_at": now()}
        writer.insert("routers", row)
        for name in names:
            network = writer.all("SELECT * FROM networks WHERE name = ?", name)[0]
            owner = {"device_owner": "network:router_interface", "device_id": id_}
            make_port(writer, project_id=project_id, network=network, **owner)
    return id_
