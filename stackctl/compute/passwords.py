"""Passwords of guests' users, set by the agent in the guest. None is kept anywhere."""

from __future__ import annotations

import json
import re
import secrets

from stackctl.compute import lifecycle
from stackctl.compute.commanding import note_server
from stackctl.compute.views import server_row
from stackctl.errors import UsageError
from stackctl.identity.context import Context
from stackctl.operation import Done, begin
from stackctl.operation.convergence import acting_session
from stackctl.state import Reader, Row, Writer, write

LIMIT = 255
GENERATED_BYTES = 12
USUAL_USER = "root"
ACTION = "set-password"

_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")


def generate() -> str:
    """A password that nobody guesses: 16 characters."""
    return secrets.token_urlsafe(GENERATED_BYTES)


def set_password(context: Context, word: str, password: str, user: str | None = None) -> Done[str]:
    """Have the agent in a running guest set a user's password; returns the user's name.

    Without a name it is the one that the image calls its admin (os_admin_user), else root.
    ResourceFailed when there is no agent, or it would not. The password goes to the guest's host in
    the channel, and is part of neither the operation nor the diary.
    """
    _check(password, user)
    arguments = {"server": word, "user": user}
    with begin(context, ACTION, f"{ACTION} {word}", arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: str(json.loads(row["result_json"])["user"]))
        operation.phase = "undo (nothing was set)"

        def work(writer: Writer) -> tuple[Row, Row, str]:
            server = server_row(context, writer, word)
            lifecycle.require(server, ACTION)
            host = writer.get("hosts", server["host_id"])
            return server, host, user or _admin_of(writer, server)

        server, host, name = operation.transact(work, lambda found: {"user": found[2]})
        if context.dry_run:
            return operation.finish(name)
        secret = {"server_id": server["id"], "user": name, "password": password}
        try:
            with acting_session(context, host) as session:
                session.act(ACTION, secret)
        except BaseException:
            operation.abandon("no password was set")
            raise
        with write(context.cloud) as writer:
            words = f"the guest's agent set the password of {name}"
            note_server(context, writer, operation.id, ACTION, server, words, host["name"])
        return operation.finish(name)


def _admin_of(reader: Reader, server: Row) -> str:
    """Who the image says is in charge of the guest."""
    image = reader.get("images", server["image_id"]) if server["image_id"] else None
    properties = json.loads(image["properties_json"]) if image else {}
    return str(properties.get("os_admin_user") or USUAL_USER)


def _check(password: str, user: str | None) -> None:
    if not 1 <= len(password) <= LIMIT or not password.isprintable():
        raise UsageError(
            f"A password has between 1 and {LIMIT} characters, and no control characters."
        )
    if user is not None and not _USER.fullmatch(user):
        raise UsageError(f"'{user[:40]}' cannot be the name of a user in a guest.")
