"""cluster-create, -list, -show, -scale, -delete, -hostfile."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, confirm, destroys, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.server import LIST, USER_DATA_LIMIT_BYTES

if TYPE_CHECKING:
    from stackctl.compute.cluster import Cluster
    from stackctl.identity.context import Context


def _ready(cluster: Cluster) -> str:
    active = sum(server.status == "ACTIVE" for server in cluster.servers)
    return f"{active}/{len(cluster.servers)}"


CLUSTERS = (
    Column("ID", "id", extra=True),
    Column("Name", "name"),
    Column("Network", "network"),
    Column("Head", lambda cluster: cluster.head.name if cluster.head else None),
    Column("Nodes", lambda cluster: len(cluster.nodes)),
    Column("Active", _ready),
    Column("Created", "created_at"),
)

DETAILS = (
    *CLUSTERS,
    Column("Head addresses", lambda cluster: cluster.head.networks() if cluster.head else None),
    Column(
        "Node addresses",
        lambda cluster: {node.hostname: cluster.address(node) for node in cluster.nodes},
    ),
    Column("Image", lambda cluster: cluster.spec["image"]),
    Column("Flavor", lambda cluster: cluster.spec["flavor"]),
)


@command("cluster-create")
@changes
@lists(LIST)
@click.argument("name")
@click.option("--count", default=4, show_default=True, help="Number of compute nodes.")
@click.option("--image", required=True, type=words.IMAGE, help="Image of all nodes.")
@click.option("--flavor", required=True, type=words.FLAVOR, help="Flavor of the compute nodes.")
@click.option("--head-flavor", type=words.FLAVOR, help="Flavor of the head (default: the same).")
@click.option("--network", type=words.NETWORK, help="Private network (default: a new one).")
@click.option("--subnet", help="CIDR of the new private network (default: 192.168.1.0/24).")
@click.option(
    "--head-network",
    "head_networks",
    multiple=True,
    type=words.NETWORK,
    help="A network of the head only, before the private one; repeatable.",
)
@click.option("--key", "--key-name", "key", type=words.KEYPAIR, help="Your key pair, for login.")
@click.option("--user-data", type=words.LocalFile(), help="Script or cloud-config for all nodes.")
@click.option("--availability-zone", "--zone", "zone", help="Only on hosts of this zone.")
@click.option("--wait", type=click.Choice(["dhcp", "ssh"]), help="Return when all nodes answer.")
@click.option("--wait-timeout", default=300, help="Seconds that --wait takes at most.")
def cluster_create(
    context: Context,
    output: Output,
    name: str,
    count: int,
    image: str,
    flavor: str,
    head_flavor: str | None,
    network: str | None,
    subnet: str | None,
    head_networks: tuple[str, ...],
    key: str | None,
    user_data: BinaryIO | None,
    zone: str | None,
    wait: str | None,
    wait_timeout: int,
) -> None:
    """Make a private network, a head node and compute nodes that share an SSH key.

    All of it fits, or nothing is made. From the head every node is reached by its name.
    """
    from stackctl.compute import access, cluster

    wanted = cluster.NewCluster(
        name=name,
        count=count,
        image=image,
        flavor=flavor,
        head_flavor=head_flavor,
        network=network,
        subnet=subnet or cluster.DEFAULT_SUBNET,
        head_networks=head_networks,
        key_name=key,
        user_data=words.read_all(user_data, USER_DATA_LIMIT_BYTES, "user data")
        if user_data
        else None,
        zone=zone,
    )
    done = cluster.create_cluster(context, wanted)
    output.list(done.value)
    if wait and not context.dry_run:
        running = [server.id for server in done.value if server.status == "ACTIVE"]
        access.wait_for_guests(context, running, wait, wait_timeout)
    finish(context, done)


@command("cluster-list")
@lists(CLUSTERS)
def cluster_list(context: Context, output: Output) -> None:
    """List clusters."""
    from stackctl.compute import cluster

    output.list(cluster.list_clusters(context))


@command("cluster-show")
@shows(DETAILS)
@click.argument("name", type=words.CLUSTER)
def cluster_show(context: Context, output: Output, name: str) -> None:
    """Show a cluster with the addresses of its nodes."""
    from stackctl.compute import cluster

    output.show(cluster.show_cluster(context, name))


@command("cluster-scale")
@changes
@destroys
@lists(LIST)
@click.argument("name", type=words.CLUSTER)
@click.option("--count", type=int, required=True, help="Number of compute nodes it should have.")
def cluster_scale(context: Context, output: Output, name: str, count: int) -> None:
    """Give a cluster more compute nodes, or fewer: the newest leave first."""
    from stackctl.compute import cluster

    leaving = cluster.show_cluster(context, name).nodes[count:]
    if leaving:
        confirm(f"Delete {', '.join(node.name for node in leaving)} and all data on their disks?")
    done = cluster.scale_cluster(context, name, count)
    output.list(done.value)
    finish(context, done)


@command("cluster-delete")
@changes
@destroys
@click.argument("name", type=words.CLUSTER)
def cluster_delete(context: Context, name: str) -> None:
    """Delete a cluster: its servers with their disks, and the network made for it."""
    from stackctl.compute import cluster

    confirm(f"Delete cluster {name} with all data on the disks of its servers?")
    finish(context, cluster.delete_cluster(context, name))


@command("cluster-hostfile")
@click.argument("name", type=words.CLUSTER)
@click.option(
    "--form",
    type=click.Choice(["mpi", "slurm", "hosts"]),
    default="mpi",
    show_default=True,
    help="For mpirun, for slurm.conf, or for /etc/hosts.",
)
def cluster_hostfile(context: Context, name: str, form: str) -> None:
    """Print the nodes of a cluster for MPI, Slurm or /etc/hosts."""
    from stackctl.compute import cluster

    click.echo(cluster.hostfile(cluster.show_cluster(context, name), form), nl=False)
