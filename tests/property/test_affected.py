"""Whatever people do: every host whose spec a transaction changes is told of it."""

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from agent.spec import AddressPair, HostRoute, to_plain
from stackctl.compute import attachments, secgroups, service
from stackctl.compute.types import Nic
from stackctl.errors import StackctlError
from stackctl.hosts import leaving
from stackctl.hosts.settings import set_host
from stackctl.hosts.types import HostChanges
from stackctl.hostspec import build_spec, load_snapshot
from stackctl.network import service as network
from stackctl.state import read
from stackctl.volume import backends, snapshots
from stackctl.volume import service as volumes
from stackctl.volume.types import NewVolume
from tests.builders import join_networks, new_world

HOSTS = st.sampled_from(["h1", "h2", "h3"])
NETS = st.sampled_from(["n1", "n2"])
SERVERS = st.sampled_from(["a", "b", "c"])
ROUTERS = st.sampled_from(["r1", "r2"])
SUBNETS = st.sampled_from(["n1", "n2", "s3"])
OUTSIDE = st.sampled_from(["out1", "out2"])
TYPES = st.sampled_from([None, "local", "nas"])
VOLUMES = st.sampled_from(["v1", "v2"])
GROUPS = st.sampled_from(["default", "web", "db"])
OWN = (
    "settings",
    "ports",
    "images",
    "disks",
    "servers",
    "tombstones",
    "security_groups",
    "routers",
    "volumes",
)
run = sys.modules["stackctl.operation.run"]


class Commands(RuleBasedStateMachine):
    """Commands in any order; ``affected_hosts`` is checked inside each transaction."""

    @initialize(joined=st.booleans())
    def furnish(self, joined):
        where = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="stackctl-test-", dir=where))
        self.patch = pytest.MonkeyPatch()
        self.world = new_world(self.folder)
        opener = self.world.fleet.open_session
        self.patch.setattr("stackctl.fleet.session.open_session", opener)
        self.patch.setattr(leaving.keys, "remove", lambda *_: None)
        self.real = run.affected_hosts
        self.patch.setattr(run, "affected_hosts", self.checked)
        self.world.add_hosts("h1", "h2", "h3")
        self.world.add_image()
        self.wrong = []
        for name in ("n1", "n2"):
            self.world.add_network(name, f"10.{name[1]}.0.0/28")
        for name in ("out1", "out2"):
            self.world.add_network(name, f"203.0.{name[3]}.0/28", external=True)
        if joined:
            join_networks(self.world, "n1", "n2")

    def teardown(self):
        if hasattr(self, "patch"):
            self.patch.undo()
            shutil.rmtree(self.folder)

    def checked(self, writer, change):
        """The real answer, compared with the specs before and after the transaction."""
        affected = self.real(writer, change)
        with read(self.world.cloud) as reader:
            before = specs(reader)
        for host_id, after in specs(writer).items():
            differing = {name for name in after if before.get(host_id, {}).get(name) != after[name]}
            if differing and host_id not in affected.all:
                self.wrong.append(f"not told of {differing}")
            own = differing & set(OWN)
            if own == {"volumes"} and is_less(before[host_id], after):
                own = set()  # another host cares for a shared one: this one has nothing to do
            if own and host_id not in affected.carrying:
                self.wrong.append(f"{own} is not its own")
        return affected

    def tried(self, work, *arguments, **more):
        with contextlib.suppress(StackctlError):
            work(*arguments, **more)
        assert self.wrong == []

    @rule(
        name=SERVERS,
        nets=st.lists(NETS, min_size=1, max_size=2),
        host=HOSTS | st.none(),
        groups=st.none() | st.tuples(GROUPS),
    )
    def boot(self, name, nets, host, groups):
        self.tried(self.world.boot, name, net=nets, host=host, security_groups=groups)

    @rule(name=SERVERS, host=HOSTS)
    def boot_with_port(self, name, host):
        self.tried(self.world.boot, name, nics=(Nic(port="p"),), host=host)

    @rule(names=st.lists(SERVERS, min_size=1, max_size=2))
    def delete(self, names):
        self.tried(service.delete_servers, self.world.context, names)

    @rule(name=SERVERS, action=st.sampled_from(["start", "stop", "reboot-hard"]))
    def power(self, name, action):
        self.tried(service.change_power, self.world.context, action, [name])

    @rule(host=HOSTS, down=st.booleans())
    def plug(self, host, down):
        self.world.trouble(host, unreachable=down)

    @rule(host=HOSTS, number=st.integers(1, 9))
    def move_tunnel(self, host, number):
        change = HostChanges(tunnel_address=f"10.99.0.{number}")
        self.tried(set_host, self.world.context, host, change)

    @rule(host=HOSTS)
    def delete_host(self, host):
        self.tried(leaving.delete_host, self.world.context, host, off_for_good=True)

    @rule(host=HOSTS, on_boot=st.sampled_from(["all", "none"]))
    def host_policy(self, host, on_boot):
        self.tried(set_host, self.world.context, host, HostChanges(on_boot=on_boot))

    @rule(net=NETS, up=st.booleans())
    def network_state(self, net, up):
        change = network.NetworkChange(admin_up=up)
        self.tried(network.set_network, self.world.context, net, change)

    @rule(net=NETS, number=st.integers(3, 5))
    def more_subnet(self, net, number):
        wanted = network.NewSubnet(f"10.{number}.0.0/29", name=f"s{number}")
        self.tried(network.create_subnet, self.world.context, net, wanted)

    @rule(number=st.integers(3, 5), dhcp=st.booleans())
    def change_subnet(self, number, dhcp):
        change = network.SubnetChange(dhcp=dhcp, dns_nameservers=("9.9.9.9",))
        self.tried(network.set_subnet, self.world.context, f"s{number}", change)

    @rule(number=st.integers(3, 5))
    def delete_subnet(self, number):
        self.tried(network.delete_subnet, self.world.context, f"s{number}")

    @rule(net=NETS)
    def port(self, net):
        self.tried(network.create_port, self.world.context, network.NewPort(net, name="p"))

    @rule(up=st.booleans())
    def change_port(self, up):
        change = network.PortChange(admin_up=up)
        self.tried(network.set_port, self.world.context, "p", change)

    @rule(groups=st.lists(GROUPS, max_size=2), pair=st.booleans())
    def change_groups_of_port(self, groups, pair):
        pairs = (AddressPair("10.77.0.0/16"),) if pair else ()
        change = network.PortChange(security_groups=tuple(groups), allowed_pairs=pairs)
        self.tried(network.set_port, self.world.context, "p", change)

    @rule(number=st.integers(2, 13))
    def change_address_of_port(self, number):
        fixed = (network.FixedIp(address=f"10.1.0.{number}"),)
        change = network.PortChange(fixed_ips=fixed)
        self.tried(network.set_port, self.world.context, "p", change)

    @rule(group=GROUPS)
    def group(self, group):
        self.tried(network.create_group, self.world.context, network.NewGroup(group))

    @rule(group=GROUPS)
    def delete_group(self, group):
        self.tried(network.delete_group, self.world.context, group)

    @rule(group=GROUPS, remote=GROUPS | st.none(), protocol=st.sampled_from(["tcp", "icmp"]))
    def allow(self, group, remote, protocol):
        wanted = network.NewRule(protocol=protocol, remote_group=remote)
        self.tried(network.create_rule, self.world.context, group, wanted)

    @rule(at=st.integers(0, 20))
    def revoke(self, at):
        rules = network.list_rules(self.world.context)
        if rules:
            self.tried(network.delete_rule, self.world.context, rules[at % len(rules)].id)

    @rule(name=SERVERS, group=GROUPS, joins=st.booleans())
    def groups_of_server(self, name, group, joins):
        work = secgroups.add_group if joins else secgroups.remove_group
        self.tried(work, self.world.context, name, group)

    @rule()
    def delete_port(self):
        self.tried(network.delete_port, self.world.context, "p")

    @rule(name=ROUTERS, outside=OUTSIDE | st.none(), host=HOSTS | st.none())
    def router(self, name, outside, host):
        wanted = network.NewRouter(name, gateway=outside, host=host)
        self.tried(network.create_router, self.world.context, wanted)

    @rule(name=ROUTERS, net=SUBNETS, there=st.booleans())
    def interface(self, name, net, there):
        with read(self.world.cloud) as reader:
            sql = "SELECT subnets.id FROM subnets JOIN networks ON networks.id = network_id "
            where = "WHERE ? IN (subnets.name, networks.name) AND subnets.deleted_at IS NULL"
            subnet = reader.value(sql + where, net) or net
        work = network.add_interface if there else network.remove_interface
        self.tried(work, self.world.context, name, subnet=subnet)

    @rule(name=ROUTERS)
    def interface_by_port(self, name):
        self.tried(network.add_interface, self.world.context, name, port="p")

    @rule(name=ROUTERS, outside=OUTSIDE | st.none(), snat=st.booleans())
    def gateway(self, name, outside, snat):
        change = network.RouterChange(gateway=outside, no_gateway=outside is None, snat=snat)
        self.tried(network.set_router, self.world.context, name, change)

    @rule(name=ROUTERS, up=st.booleans(), net=st.integers(1, 2), drop=st.booleans())
    def change_router(self, name, up, net, drop):
        route = HostRoute("172.16.0.0/16", f"10.{net}.0.14")
        change = network.RouterChange(admin_up=up, no_routes=drop, add_routes=(route,))
        self.tried(network.set_router, self.world.context, name, change)

    @rule(name=ROUTERS, host=HOSTS | st.none())
    def move_router(self, name, host):
        self.tried(network.move_router, self.world.context, name, host)

    @rule(name=ROUTERS)
    def delete_router(self, name):
        self.tried(network.delete_router, self.world.context, name)

    @rule(outside=OUTSIDE, server=SERVERS | st.none())
    def floating_ip(self, outside, server):
        target = network.Target(server=server) if server else None
        wanted = network.NewFloatingIp(outside, target=target)
        self.tried(network.create_floating_ip, self.world.context, wanted)

    @rule(net=st.integers(1, 2), last=st.integers(2, 5), server=SERVERS | st.none())
    def associate(self, net, last, server):
        word = f"203.0.{net}.{last}"
        if server is None:
            self.tried(network.disassociate, self.world.context, word)
        else:
            self.tried(network.associate, self.world.context, word, network.Target(server=server))

    @rule(net=st.integers(1, 2), last=st.integers(2, 5))
    def delete_floating_ip(self, net, last):
        self.tried(network.delete_floating_ip, self.world.context, f"203.0.{net}.{last}")

    @rule(name=SERVERS, router=ROUTERS, host=HOSTS)
    def routed_server(self, name, router, host):
        """What floating IPs need, at once: by chance it would be rare."""
        self.boot(name, ["n1"], host, ["default"])
        self.router(router, "out1", None)
        self.interface(router, "n1", True)
        self.floating_ip("out1", name)

    @rule(there=st.booleans())
    def volume_type(self, there):
        if there:
            wanted = backends.NewVolumeType("nas", "nfs", "nas.example.com:/volumes")
            self.tried(backends.create_type, self.world.context, wanted)
        else:
            self.tried(backends.delete_type, self.world.context, "nas")

    @rule(name=VOLUMES, servers=st.lists(SERVERS, min_size=2, max_size=3))
    def shared_volume(self, name, servers):
        """What goes from host to host, at once: by chance it would be rare."""
        self.volume_type(True)
        self.volume(name, None, None, "nas")
        for server, host in zip(servers, ("h1", "h2", "h3"), strict=False):
            self.boot(server, ["n1"], host, None)
            self.attach(name, server, True)
            self.attach(name, server, False)

    @rule(name=VOLUMES, host=HOSTS | st.none(), origin=VOLUMES | st.none(), kind=TYPES)
    def volume(self, name, host, origin, kind):
        wanted = NewVolume(name, None if origin else 1, host=host, source=origin, type=kind)
        self.tried(volumes.create_volume, self.world.context, wanted)

    @rule(name=VOLUMES, server=SERVERS, there=st.booleans())
    def attach(self, name, server, there):
        work = attachments.attach_volume if there else attachments.detach_volume
        self.tried(work, self.world.context, server, name)

    @rule(name=VOLUMES, size_gb=st.integers(2, 3))
    def extend(self, name, size_gb):
        self.tried(volumes.extend_volume, self.world.context, name, size_gb)

    @rule(name=VOLUMES, taken=st.booleans())
    def snapshot(self, name, taken):
        if taken:
            self.tried(snapshots.create_snapshot, self.world.context, name, name)
        else:
            self.tried(snapshots.delete_snapshot, self.world.context, name)

    @rule(name=VOLUMES)
    def delete_volume(self, name):
        self.tried(volumes.delete_volume, self.world.context, name)

    @rule()
    def converge(self):
        self.tried(self.world.converge)


def is_less(before, after):
    """Whether a host has only lost volumes, and is to destroy none."""
    kept = [each for each in before["volumes"] if each in after["volumes"]]
    return kept == after["volumes"]


def specs(reader):
    """The spec of every live host, without what tells two of the same content apart."""
    ids = reader.column("SELECT id FROM hosts WHERE deleted_at IS NULL")
    return {id_: to_plain(build_spec(load_snapshot(reader, id_), 0, "")) for id_ in ids}


class TestCommands(Commands.TestCase):
    settings = settings(
        max_examples=12,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
