"""The one file of a cloud: who may open it, what a transaction leaves, what is refused."""

import json
import multiprocessing
import sqlite3
import stat
from contextlib import closing

import pytest

from stackctl.errors import Bug, Conflict, NotFound, StateCorrupt, StateLocked
from stackctl.identity.bootstrap import create_cloud
from stackctl.state import Cloud, db, existing_cloud, find_cloud, new_id, now, read, write
from stackctl.state.schema import APPLICATION_ID, SCHEMA_VERSION
from tests.builders import new_cloud


@pytest.fixture
def cloud(fast_path):
    return new_cloud(fast_path)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def raw(cloud):
    return closing(sqlite3.connect(cloud.database, isolation_level=None))


def pragma(cloud, name):
    with raw(cloud) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def event(writer, message="x"):
    row = {"at": now(), "level": "info", "user_name": "u", "action": "a", "kind": "k"}
    writer.insert("events", {**row, "resource_id": "", "name": "", "host": "", "message": message})


def events(cloud):
    with read(cloud) as reader:
        return reader.column("SELECT message FROM events ORDER BY id")


def serial(cloud):
    with read(cloud) as reader:
        return reader.value("SELECT serial FROM cloud")


class TestCreation:
    def test_modes_and_marks(self, cloud):
        assert mode(cloud.folder) == 0o700
        assert mode(cloud.database) == 0o600
        assert mode(cloud.key_file) == 0o600
        assert mode(cloud.locks) == 0o700
        assert pragma(cloud, "application_id") == APPLICATION_ID
        assert pragma(cloud, "user_version") == SCHEMA_VERSION
        assert pragma(cloud, "journal_mode") == "wal"

    def test_files_beside_the_database_are_as_private(self, cloud):
        with write(cloud) as writer:
            event(writer)
            beside = list(cloud.folder.glob("state.db-*"))
            assert {mode(path) for path in beside} == {0o600}

    def test_twice_is_refused_and_changes_nothing(self, cloud):
        cloud.folder.chmod(0o2770)
        key = cloud.key_file.read_bytes()
        with pytest.raises(Conflict, match="exists already"):
            create_cloud(cloud)
        assert mode(cloud.folder) == 0o2770
        assert cloud.key_file.read_bytes() == key

    def test_a_failure_leaves_no_database(self, tmp_path):
        cloud = Cloud("test", tmp_path / "cloud")

        def fail(_):
            raise Bug("no")

        with pytest.raises(Bug):
            db.create(cloud, fail, lambda: None)
        assert list(cloud.folder.iterdir()) == []

    def test_an_interrupted_creation_can_be_repeated(self, tmp_path):
        cloud = Cloud("test", tmp_path / "cloud")
        cloud.folder.mkdir()
        cloud.key_file.write_text("half a key")
        create_cloud(cloud)
        assert "OPENSSH PRIVATE KEY" in cloud.key_file.read_text()
        assert cloud.key_file.with_suffix(".pub").read_text().startswith("ssh-ed25519 ")

    def test_every_connection_keeps_promises(self, cloud):
        with write(cloud) as writer:
            assert writer.value("PRAGMA foreign_keys") == 1
            assert writer.value("PRAGMA synchronous") == 2

    def test_network_file_systems_are_refused(self, tmp_path, monkeypatch):
        mounts = tmp_path / "mounts"
        mounts.write_text(f"server:/x {tmp_path} nfs4 rw 0 0\n/dev/sda / ext4 rw 0 0\n")
        monkeypatch.setattr(db, "_MOUNTS", mounts)
        with pytest.raises(StateCorrupt, match="network file system"):
            create_cloud(Cloud("test", tmp_path / "cloud"))
        mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path}/other nfs4 rw 0 0\n")
        create_cloud(Cloud("test", tmp_path / "cloud"))


class TestWhoMayOpen:
    def test_a_cloud_nobody_made(self, clouds):
        with pytest.raises(NotFound, match="There is no cloud 'x'"):
            existing_cloud("x")

    def test_a_folder_open_to_everybody(self, clouds):
        create_cloud(find_cloud("x"))
        existing_cloud("x").folder.chmod(0o755)
        with pytest.raises(StateCorrupt, match="open to every user"):
            existing_cloud("x")

    @pytest.mark.parametrize("name", ["", "../x", "A", "-x", "x" * 33, "a b"])
    def test_names_that_are_none(self, clouds, name):
        with pytest.raises(Exception, match="cannot name a cloud"):
            find_cloud(name)


class TestRefusals:
    def refused(self, cloud, words):
        before = cloud.database.read_bytes()
        for opened in (read, write):
            with pytest.raises(StateCorrupt, match=words) as caught, opened(cloud):
                pass
            assert caught.value.exit_status == 11
        assert cloud.database.read_bytes() == before

    def test_a_newer_schema(self, cloud):
        with raw(cloud) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.refused(cloud, "newer stackctl")

    def test_a_foreign_database(self, cloud):
        cloud.database.unlink()
        with raw(cloud) as connection:
            connection.execute("CREATE TABLE x (y)")
        self.refused(cloud, "not the database of a cloud")

    def test_a_file_that_is_no_database(self, cloud):
        cloud.database.write_bytes(b"this is not a database" * 300)
        self.refused(cloud, "cannot be used")

    def test_an_empty_file(self, cloud):
        cloud.database.write_bytes(b"")
        self.refused(cloud, "not the database of a cloud")

    def test_a_damaged_page(self, cloud):
        with raw(cloud) as connection:
            page = connection.execute(
                "SELECT rootpage FROM sqlite_master WHERE name = 'projects'"
            ).fetchone()[0]
            size = connection.execute("PRAGMA page_size").fetchone()[0]
        with cloud.database.open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
        with pytest.raises(StateCorrupt, match="malformed"), read(cloud) as reader:
            reader.all("SELECT * FROM projects")

    def test_a_path_with_signs_of_a_uri(self, tmp_path):
        cloud = new_cloud(tmp_path)
        strange = tmp_path / "a?mode=ro#%41"
        cloud.folder.rename(strange)
        assert events(Cloud("test", strange)) == []

    def test_a_wrong_statement_is_no_damage(self, cloud):
        with pytest.raises(sqlite3.OperationalError), read(cloud) as reader:
            reader.all("SELECT nonsense")


class TestWriting:
    def test_each_transaction_has_a_serial_and_nonce_of_its_own(self, cloud):
        with write(cloud) as one:
            pass
        with write(cloud) as two:
            pass
        assert two.serial == one.serial + 1 == serial(cloud)
        assert one.nonce != two.nonce

    @pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), Conflict("no")])
    def test_an_exception_undoes_everything(self, cloud, error):
        before = serial(cloud)
        with pytest.raises(type(error)), write(cloud) as writer:
            event(writer)
            raise error
        assert (events(cloud), serial(cloud)) == ([], before)

    def test_a_rehearsal_leaves_no_trace(self, cloud):
        before = serial(cloud)
        with write(cloud, dry_run=True) as writer:
            event(writer)
            assert writer.value("SELECT count(*) FROM events") == 1
        assert (events(cloud), serial(cloud)) == ([], before)

    def test_a_full_disk_is_said_and_nothing_is_half_made(self, cloud):
        with (
            pytest.raises(StateCorrupt, match="No space left") as caught,
            write(cloud) as writer,
        ):
            event(writer, "first")
            pages = writer.value("PRAGMA page_count")
            writer.all(f"PRAGMA max_page_count = {pages}")
            for _ in range(100):
                event(writer, "x" * 4000)
        assert "df -h" in caught.value.hint
        assert events(cloud) == []
        with write(cloud) as writer:
            event(writer, "again")
        assert events(cloud) == ["again"]

    def test_a_reader_sees_one_moment(self, cloud):
        with read(cloud) as reader:
            before = reader.value("SELECT serial FROM cloud")
            with write(cloud) as writer:
                event(writer)
            assert reader.value("SELECT serial FROM cloud") == before
            assert reader.column("SELECT message FROM events") == []

    def test_reading_while_somebody_writes_does_not_wait(self, cloud, monkeypatch):
        monkeypatch.setattr(db, "LOCK_TIMEOUT_S", 0.0)
        with write(cloud) as writer:
            event(writer)
            assert events(cloud) == []


class TestTwoWriters:
    def test_whoever_waits_too_long_is_told_who_holds_it(self, cloud, monkeypatch):
        monkeypatch.setattr(db, "LOCK_TIMEOUT_S", 0.01)
        monkeypatch.setattr("sys.argv", ["stackctl", "boot", "vm"])
        words = pytest.raises(StateLocked, match=r"pid \d+.*stackctl boot")
        with write(cloud), words as caught, write(cloud):
            pass
        assert caught.value.exit_status == 10

    def test_a_note_that_cannot_be_read_is_left_out(self, cloud, monkeypatch):
        monkeypatch.setattr(db, "LOCK_TIMEOUT_S", 0.01)
        with write(cloud):
            (cloud.folder / "writer.json").write_text("{")
            with pytest.raises(StateLocked), write(cloud):
                pass

    def test_processes_take_turns(self, cloud):
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=_write_many, args=(cloud, n)) for n in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            worker.close()
        assert len(set(events(cloud))) == 40
        assert serial(cloud) == 41


def _write_many(cloud, number):
    for count in range(10):
        with write(cloud) as writer:
            event(writer, json.dumps([number, count]))


class TestMigration:
    @pytest.fixture
    def newer(self, monkeypatch):
        def migrations(*scripts):
            monkeypatch.setattr(db, "MIGRATIONS", (*db.MIGRATIONS, *scripts))
            monkeypatch.setattr(db, "SCHEMA_VERSION", SCHEMA_VERSION + len(scripts))

        return migrations

    def test_an_older_file_is_brought_up(self, cloud, newer):
        newer(
            "CREATE TABLE one (x);\nINSERT INTO one VALUES (1);\n", "ALTER TABLE one ADD COLUMN y;"
        )
        with read(cloud) as reader:
            assert reader.all("SELECT * FROM one") == [{"x": 1, "y": None}]
        assert pragma(cloud, "user_version") == SCHEMA_VERSION + 2

    def test_all_or_nothing(self, cloud, newer):
        newer("CREATE TABLE one (x);", "CREATE TABLE one (x);")
        with pytest.raises(sqlite3.OperationalError), read(cloud):
            pass
        assert pragma(cloud, "user_version") == SCHEMA_VERSION
        with raw(cloud) as connection:
            assert (
                connection.execute("SELECT * FROM sqlite_master WHERE name = 'one'").fetchall()
                == []
            )


def test_a_row_that_others_name_must_be_there(cloud):
    with read(cloud) as reader, pytest.raises(StateCorrupt, match="has no servers row"):
        reader.get("servers", new_id())


def test_rows_are_counted(cloud):
    with read(cloud) as reader:
        reader.all("SELECT * FROM flavors")
        assert reader.rows_read == 6
