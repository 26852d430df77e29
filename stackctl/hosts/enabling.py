"""A host that has become able to carry servers."""

from __future__ import annotations

import json

from stackctl.fleet import Hello
from stackctl.hosts.facts import NOT_PREPARED, capacity
from stackctl.hosts.types import Declared
from stackctl.identity.context import Context
from stackctl.operation import run
from stackctl.operation.events import note
from stackctl.state import Row, Writer, now


def welcome(context: Context, row: Row, hello: Hello) -> None:
    """Write down what a prepared host has; enable it if only that was missing, and converge it."""

    def work(writer: Writer) -> None:
        current = writer.get("hosts", row["id"])
        declared = Declared(**json.loads(current["declared_json"]))
        values = {
            **capacity(hello.facts, declared),
            "facts_json": json.dumps(hello.facts),
            "seen_at": now(),
        }
        if current["disabled_reason"].startswith(NOT_PREPARED):
            values |= {"enabled": 1, "disabled_reason": ""}
        writer.update("hosts", row["id"], **values)
        if current["applied_serial"] == 0:
            writer.change.hosts.add(row["id"])
        note(
            writer,
            "host-prepare",
            "host",
            row,
            "prepared",
            host=row["name"],
            user_name=context.operator,
        )

    arguments = {"host": row["id"]}
    run(context, "host-prepare", f"prepare host {row['name']}", arguments, work).check()
