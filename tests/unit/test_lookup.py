"""What people type, and the row that they mean."""

import pytest

from stackctl.errors import NotFound
from stackctl.state import find, new_id, now, read, write
from tests.builders import new_cloud

IDS = ["aaaa0000-0000-4000-8000-000000000001", "aaaa0000-0000-4000-8000-000000000002"]


@pytest.fixture
def cloud(fast_path):
    made = new_cloud(fast_path)
    with write(made) as writer:
        project = writer.value("SELECT id FROM projects")
        user = writer.value("SELECT id FROM users")
        for id_, name in zip(IDS, ("one", "two"), strict=True):
            row = {"id": id_, "user_id": user, "name": name, "public_key": "k"}
            writer.insert("keypairs", {**row, "fingerprint": project, "created_at": now()})
    return made


def found(cloud, word, **more):
    with read(cloud) as reader:
        return find(reader, "keypairs", word, noun="keypair", **more)["id"]


def test_by_name_and_by_id(cloud):
    assert found(cloud, "one") == IDS[0]
    assert found(cloud, IDS[1]) == IDS[1]


@pytest.mark.parametrize("word", [IDS[0][:-1] + "1", "aaaa0000-0000-4000-8000-000000000002"])
def test_by_a_whole_id(cloud, word):
    assert found(cloud, word) == word


def test_by_the_unique_beginning_of_an_id(cloud):
    with write(cloud) as writer:
        writer.update("keypairs", IDS[1], deleted_at=now())
    assert found(cloud, "aaaa") == IDS[0]


@pytest.mark.parametrize("word", ["aaaa", "aaaa0000-"])
def test_a_beginning_that_two_have(cloud, word):
    with pytest.raises(NotFound, match="More than one keypair") as caught:
        found(cloud, word)
    assert all(id_ in caught.value.message for id_ in IDS)


@pytest.mark.parametrize("word", ["", "aaa", "%", "_____", "a*", "zzzz", "'", "ONE", "aaaa%"])
def test_what_means_nothing(cloud, word):
    with pytest.raises(NotFound, match="There is no keypair") as caught:
        found(cloud, word)
    assert caught.value.hint == "stackctl keypair-list"


def test_a_name_goes_before_the_beginning_of_an_id(cloud):
    with write(cloud) as writer:
        writer.update("keypairs", IDS[1], name="aaaa")
    assert found(cloud, "aaaa") == IDS[1]


def test_an_id_goes_before_a_name(cloud):
    with write(cloud) as writer:
        writer.update("keypairs", IDS[1], name=IDS[0])
    assert found(cloud, IDS[0]) == IDS[0]


def test_what_is_deleted_is_not_there(cloud):
    with write(cloud) as writer:
        writer.update("keypairs", IDS[0], deleted_at=now())
    for word in ("one", IDS[0]):
        with pytest.raises(NotFound):
            found(cloud, word)


def test_two_of_one_name_want_the_id(cloud):
    with write(cloud) as writer:
        network = {"project_id": writer.value("SELECT id FROM projects"), "name": "n"}
        more = {"type": "vxlan", "mtu": 1450, "domain": "d", "created_at": now()}
        for segment in (1, 2):
            row = {"id": new_id(), "segmentation_id": segment, **network, **more}
            writer.insert("networks", row)
    with read(cloud) as reader, pytest.raises(NotFound, match="Give the id") as caught:
        find(reader, "networks", "n", noun="network")
    assert caught.value.exit_status == 3


def test_others_see_nothing_of_it(cloud):
    with pytest.raises(NotFound):
        found(cloud, "one", where="user_id = ?", parameters=("somebody",))
