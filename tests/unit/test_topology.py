"""The graph of a project, and what its pictures show of it."""

import json
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from stackctl.cli import main
from stackctl.cli.drawing.dot import dot
from stackctl.cli.drawing.layout import lay_out
from stackctl.cli.drawing.svg import svg
from stackctl.cli.drawing.text import text
from stackctl.compute.seeing.topology import (
    Device,
    Link,
    NetworkNode,
    SubnetNode,
    Topology,
    topology,
)
from stackctl.identity.bootstrap import create_cloud
from stackctl.state import find_cloud, new_id, now, write


def network(number, name, *cidrs, **more):
    values = {"type": "vxlan", "physical_network": None, "segmentation_id": number, "mtu": 1450}
    values |= {"external": False, "shared": False, "up": True, **more}
    subnets = tuple(SubnetNode(f"s-{cidr}", "", cidr, None, True) for cidr in cidrs)
    return NetworkNode(id=f"net-{number}", name=name, subnets=subnets, **values)


def link(number, *addresses, floating=(), gateway=False):
    port = f"port-{number}-{addresses}"
    return Link(port, f"net-{number}", "fa:16:3e:0:0:1", addresses, floating, gateway, True)


def device(kind, name, *links, status="ACTIVE", host="host1"):
    return Device(f"{kind}-{name}", kind, name, status, host, links)


ROUTED = Topology(
    networks=(
        network(2, "web", "192.168.1.0/24"),
        network(3, "db", "10.0.0.0/24"),
        network(1, "internet", "203.0.113.0/24", external=True),
    ),
    devices=(
        device(
            "router",
            "edge",
            link(1, "203.0.113.2", gateway=True),
            link(2, "192.168.1.1"),
            link(3, "10.0.0.1"),
        ),
        device("server", "web-1", link(2, "192.168.1.4", floating=("203.0.113.9",))),
        device("server", "both", link(3, "10.0.0.5"), link(2, "192.168.1.5"), status="SHUTOFF"),
        device("server", "bare", host=""),
    ),
)

TREE = """\
net internet  vxlan 1  203.0.113.0/24  external
└── router edge  203.0.113.2  ACTIVE  host1
    ├── net web  vxlan 2  192.168.1.0/24  via 192.168.1.1
    │   ├── web-1  192.168.1.4 = 203.0.113.9  ACTIVE  host1
    │   └── both  192.168.1.5  SHUTOFF  host1
    └── net db  vxlan 3  10.0.0.0/24  via 10.0.0.1
        └── both  10.0.0.5  SHUTOFF  host1
on no network
└── bare  ACTIVE
"""


def test_a_tree_of_lines():
    assert text(ROUTED) == TREE
    narrow = text(ROUTED, 40).splitlines()
    assert max(map(len, narrow)) == 40
    assert len(narrow) == len(TREE.splitlines())


def test_nothing_is_drawn_as_nothing():
    empty = Topology((), ())
    assert text(empty) == ""
    ElementTree.fromstring(svg(empty, "empty"))
    assert "--" not in dot(empty)


def test_bars_boxes_and_wires():
    layout = lay_out(ROUTED)
    assert [bar.network.name for bar in layout.bars] == ["internet", "web", "db"]
    boxes = {box.device.name: box for box in layout.boxes}
    bars = {bar.network.id: bar for bar in layout.bars}
    for box in boxes.values():
        assert 0 < box.x < layout.width and box.y + box.height < layout.bottom
        assert len(box.wires) == len(box.device.links)
        for wire in box.wires:
            assert box.y < wire.y < box.y + box.height
            assert abs(wire.x_bar - bars[wire.link.network_id].x) <= 18
    # The router's line to db passes the column of web's servers: they stand below it.
    assert boxes["web-1"].y > max(wire.y for wire in boxes["edge"].wires)


def test_no_box_stands_in_the_way_of_a_wire():
    many = [device("server", f"s{n}", link(1 + n % 3), link(1 + n % 2)) for n in range(12)]
    layout = lay_out(Topology(ROUTED.networks, (*ROUTED.devices, *many)))
    for box in layout.boxes:
        for other in layout.boxes:
            for wire in other.wires if other is not box else ():
                left, right = sorted((wire.x_bar, wire.x_box))
                beside = right <= box.x or left >= box.x + 168
                assert beside or not box.y <= wire.y <= box.y + box.height


def test_the_picture_says_it_all():
    drawn = svg(ROUTED, "lab: admin")
    said = [each.text for each in ElementTree.fromstring(drawn).iter() if each.text]
    for word in ("web", "db", "internet", "edge", "web-1", "192.168.1.4", "= 203.0.113.9"):
        assert word in said, word
    assert svg(ROUTED, "lab: admin") == drawn


def test_dot_has_a_node_each_and_an_edge_each():
    drawn = dot(ROUTED)
    assert drawn.count(" -- ") == 6
    assert drawn.count("label=") == 7 + 6


@pytest.fixture
def cloud(clouds):
    made = find_cloud("default")
    create_cloud(made)
    return made


def invoke(*words):
    result = CliRunner().invoke(main.cli, ["topology", *words])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_the_graph_of_a_cloud(pair):
    pair.add_network("outside", "203.0.113.0/24", external=True)
    pair.booted("web", net=["net"])
    router = _router(pair, "edge", "outside", "net")
    server = pair.rows("SELECT * FROM ports WHERE device_owner LIKE 'compute:%'")[0]
    _floating(pair, server["id"], router, "203.0.113.77")
    graph = topology(pair.context)
    assert {each.name: each.external for each in graph.networks} == {"net": False, "outside": True}
    edge, web = graph.devices
    assert (edge.kind, edge.name, [each.gateway for each in edge.links]) == (
        "router",
        "edge",
        [True, False],
    )
    assert web.host in ("h1", "h2") and web.status == "ACTIVE"
    assert web.links[0].floating == ("203.0.113.77",)
    assert len(web.links[0].addresses) == 1


def _router(world, name, outside, inside):
    router = {"id": new_id(), "project_id": world.context.project_id, "name": name}
    with write(world.cloud) as writer:
        writer.insert("routers", {**router, "created_at": now()})
        for word, owner in ((outside, "router_gateway"), (inside, "router_interface")):
            net = writer.one("SELECT * FROM networks WHERE name = ?", word)
            writer.insert(
                "ports",
                {
                    "id": new_id(),
                    "project_id": world.context.project_id,
                    "network_id": net["id"],
                    "mac": f"fa:16:3e:00:00:{len(owner):02x}",
                    "device_owner": f"network:{owner}",
                    "device_id": router["id"],
                    "created_at": now(),
                },
            )
    return router["id"]


def _floating(world, port_id, router_id, address):
    with write(world.cloud) as writer:
        subnet = writer.one("SELECT * FROM subnets WHERE cidr = '203.0.113.0/24'")
        writer.insert(
            "floating_ips",
            {
                "id": new_id(),
                "project_id": world.context.project_id,
                "network_id": subnet["network_id"],
                "subnet_id": subnet["id"],
                "address": address,
                "port_id": port_id,
                "router_id": router_id,
                "created_at": now(),
            },
        )


def test_typed(cloud, tmp_path):
    made = CliRunner().invoke(main.cli, ["net-create", "local", "--subnet", "192.168.1.0/24"])
    assert made.exit_code == 0
    assert invoke() == "net local  vxlan 1  192.168.1.0/24\n"
    assert json.loads(invoke("-f", "json"))["networks"][0]["name"] == "local"
    assert invoke("-f", "dot").startswith("graph topology {")
    file = tmp_path / "cloud.svg"
    assert invoke("--output", str(file)) == ""
    assert ElementTree.parse(file).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert invoke("-f", "svg", "-o", "-") == file.read_text()


def test_a_picture_that_cannot_be_written_is_said(cloud, tmp_path):
    result = CliRunner().invoke(main.cli, ["topology", "-o", str(tmp_path / "no" / "cloud.svg")])
    assert result.exit_code == 2
    assert "No such file or directory" in result.stderr
