"""Clouds that were made before images had a whole life."""

import sqlite3
from contextlib import closing

import pytest

from stackctl.identity.bootstrap import create_cloud
from stackctl.identity.context import admin_context
from stackctl.image import service
from stackctl.state import Cloud, db, read
from stackctl.state.schema import MIGRATIONS
from stackctl.state.schema_images import IMAGES
from tests.builders import new_cloud

BEFORE = MIGRATIONS.index(IMAGES)


@pytest.fixture
def older(fast_path, monkeypatch):
    """A cloud of the schema before, with an image in each of its states."""
    with monkeypatch.context() as patch:
        patch.setattr(db, "MIGRATIONS", MIGRATIONS[:BEFORE])
        patch.setattr(db, "SCHEMA_VERSION", BEFORE)
        cloud = Cloud("test", fast_path / "cloud")
        create_cloud(cloud)
    with closing(sqlite3.connect(cloud.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        project = connection.execute("SELECT id FROM projects").fetchone()[0]
        for number, status in enumerate(("active", "queued", "saving", "error", "deleted")):
            connection.execute(
                "INSERT INTO images (id, project_id, name, status, disk_format, sha256, "
                "properties_json, created_at, deleted_at, kernel_id) "
                "VALUES (?, ?, ?, ?, 'raw', ?, ?, 'x', ?, ?)",
                (
                    f"i{number}",
                    project,
                    status,
                    status,
                    "a" * 64 if status == "active" else "",
                    '{"protected": "True", "os_distro": "debian"}',
                    "y" if status == "deleted" else None,
                    "i0" if number else None,
                ),
            )
    return cloud


def test_images_keep_what_they_were(older):
    context = admin_context(older)
    images = {image.name: image for image in service.list_images(context)}
    assert {name: image.status for name, image in images.items()} == {
        "active": "active",
        "queued": "queued",
        "saving": "queued",
        "error": "queued",
    }
    assert images["active"].stores == ("local",)
    assert images["active"].protected
    assert images["active"].properties == {"os_distro": "debian"}
    assert images["queued"].stores == ()
    assert images["queued"].kernel_id == "i0"
    with read(older) as reader:
        assert reader.get("images", "i4")["status"] == "deleted"
        assert reader.all("PRAGMA foreign_key_check") == []


def test_an_unknown_status_is_refused(fast_path):
    cloud = new_cloud(fast_path)
    with closing(sqlite3.connect(cloud.database, isolation_level=None)) as connection:
        project = connection.execute("SELECT id FROM projects").fetchone()[0]
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            connection.execute(
                "INSERT INTO images (id, project_id, name, status, disk_format, created_at) "
                "VALUES ('i', ?, 'n', 'killed', 'raw', 'x')",
                (project,),
            )
