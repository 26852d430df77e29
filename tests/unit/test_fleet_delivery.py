"""The agent's archive: the same bytes for the same files, and built only when they change."""

import io
import os
import zipfile

import pytest

from stackctl.fleet import delivery


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # It is looked for once in a process; each test here is one of its own.
    delivery._find_archive.cache_clear()
    yield tmp_path / "cache" / "stackctl" / "agent"
    delivery._find_archive.cache_clear()


def test_it_holds_the_agent_and_pyroute2_and_nothing_compiled():
    archive = delivery.agent_archive()
    with zipfile.ZipFile(archive.path) as content:
        names = content.namelist()
    assert {"agent/__main__.py", "agent/wire.py", "pyroute2/__init__.py"} <= set(names)
    assert any(name.startswith("pyroute2.licenses/") for name in names)
    assert not [name for name in names if "__pycache__" in name]
    assert names == sorted(names)
    assert archive.size == archive.path.stat().st_size


def test_it_is_built_once(monkeypatch):
    first = delivery.agent_archive()
    monkeypatch.setattr(delivery, "pack", lambda _: pytest.fail("built again"))
    assert delivery.agent_archive() == first


def test_times_and_modes_do_not_change_it(tmp_path):
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    for path in (one, other):
        path.write_text("x = 1\n")
    os.utime(other, (1, 1))
    other.chmod(0o755)
    assert delivery.pack({"a.py": one, "b.py": one}) == delivery.pack(
        {"b.py": other, "a.py": other}
    )


def test_a_changed_file_makes_another(tmp_path, monkeypatch):
    source = tmp_path / "main.py"
    source.write_text("x = 1\n")
    monkeypatch.setattr(delivery, "_sources", lambda: iter([("agent/main.py", source)]))
    first = delivery.agent_archive()
    source.write_text("x = 2000\n")
    delivery._find_archive.cache_clear()  # as in the next process
    assert delivery.agent_archive().sha256 != first.sha256


def test_a_damaged_cache_is_built_anew():
    archive = delivery.agent_archive()
    archive.path.write_bytes(bytes(archive.size))
    content = delivery.read_archive(archive)
    assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None
    assert delivery.agent_archive() == archive


def test_an_archive_that_another_version_tidied_away_is_built_anew():
    archive = delivery.agent_archive()
    archive.path.unlink()
    content = delivery.read_archive(archive)
    assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None
    assert delivery.agent_archive() == archive


def test_the_cache_is_private_and_small(tmp_path, monkeypatch, cache):
    source = tmp_path / "main.py"
    monkeypatch.setattr(delivery, "_sources", lambda: iter([("agent/main.py", source)]))
    for count in range(10):
        source.write_text("x = 1\n" * count)
        delivery.agent_archive()
    assert cache.stat().st_mode & 0o777 == 0o700
    assert len(list(cache.iterdir())) <= 10
