"""Images as typed, in stackctl's words and in OpenStack's."""

import json

import pytest
from click.testing import CliRunner

from stackctl.cli import main
from stackctl.identity.bootstrap import create_cloud
from stackctl.state import find_cloud, new_id, now, write


@pytest.fixture
def cloud(clouds):
    made = find_cloud("default")
    create_cloud(made)
    with write(made) as writer:
        writer.insert("projects", {"id": new_id(), "name": "physics", "created_at": now()})
    return made


def invoke(*words, typed=None):
    return CliRunner().invoke(main.cli, list(words), input=typed)


def good(*words, typed=None):
    result = invoke(*words, typed=typed)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def shown(*words, typed=None):
    return json.loads(good(*words, "-f", "json", typed=typed))


def refused(status, *words, typed=None):
    result = invoke(*words, typed=typed)
    assert result.exit_code == status, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def value(*words):
    return good(*words, "-f", "value").split()


def test_queued_uploaded_deactivated(cloud):
    assert shown("image-create", "i", "--tag", "t")["Status"] == "queued"
    assert "is queued: it can be read when" in refused(4, "image-save", "i", "--file", "-")
    refused(31, "image-upload", "i", "--file", "-", typed="")
    assert shown("image-show", "i")["Status"] == "queued"
    made = shown("image-upload", "i", "--file", "-", typed="content")
    assert (made["Status"], made["Size"], made["Stores"]) == ("active", 7, ["local"])
    refused(4, "image-upload", "i", "--file", "-", typed="again")
    good("image-deactivate", "i")
    assert shown("image-show", "i")["Status"] == "deactivated"
    good("image-activate", "i")
    good("image-delete", "i")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("image", "set", "i", "--deactivate"), "deactivated"),
        (("image", "set", "i", "--activate"), "active"),
        (("image-reactivate", "i"), "active"),
    ],
)
def test_openstacks_words_for_states(cloud, words, status):
    good("image-create", "i", "--file", "-", typed="content")
    good(*words)
    assert shown("image", "show", "i")["Status"] == status


def test_import(cloud):
    good("image", "create", "i")
    failed = refused(
        30, "image", "import", "i", "--method", "web-download", "--uri", "http://127.0.0.1:9/a"
    )
    assert "cannot be fetched" in failed
    assert shown("image-show", "i")["Status"] == "queued"


def test_save(cloud, tmp_path):
    good("image-create", "i", "--file", "-", typed="content")
    good("image", "save", "i", "--file", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_text() == "content"
    assert good("image-save", "i", "--file", "-") == "content"
    assert "cannot be written" in refused(30, "image-save", "i", "--file", "/nowhere/copy")
    (cloud.images / next(iter(cloud.images.iterdir())).name).unlink()
    refused(30, "image-save", "i", "--file", str(tmp_path / "copy"))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["copy"]
    assert (tmp_path / "copy").read_text() == "content"


def test_tags_properties_and_filters(cloud):
    good("image-create", "a", "--empty", "--tag", "x", "--tag", "y", "--property", "os=debian")
    good("image-create", "b", "--empty", "--tag", "x", "--public")
    good("image-create", "c", "--empty", "--hidden")
    assert value("image-list", "-c", "Name") == ["a", "b"]
    assert value("image-list", "-c", "Name", "--tag", "x", "--tag", "y") == ["a"]
    assert value("image", "list", "-c", "Name", "--public") == ["b"]
    assert value("image-list", "-c", "Name", "--hidden") == ["c"]
    assert value("image-list", "-c", "Name", "--property", "os=debian") == ["a"]
    assert value("image-list", "-c", "Name", "--status", "active") == []
    changed = shown("image", "unset", "a", "--tag", "x", "--property", "os")
    assert (changed["Tags"], changed["Properties"]) == (["y"], {})


def test_members(cloud):
    good("image-create", "i", "--empty")
    assert shown("image", "add", "project", "i", "physics") == [
        {"Project": "physics", "Status": "pending"}
    ]
    good("image", "set", "i", "--accept", "--project", "physics")
    assert value("image", "member", "list", "i", "-c", "Status") == ["accepted"]
    good("image-set", "i", "--reject", "--project", "physics")
    assert value("member-list", "i", "-c", "Status") == ["rejected"]
    good("image", "remove", "project", "i", "physics")
    assert value("image-member-list", "i") == []
    refused(3, "image-member-delete", "i", "physics")
    refused(3, "image-set", "i", "--accept")
    good("image-set", "i", "--private")
    refused(4, "image-member-add", "i", "physics")


def test_stores(cloud, tmp_path):
    (cloud.folder / "config.yaml").write_text(
        f"stores: {{nas: {{kind: file, folder: {tmp_path}}}}}\ndefault_store: nas\n"
    )
    made = shown("image-create", "i", "--file", "-", typed="content")
    assert made["Stores"] == ["nas"]
    assert set(shown("image-copy", "i", "--to", "local")["Stores"]) == {"nas", "local"}
    refused(4, "image-copy", "i", "--to", "local")
    refused(3, "image-copy", "i", "--to", "tape")
    good("image-delete", "i", "--store", "nas")
    assert not (tmp_path / made["SHA256"]).exists()
    refused(4, "image-delete", "i", "--store", "local")


def test_rehearsals_change_nothing(cloud):
    good("image-create", "i", "--empty")
    good("image-create", "f", "--file", "-", typed="content")
    before = good("image-list", "-f", "json", "-c", "Name", "-c", "Status", "-c", "Tags")
    for words in (
        ("image-upload", "i", "--file", "-"),
        ("image-deactivate", "f"),
        ("image-unset", "i", "--tag", "x"),
        ("image-member-add", "i", "physics"),
        ("image-delete", "f"),
    ):
        good(*words, "--dry-run", typed="content")
    assert good("image-list", "-f", "json", "-c", "Name", "-c", "Status", "-c", "Tags") == before
    assert value("image-member-list", "i") == []


def test_hosts_are_needed(cloud):
    good("image-create", "f", "--file", "-", typed="content")
    for words in (("image-cache-list",), ("image-prefetch", "f"), ("image-prune",)):
        assert "has no" in refused(3, *words)
