import csv
import io
import json
from dataclasses import dataclass, field

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth

from stackctl.cli import render
from stackctl.cli.render import Column
from stackctl.errors import UsageError


@dataclass
class Net:
    id: str
    name: str
    mtu: int | None
    subnets: list[str] = field(default_factory=list)


COLUMNS = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("MTU", "mtu"),
    Column("Subnets", "subnets"),
    Column("Length", lambda net: len(net.name), extra=True),
)
SHOWN = render.choose(COLUMNS, ())
NETS = [Net("1", "Enterprise", 1500, ["10.1.0.0/24"]), Net("2", "worf_local", None)]


def test_table():
    assert render.rows("table", SHOWN, NETS) == (
        "+----+------------+------+-------------+\n"
        "| ID | Name       |  MTU | Subnets     |\n"
        "+----+------------+------+-------------+\n"
        "| 1  | Enterprise | 1500 | 10.1.0.0/24 |\n"
        "| 2  | worf_local |      |             |\n"
        "+----+------------+------+-------------+\n"
    )


def test_table_without_rows_still_has_its_head():
    assert render.rows("table", SHOWN[:2], []) == (
        "+----+------+\n| ID | Name |\n+----+------+\n+----+------+\n"
    )


def test_show_is_a_table_of_fields():
    assert render.one("table", SHOWN, NETS[0]) == (
        "+---------+-------------+\n"
        "| Field   | Value       |\n"
        "+---------+-------------+\n"
        "| ID      | 1           |\n"
        "| Name    | Enterprise  |\n"
        "| MTU     | 1500        |\n"
        "| Subnets | 10.1.0.0/24 |\n"
        "+---------+-------------+\n"
    )


def test_json_keeps_types():
    assert json.loads(render.rows("json", SHOWN, NETS)) == [
        {"ID": "1", "Name": "Enterprise", "MTU": 1500, "Subnets": ["10.1.0.0/24"]},
        {"ID": "2", "Name": "worf_local", "MTU": None, "Subnets": []},
    ]
    assert json.loads(render.rows("json", SHOWN, [])) == []
    assert json.loads(render.one("json", SHOWN, NETS[1]))["MTU"] is None


def test_yaml_says_the_same_as_json():
    for draw, item in ((render.rows, NETS), (render.one, NETS[0])):
        assert yaml.safe_load(draw("yaml", SHOWN, item)) == json.loads(draw("json", SHOWN, item))


def test_csv_can_be_read_back():
    net = Net("1", 'a "b", c\nd', 7, ["x", "y"])
    lines = list(csv.reader(io.StringIO(render.rows("csv", SHOWN, [net]))))
    assert lines == [["ID", "Name", "MTU", "Subnets"], ["1", 'a "b", c\nd', "7", "x, y"]]


def test_values_alone():
    assert render.rows("value", render.choose(COLUMNS, ["Name", "MTU"]), NETS) == (
        "Enterprise 1500\nworf_local \n"
    )
    assert render.one("value", render.choose(COLUMNS, ["id"]), NETS[0]) == "1\n"


def test_columns_are_chosen_by_title_in_any_case_and_in_the_order_given():
    assert [column.title for column in render.choose(COLUMNS, ["length", "ID"])] == ["Length", "ID"]
    with pytest.raises(UsageError, match=r"no column 'MUT'.*ID, Name, MTU, Subnets, Length"):
        render.choose(COLUMNS, ["MUT"])


def test_rows_may_be_dicts_and_columns_may_have_a_readable_form():
    columns = (Column("Size", "bytes", text=render.size),)
    assert render.rows("value", columns, [{"bytes": 3 << 29}]) == "1.5 GiB\n"
    assert json.loads(render.rows("json", columns, [{"bytes": 1024}])) == [{"Size": 1024}]
    assert render.rows("value", columns, [{"bytes": None}]) == "\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "True"),
        (0, "0"),
        (["a", 1], "a, 1"),
        ({"net": ["10.0.0.2", "10.0.0.3"]}, "net='10.0.0.2, 10.0.0.3'"),
        ("bad\x1b[31mred\x1b[0m\x07\x1b]0;title\x07", "badred"),
        ("right\u202eto left", "rightto left"),
    ],
)
def test_values_as_people_read_them(value, text):
    assert render.human(value) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1.0 MiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes(count, text):
    assert render.size(count) == text


@pytest.mark.parametrize("name", ["เครื่องแม่ข่าย", "服务器", "naïve", "x" * 60])
def test_wide_names_stay_in_their_cells(name):
    lines = render.rows("table", SHOWN, [*NETS, Net("3", name, 9000)]).splitlines()
    assert len({wcswidth(line) for line in lines}) == 1


@given(st.text())
def test_no_text_reaches_the_terminal_as_a_command(text):
    assert not set(render.printable(text)) & (
        {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}
    )


def test_a_table_is_folded_to_the_terminal():
    columns = (render.Column("Name", "name"), render.Column("IP Address", "address"))
    items = [{"name": "worf_head_node", "address": "Enterprise 10.1.0.2; worf_local 192.168.1.2"}]
    assert render.rows("table", columns, items, 45) == (
        "+----------------+------------------------+\n"
        "| Name           | IP Address             |\n"
        "+----------------+------------------------+\n"
        "| worf_head_node | Enterprise 10.1.0.2;   |\n"
        "|                | worf_local 192.168.1.2 |\n"
        "+----------------+------------------------+\n"
    )
    for width in range(24, 80):
        drawn = render.rows("table", columns, items, width)
        assert max(map(len, drawn.splitlines())) <= max(width, 23)
    assert render.rows("table", columns, [], 20).count("\n") == 5
    assert render.rows("json", columns, items, 20) == render.rows("json", columns, items)


def test_words_are_broken_only_when_nothing_else_gives_way():
    columns = (render.Column("A", "a"), render.Column("B", "b"))
    items = [{"a": "one two three four", "b": "unbreakable-name"}]
    assert "unbreakable-name" in render.rows("table", columns, items, 30)
    assert "unbreakable-name" not in render.rows("table", columns, items, 22)


def test_tables_leave_out_what_nobody_reads_of_a_time():
    column = render.Column("Seen", "at")
    item = {"at": "2026-11-22T13:44:42.123Z"}
    assert "| 2026-11-22 13:44:42Z |" in render.rows("table", [column], [item])
    assert render.rows("value", [column], [item]) == "2026-11-22T13:44:42.123Z\n"
