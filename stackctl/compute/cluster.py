"""A cluster computer as one thing: a private network, a head node, compute nodes, one SSH key.

The three steps of the slides (create a local network, launch a head node, launch compute nodes)
in one transaction: all of it fits, or nothing is made. All nodes share a generated key, so the
head reaches every node by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from stackctl.compute.booking import store_blob
from stackctl.compute.elsewhere import carry_out
from stackctl.compute.service import boot_within, delete_within
from stackctl.compute.types import BootRequest, GuestFile, Nic, Server
from stackctl.compute.views import first_result, servers_by_id
from stackctl.errors import Conflict, UsageError
from stackctl.identity.bootstrap import make_keypair
from stackctl.identity.context import Context, find_own, named, own_rows
from stackctl.names import checked_name
from stackctl.network.finding import visible_network
from stackctl.network.networks import NewNetwork, add_network, drop_network
from stackctl.network.subnets import NewSubnet
from stackctl.operation import Done, Operation, begin
from stackctl.state import Reader, Row, Writer, new_id, now, read

DEFAULT_SUBNET = "192.168.1.0/24"
KEY_PATH = "/root/.ssh/id_ed25519"
HOSTFILE_FORMS = ("mpi", "slurm", "hosts")


@dataclass(frozen=True)
class NewCluster:
    """What ``cluster-create`` is asked for.

    ``network``: an existing private network; without it one is made with ``subnet``.
    ``head_networks`` come before the private one, as NICs of the head node only.
    """

    name: str
    count: int
    image: str
    flavor: str
    head_flavor: str | None = None
    network: str | None = None
    subnet: str = DEFAULT_SUBNET
    head_networks: tuple[str, ...] = ()
    key_name: str | None = None
    user_data: bytes | None = None
    zone: str | None = None


@dataclass(frozen=True)
class Cluster:
    """A cluster and its nodes; ``head`` is None when it was deleted by itself."""

    id: str
    name: str
    network: str
    network_id: str
    head: Server | None
    nodes: tuple[Server, ...]
    created_at: str
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def servers(self) -> tuple[Server, ...]:
        """Head first, then the nodes."""
        return ((self.head,) if self.head else ()) + self.nodes

    def address(self, server: Server) -> str:
        """A node's address in the cluster's private network."""
        return next((item.address for item in server.addresses if item.network == self.network), "")


def create_cluster(context: Context, wanted: NewCluster) -> Done[list[Server]]:
    """Make network, head and nodes; returns the servers, head first."""
    if wanted.count < 1:
        raise UsageError("A cluster has at least one compute node (--count).")
    checked_name("cluster", wanted.name)
    private_key, public_key = make_keypair(f"cluster-{wanted.name}")
    user_data = hashlib.sha256(wanted.user_data or b"").hexdigest()
    arguments = asdict(wanted) | {"user_data": user_data}

    def work(writer: Writer) -> list[str]:
        cluster_id = _write_cluster(context, writer, wanted, private_key, public_key)
        return _boot_head(context, writer, operation, cluster_id) + _boot_nodes(
            context, writer, operation, cluster_id, wanted.count
        )

    def undo(writer: Writer) -> None:
        _drop_cluster(writer, _row(context, writer, wanted.name))

    with begin(context, "cluster-create", f"cluster {wanted.name}", arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: first_result(context, row))
        return carry_out(operation, work, undo)


def list_clusters(context: Context) -> list[Cluster]:
    """The project's clusters."""
    with read(context.cloud) as reader:
        return [_cluster(reader, row) for row in own_rows(context, reader, "clusters", "name")]


def show_cluster(context: Context, word: str) -> Cluster:
    """One cluster by name or id."""
    with read(context.cloud) as reader:
        return _cluster(reader, _row(context, reader, word))


def scale_cluster(context: Context, word: str, count: int) -> Done[list[Server]]:
    """Bring a cluster to ``count`` nodes: new ones get new numbers, the newest leave first."""
    if count < 1:
        raise UsageError("A cluster has at least one compute node; cluster-delete ends it.")

    def work(writer: Writer) -> list[str]:
        row = _row(context, writer, word)
        nodes = _node_rows(writer, row)
        for node in nodes[count:]:
            delete_within(context, writer, operation.id, node)
        kept = [node["id"] for node in nodes[:count]]
        missing = count - len(nodes)
        if missing > 0:
            kept += _boot_nodes(context, writer, operation, row["id"], missing)
        return kept

    arguments = {"cluster": word, "count": count}
    with begin(context, "cluster-scale", f"scale {word} to {count}", arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: first_result(context, row))
        return carry_out(operation, work)


def delete_cluster(context: Context, word: str) -> Done[str]:
    """Delete a cluster's servers, and its network when it was made for it."""

    def work(writer: Writer) -> str:
        row = _row(context, writer, word)
        for server in _server_rows(writer, row):
            delete_within(context, writer, operation.id, server)
        _drop_cluster(writer, row)
        return str(row["name"])

    with begin(context, "cluster-delete", f"delete cluster {word}", {"cluster": word}) as operation:
        if operation.repeated is not None:
            return operation.again(lambda _: word)
        name = operation.transact(work)
        operation.converge()
        return operation.finish(name)


def hostfile(cluster: Cluster, form: str) -> str:
    """The cluster's nodes for MPI (slots), Slurm (NodeName lines) or /etc/hosts."""
    if form == "mpi":
        lines = [f"{node.hostname} slots={node.vcpus}" for node in cluster.nodes]
    elif form == "slurm":
        lines = [
            f"NodeName={node.hostname} NodeAddr={cluster.address(node)} "
            f"CPUs={node.vcpus} RealMemory={node.ram_mb} State=UNKNOWN"
            for node in cluster.nodes
        ]
        names = ",".join(node.hostname for node in cluster.nodes)
        lines.append(f"PartitionName={cluster.name} Nodes={names} Default=YES State=UP")
    else:
        lines = [f"{cluster.address(item)}\t{item.hostname}" for item in cluster.servers]
    return "\n".join(lines) + "\n"


def _row(context: Context, reader: Reader, word: str) -> Row:
    return find_own(context, reader, "clusters", word, noun="cluster")


def _write_cluster(
    context: Context, writer: Writer, wanted: NewCluster, private_key: str, public_key: str
) -> str:
    if named(writer, "clusters", context.project_id, wanted.name):
        raise Conflict(f"There is already a cluster called {wanted.name}. Nothing was made.")
    row = {
        "id": new_id(),
        "project_id": context.project_id,
        "name": wanted.name,
        "network_id": _network(context, writer, wanted),
        "owns_network": int(wanted.network is None),
        "node_spec_json": json.dumps(asdict(replace(wanted, user_data=None))),
        "public_key": public_key,
        "private_key_sha256": store_blob(writer, private_key.encode()),
        "created_at": now(),
    }
    if wanted.user_data is not None:
        row["user_data_sha256"] = store_blob(writer, wanted.user_data)
    writer.insert("clusters", row)
    return str(row["id"])


def _drop_cluster(writer: Writer, row: Row) -> None:
    """The cluster without its servers: its row, and its network when it was made for it."""
    if row["owns_network"]:
        drop_network(writer, writer.get("networks", row["network_id"]))
    writer.update("clusters", row["id"], deleted_at=now())


def _network(context: Context, writer: Writer, wanted: NewCluster) -> str:
    if wanted.network is not None:
        return str(visible_network(context, writer, wanted.network)["id"])
    subnet = NewSubnet(cidr=wanted.subnet)
    return add_network(context, writer, NewNetwork(name=wanted.name, subnet=subnet)).id


def _boot_head(
    context: Context, writer: Writer, operation: Operation, cluster_id: str
) -> list[str]:
    row = writer.get("clusters", cluster_id)
    wanted = json.loads(row["node_spec_json"])
    nics = [Nic(network=word) for word in wanted["head_networks"]]
    request = replace(
        _request(writer, row),
        name=f"{row['name']}-head",
        flavor=wanted["head_flavor"] or wanted["flavor"],
        nics=(*nics, Nic(network=row["network_id"])),
    )
    ids = boot_within(context, writer, operation, request)
    writer.update("clusters", cluster_id, head_id=ids[0])
    return ids


def _boot_nodes(
    context: Context, writer: Writer, operation: Operation, cluster_id: str, count: int
) -> list[str]:
    row = writer.get("clusters", cluster_id)
    request = replace(
        _request(writer, row),
        name=f"{row['name']}-node",
        count=count,
        nics=(Nic(network=row["network_id"]),),
        first_index=row["next_index"],
        always_numbered=True,
    )
    writer.update("clusters", cluster_id, next_index=row["next_index"] + count)
    return boot_within(context, writer, operation, request)


def _request(reader: Reader, row: Row) -> BootRequest:
    """What head and nodes have in common."""
    wanted = json.loads(row["node_spec_json"])
    private_key = _blob(reader, row["private_key_sha256"])
    user_data = row["user_data_sha256"]
    return BootRequest(
        name=row["name"],
        image=wanted["image"],
        flavor=wanted["flavor"],
        key_name=wanted["key_name"],
        public_keys=((f"cluster-{row['name']}", row["public_key"]),),
        files=(GuestFile(KEY_PATH, private_key),),
        user_data=_blob(reader, user_data) if user_data else None,
        zone=wanted["zone"],
        cluster_id=row["id"],
    )


def _blob(reader: Reader, sha256: str) -> bytes:
    return bytes(reader.value("SELECT content FROM blobs WHERE sha256 = ?", sha256))


def _server_rows(reader: Reader, cluster: Row) -> list[Row]:
    return reader.all(
        "SELECT * FROM servers WHERE cluster_id = ? AND deleted_at IS NULL ORDER BY rowid",
        cluster["id"],
    )


def _node_rows(reader: Reader, cluster: Row) -> list[Row]:
    return [row for row in _server_rows(reader, cluster) if row["id"] != cluster["head_id"]]


def _cluster(reader: Reader, row: Row) -> Cluster:
    ids = [server["id"] for server in _server_rows(reader, row)]
    servers: Sequence[Server] = servers_by_id(reader, ids)
    network = reader.get("networks", row["network_id"])
    return Cluster(
        id=row["id"],
        name=row["name"],
        network=network["name"],
        network_id=network["id"],
        head=next((item for item in servers if item.id == row["head_id"]), None),
        nodes=tuple(item for item in servers if item.id != row["head_id"]),
        created_at=row["created_at"],
        spec=json.loads(row["node_spec_json"]),
    )
