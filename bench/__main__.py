"""Measure the design's budgets on this machine and print each beside what was measured."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from tabulate import tabulate

from bench import lab_rows, local_rows
from bench.lab_rows import Labs
from bench.measuring import CommandFailed, Row, say
from bench.place import Place, opened

LOCAL: dict[str, Callable[[Place, int], list[Row]]] = {
    "help": local_rows.help_,
    "list": local_rows.list_,
    "net-create": local_rows.net_create,
    "planning": local_rows.planning,
    "host-spec": local_rows.host_spec,
}
ON_LABS: dict[str, Callable[[Labs, int], list[Row]]] = {
    "lab-up": lab_rows.lab_up,
    "boot": lab_rows.boots,
    "connections": lab_rows.connections,
    "idle": lab_rows.idle,
    "converge-100": lab_rows.crowded,
    "converge-20": lab_rows.fleet,
    "ports": lab_rows.ports,
}


def main() -> int:
    """Measure what was asked for; the exit status is 1 when a budget is missed."""
    asked = _arguments()
    names = asked.only or [*LOCAL, *ON_LABS]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    before, rows = local_rows.load(), []
    try:
        with opened() as place:
            labs = Labs(place)
            for name in names:
                rows += _measure(name, place, labs, asked.runs)
    except KeyboardInterrupt:
        say("Interrupted: the labs are removed.")
        return 130
    print(_report(rows, asked.format, [before, local_rows.load()]), end="")
    return int(any(row.verdict == "over" for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    known = [*LOCAL, *ON_LABS]
    parser.add_argument(
        "--only", action="append", choices=known, metavar="NAME", help=f"Of: {', '.join(known)}."
    )
    parser.add_argument("--runs", type=int, default=5, help="How often (default: 5).")
    parser.add_argument("-f", "--format", choices=["table", "json"], default="table")
    asked = parser.parse_args()
    if asked.runs < 1:
        parser.error("--runs: at least 1")
    if os.geteuid() != 0 and (not asked.only or set(asked.only) & set(ON_LABS)):
        parser.error("a lab needs root")
    return asked


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _measure(name: str, place: Place, labs: Labs, runs: int) -> list[Row]:
    say(f"{name}:")
    try:
        found = LOCAL[name](place, runs) if name in LOCAL else ON_LABS[name](labs, runs)
    except CommandFailed as error:
        say(f"  {error}")
        nothing = (float("nan"),)
        return [Row(name, f"{name}: could not be measured", 0.0, "", nothing, note=str(error)[:80])]
    for row in found:
        say(f"  {row.what}: {row.median:.3f} {row.unit}")
    return found


def _report(rows: list[Row], form: str, load: list[str]) -> str:
    if form == "json":
        told = {"machine": {"before": load[0], "after": load[1]}}
        return json.dumps({**told, "rows": [row.plain() for row in rows]}, indent=2) + "\n"
    titles = ["What", "Budget", "Median", "Min-max", "CPU", "On hosts", "Runs", "Verdict", "Note"]
    sides = ["left", *["right"] * 6, "left", "left"]
    lines = [_line(row) for row in rows]
    drawn = tabulate(lines, titles, tablefmt="pretty", colalign=sides)
    legend = (
        "CPU: seconds that the command itself used; on hosts: what all of its lab's hosts used."
    )
    return f"{drawn}\n{legend}\nBefore: {load[0]}.\nAfter: {load[1]}.\n"


def _line(row: Row) -> list[str]:
    told = row.plain()
    spread = f"{_figure(row.unit, told['min'])}-{_figure(row.unit, told['max'])}"
    budget = "" if row.budget is None else f"{row.budget:g} {row.unit}".strip()
    cpu, on_hosts = ("" if c is None else f"{c:.3f}" for c in (told["cpu"], told["hosts_cpu"]))
    median = f"{_figure(row.unit, told['median'])} {row.unit}".strip()
    return [
        row.what,
        budget,
        median,
        spread,
        cpu,
        on_hosts,
        str(told["runs"]),
        row.verdict,
        row.note,
    ]


def _figure(unit: str, value: float) -> str:
    return f"{value:.3f}" if unit == "s" else f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
