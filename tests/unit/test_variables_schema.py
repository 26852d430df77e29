"""Clouds that were made before UEFI variables were a disk."""

import dataclasses
import json
import sqlite3
from contextlib import closing

from stackctl.compute.hardware import has_nvram
from stackctl.hostspec.build import build_spec
from stackctl.hostspec.snapshot import load_snapshot
from stackctl.state import Cloud, read
from stackctl.state.db import split_statements
from stackctl.state.schema import APPLICATION_ID, MIGRATIONS
from stackctl.state.schema_variables import VARIABLES

BEFORE = MIGRATIONS[: MIGRATIONS.index(VARIABLES)]
NVRAM = "5b0f7b2e-0000-4000-8000-000000000001"


def test_variables_from_before_are_a_disk_of_their_id(pair):
    pair.booted("plain", host="h1")
    pair.booted("efi", host="h1")
    cloud = Cloud("test", pair.cloud.folder.parent / "old")
    cloud.folder.mkdir()
    with closing(sqlite3.connect(cloud.database, isolation_level=None)) as old:
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for statement in (each for script in BEFORE for each in split_statements(script)):
            old.execute(statement)
        old.execute("ATTACH ? AS new", (str(pair.cloud.database),))
        for (table,) in old.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'"):
            names = ", ".join(row[1] for row in old.execute(f"PRAGMA main.table_info({table})"))
            old.execute(
                f"INSERT OR REPLACE INTO main.{table} ({names}) SELECT {names} FROM new.{table}"
            )
        hardware = json.dumps({"nvram": NVRAM, "video": "vga"})
        old.execute("UPDATE main.servers SET hardware_json = ? WHERE name = 'efi'", (hardware,))
        old.execute(f"PRAGMA user_version = {len(BEFORE)}")
    context = dataclasses.replace(pair.context, cloud=cloud)
    with read(context.cloud) as reader:
        rows = reader.all("SELECT * FROM disks WHERE kind = 'nvram'")
        assert [(row["id"], row["state"], row["format"]) for row in rows] == [
            (NVRAM, "built", "raw")
        ]
        assert reader.value("SELECT count(*) FROM disks WHERE kind = 'root'") == 2
        servers = {row["name"]: row for row in reader.all("SELECT * FROM servers")}
        assert [name for name, row in servers.items() if has_nvram(row)] == ["efi"]
        spec = build_spec(load_snapshot(reader, servers["efi"]["host_id"]), 1, "n")
    (efi,) = (each for each in spec.servers if each.id == servers["efi"]["id"])
    assert efi.hardware.nvram == NVRAM
    assert NVRAM not in efi.disks
