"""Trunks as rows: which ports may be in one, and what a port in one may not be used for.

The refusals are Neutron's, in its words.
"""

from __future__ import annotations

from typing import NoReturn

from stackctl.errors import Conflict, NotFound
from stackctl.state import Reader, Row

SUBPORT_OWNER = "trunk:subport"
"""``device_owner`` of a subport."""

_OF_PARENT = "SELECT * FROM trunks WHERE port_id = ? AND deleted_at IS NULL"
_OF_SUBPORT = """
SELECT trunks.*, segmentation_id FROM trunk_subports
JOIN trunks ON trunks.id = trunk_subports.trunk_id WHERE trunk_subports.port_id = ?
"""


def trunk_of_parent(reader: Reader, port_id: str) -> Row | None:
    """The trunk that a port is the parent of."""
    return reader.one(_OF_PARENT, port_id)


def trunk_of_subport(reader: Reader, port_id: str) -> Row | None:
    """The trunk that a port is a subport of, with the ``segmentation_id`` that it has there."""
    return reader.one(_OF_SUBPORT, port_id)


def subports_of(reader: Reader, trunk_id: str) -> list[Row]:
    """The rows of a trunk's subports by their tags, with the names of their ports."""
    return reader.all(
        "SELECT trunk_subports.*, ports.name, ports.mac, ports.status, ports.network_id"
        " FROM trunk_subports JOIN ports ON ports.id = trunk_subports.port_id"
        " WHERE trunk_id = ? ORDER BY segmentation_id",
        trunk_id,
    )


def networks_of_subports(reader: Reader, port_id: str) -> list[Row]:
    """The networks that come to a host along with a port."""
    return reader.all(
        "SELECT networks.* FROM trunks JOIN trunk_subports ON trunk_subports.trunk_id = trunks.id"
        " JOIN ports ON ports.id = trunk_subports.port_id"
        " JOIN networks ON networks.id = ports.network_id"
        " WHERE trunks.port_id = ? AND trunks.deleted_at IS NULL",
        port_id,
    )


def refuse_subport(reader: Reader, port_id: str) -> None:
    """A subport goes where its trunk's parent goes, and nowhere by itself."""
    trunk = trunk_of_subport(reader, port_id)
    if trunk is not None:
        port = reader.get("ports", port_id)
        raise Conflict(
            f"Port {_label(port)} is currently a subport for trunk {trunk['name']}. It comes with "
            "the trunk's parent port.",
            hint=f"stackctl trunk-subport-delete {trunk['name']} {_label(port)}",
        )


def refuse_in_trunk(reader: Reader, port_id: str) -> None:
    """A port cannot be deleted, or become a router's, while it is in a trunk."""
    refuse_subport(reader, port_id)
    trunk = trunk_of_parent(reader, port_id)
    if trunk is not None:
        port = reader.get("ports", port_id)
        raise Conflict(
            f"Port {_label(port)} is currently a parent port for trunk {trunk['name']}.",
            hint=f"stackctl trunk-delete {trunk['name']}",
        )


def refuse_as_parent(reader: Reader, port: Row) -> None:
    """Which ports cannot become parents: those in a trunk, and those that anything has."""
    _refuse_used(reader, port)
    bound = reader.one("SELECT 1 FROM bindings WHERE port_id = ?", port["id"])
    if bound or port["device_id"] or port["device_owner"]:
        _refuse_parent(port, f": {port['device_owner'] or 'a host'} has it")


def refuse_as_subport(reader: Reader, trunk: Row, port: Row) -> None:
    """Which ports cannot become subports: those in a trunk, those that anything has, and those of
    a network with larger packets than the parent's."""
    if port["id"] == trunk["port_id"]:
        _refuse_parent(port, f": it is the parent of trunk {trunk['name']} itself")
    _refuse_used(reader, port)
    if port["device_id"] or port["device_owner"]:
        raise Conflict(
            f"Unable to complete operation on port {_label(port)} for network "
            f"{port['network_id']}. Port already has an attached device "
            f"{port['device_id'] or port['device_owner']}."
        )
    _refuse_larger(reader, trunk, port)


def _refuse_used(reader: Reader, port: Row) -> None:
    trunk = trunk_of_subport(reader, port["id"])
    if trunk is not None:
        raise Conflict(
            f"Port {_label(port)} is in use by another trunk: it is VLAN "
            f"{trunk['segmentation_id']} of trunk {trunk['name']}.",
            hint=f"stackctl trunk-subport-delete {trunk['name']} {_label(port)}",
        )
    trunk = trunk_of_parent(reader, port["id"])
    if trunk is not None:
        _refuse_parent(port, f": it is the parent of trunk {trunk['name']}")


def _refuse_parent(port: Row, why: str) -> NoReturn:
    raise Conflict(
        f"Port {_label(port)} is currently in use and is not eligible for use as a parent port"
        f"{why}.",
        hint="stackctl port-create NETWORK --name NAME   (a port that nothing has)",
    )


def _refuse_larger(reader: Reader, trunk: Row, port: Row) -> None:
    parent = reader.get("ports", trunk["port_id"])
    mine, most = (reader.get("networks", each["network_id"]) for each in (port, parent))
    if mine["mtu"] > most["mtu"]:
        raise Conflict(
            f"MTU {mine['mtu']} of subport {_label(port)} (network {mine['name']}) cannot be "
            f"greater than MTU {most['mtu']} of trunk {trunk['name']} (network {most['name']}).",
            hint=f"stackctl net-set {mine['name']} --mtu {most['mtu']}",
        )


def refuse_taken_tag(reader: Reader, trunk: Row, segmentation_id: int) -> None:
    """Each tag leads to one port."""
    for row in subports_of(reader, trunk["id"]):
        if row["segmentation_id"] == segmentation_id:
            raise Conflict(
                f"segmentation_type vlan and segmentation_id {segmentation_id} already in use on "
                f"trunk {trunk['name']}: it is port {row['name'] or row['port_id']}."
            )


def subport_in(reader: Reader, trunk: Row, port: Row) -> Row:
    """The row of a port among a trunk's subports; NotFound when it is none."""
    for row in subports_of(reader, trunk["id"]):
        if row["port_id"] == port["id"]:
            return row
    raise NotFound(
        f"SubPort on trunk {trunk['name']} with parent port {trunk['port_id']} could not be found: "
        f"port {_label(port)} is none of its subports.",
        hint=f"stackctl trunk-subport-list {trunk['name']}",
    )


def _label(port: Row) -> str:
    return str(port["name"] or port["id"])
