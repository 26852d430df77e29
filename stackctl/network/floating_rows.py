"""What a floating IP stands for, as rows: tied to a port's address and its router, or to nothing.

Everything here adds what it touches to ``writer.change``.
"""

from __future__ import annotations

from stackctl.state import Row, Writer


def touch_router(writer: Writer, router_id: str) -> None:
    """Note a change of a router: its host hears of it, and what that says of older ones is void."""
    writer.run("UPDATE routers SET version = version + 1 WHERE id = ?", router_id)
    writer.change.routers.add(router_id)


def tie(writer: Writer, floating: Row, port_id: str, fixed_address: str, router_id: str) -> None:
    """Let a floating IP stand for an address of a port, whatever it stood for before."""
    _point(writer, floating, port_id, fixed_address, router_id)


def untie(writer: Writer, floating: Row) -> None:
    """Let a floating IP stand for nothing."""
    _point(writer, floating, None, None, None)


def free_floating_ips(writer: Writer, port_id: str, address: str | None = None) -> None:
    """Untie what stands for a port that goes, or for one address that it loses."""
    for floating in writer.all(
        "SELECT * FROM floating_ips WHERE port_id = ? AND deleted_at IS NULL", port_id
    ):
        if address in (None, floating["fixed_address"]):
            untie(writer, floating)


def _point(
    writer: Writer,
    floating: Row,
    port_id: str | None,
    fixed_address: str | None,
    router_id: str | None,
) -> None:
    writer.update(
        "floating_ips",
        floating["id"],
        port_id=port_id,
        fixed_address=fixed_address,
        router_id=router_id,
        status="DOWN",
        version=floating["version"] + 1,
    )
    for touched in {floating["router_id"], router_id} - {None}:
        touch_router(writer, touched)
