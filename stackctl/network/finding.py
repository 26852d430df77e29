"""Which networks, subnets and ports somebody can see and use, by name, id or start of an id."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stackctl.errors import NotFound
from stackctl.identity.context import Context, find_own
from stackctl.names import some
from stackctl.network.membership import DEFAULT, default_group
from stackctl.state import Reader, Row, Writer, find

VISIBLE_NETWORK = "(project_id = ? OR shared = 1 OR external = 1)"
"""Own networks, and those that others share; takes the project's id."""

_VISIBLE_SUBNET = f"network_id IN (SELECT id FROM networks WHERE {VISIBLE_NETWORK})"


def visible_network(context: Context, reader: Reader, word: str) -> Row:
    """A network that the asker may use: its own, or a shared or external one."""
    return find(
        reader,
        "networks",
        word,
        noun="network",
        where=VISIBLE_NETWORK,
        parameters=(context.project_id,),
    )


def own_network(context: Context, reader: Reader, word: str) -> Row:
    """A network that the asker may change."""
    return find_own(context, reader, "networks", word, noun="network")


def visible_subnet(context: Context, reader: Reader, word: str) -> Row:
    """A subnet of a network that the asker may use."""
    return _find_subnet(reader, word, _VISIBLE_SUBNET, context.project_id)


def own_subnet(context: Context, reader: Reader, word: str) -> Row:
    """A subnet that the asker may change."""
    return _find_subnet(reader, word, "project_id = ?", context.project_id)


def subnet_in(reader: Reader, network: Row, word: str) -> Row:
    """A subnet of this network."""
    return _find_subnet(reader, word, "network_id = ?", network["id"])


def _find_subnet(reader: Reader, word: str, where: str, parameter: str) -> Row:
    """A subnet by name or id; by its range, or by its network's name where either says which.

    Subnets made with their networks have no name of their own.
    """
    try:
        return find(reader, "subnets", word, noun="subnet", where=where, parameters=(parameter,))
    except NotFound as error:
        rows = reader.all(
            f"SELECT * FROM subnets WHERE deleted_at IS NULL AND {where} AND (cidr = ? OR"
            " network_id IN (SELECT id FROM networks WHERE name = ? AND deleted_at IS NULL))",
            parameter,
            word,
            word,
        )
        if not rows:
            raise
        if len(rows) > 1:
            named = some([f"{row['cidr']} ({row['id'][:8]})" for row in rows])
            raise NotFound(f"'{word}' may mean any of these subnets: {named}.") from error
        return rows[0]


def own_port(context: Context, reader: Reader, word: str) -> Row:
    """A port of the asker's project."""
    return find_own(context, reader, "ports", word, noun="port")


def own_router(context: Context, reader: Reader, word: str) -> Row:
    """A router of the asker's project."""
    return find_own(context, reader, "routers", word, noun="router")


def own_floating_ip(context: Context, reader: Reader, word: str) -> Row:
    """A floating IP of the asker's project, by its address or id."""
    named = "(SELECT *, address AS name FROM floating_ips)"
    return find_own(context, reader, named, word, noun="floating IP")


def own_server(context: Context, reader: Reader, word: str) -> Row:
    """A server of the asker's project, for what concerns its ports."""
    return find_own(context, reader, "servers", word, noun="server")


def visible_subnets(context: Context, reader: Reader) -> list[Row]:
    """Every subnet of the networks that the asker may use, oldest first."""
    return reader.all(
        f"SELECT * FROM subnets WHERE deleted_at IS NULL AND {_VISIBLE_SUBNET} ORDER BY rowid",
        context.project_id,
    )


def own_group(context: Context, reader: Reader, word: str) -> Row:
    """A security group of the asker's project; ``default`` is made when a writer asks first."""
    if word == DEFAULT and isinstance(reader, Writer):
        default_group(reader, context.project_id)
    return find_own(context, reader, "security_groups", word, noun="security group")


def own_groups(context: Context, reader: Reader, words: Iterable[str]) -> list[str]:
    """The ids of several groups, each once, in the order given."""
    return list(dict.fromkeys(own_group(context, reader, word)["id"] for word in words))


def own_rule(context: Context, reader: Reader, word: str) -> Row:
    """A rule of the asker's project by its id, or the unique beginning of it."""
    rows = []
    if re.fullmatch(r"[0-9a-f][0-9a-f-]{3,35}", word):
        rows = reader.all(
            "SELECT * FROM security_group_rules"
            " WHERE deleted_at IS NULL AND project_id = ? AND id >= ? AND id < ?",
            context.project_id,
            word,
            word + "g",
        )
    if not rows:
        raise NotFound(
            f"There is no security group rule '{word}'.", hint="stackctl security-group-rule-list"
        )
    if len(rows) > 1:
        ids = some([row["id"] for row in rows])
        raise NotFound(f"More than one security group rule begins with '{word}': {ids}.")
    return rows[0]
