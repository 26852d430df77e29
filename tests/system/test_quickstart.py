"""bin/quickstart as a newcomer types it: a cluster computer, twice, and nothing left of it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLIDES = "Instance Name,IP Address,Size,Keypair,Status,Task,Power State"
LIMIT_S = 580


def typed(clouds, *argv):
    """Run a program of bin/ with clouds of its own."""
    environment = {**os.environ, "STACKCTL_CLOUDS": str(clouds), "STACKCTL_CLOUD": "lab"}
    return subprocess.run(
        [ROOT / "bin" / argv[0], *argv[1:]],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def csv(clouds, *columns):
    words = [word for column in columns for word in ("-c", column)]
    return typed(clouds, "stackctl", "list", "-f", "csv", *words).stdout.splitlines()


@pytest.fixture(scope="module")
def clouds_of_walk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clouds")
    yield folder
    assert typed(folder, "quickstart", "--down").returncode == 0
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def walk(clouds_of_walk):
    done = typed(clouds_of_walk, "quickstart")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_what_it_types_is_what_a_person_would(walk):
    lines = walk.stdout.splitlines()
    assert "$ stackctl net-create worf_local --subnet 192.168.1.0/24" in lines
    assert "$ stackctl list" in lines
    assert "\x1b" not in walk.stdout, "no colours in a file"
    assert "Warning" not in walk.stdout + walk.stderr


def test_the_addresses_of_the_slides(walk, clouds_of_walk):
    found = dict(line.split(",", 1) for line in csv(clouds_of_walk, "Instance Name", "IP Address"))
    assert found.pop("worf_head_node") == "Enterprise 10.1.0.2; worf_local 192.168.1.2"
    assert {name: found[name] for name in found if name != "Instance Name"} == {
        f"worf_compute_node_-{number}": f"worf_local 192.168.1.{number + 3}"
        for number in range(1, 5)
    }


def test_the_table_of_the_slides(walk, clouds_of_walk):
    assert csv(clouds_of_walk)[0] == SLIDES
    assert set(csv(clouds_of_walk, "Status", "Power State")[1:]) == {"ACTIVE,Running"}


def test_both_hosts_are_used(walk, clouds_of_walk):
    assert set(csv(clouds_of_walk, "Host")[1:]) == {"host1", "host2"}


def test_the_head_reaches_the_internet_and_all_nodes(walk):
    pinged = re.findall(r"^--- (\S+) ping statistics ---\n3 \w+ \w+, ([1-3]) ", walk.stdout, re.M)
    names = {name for name, _ in pinged}
    nodes = {f"worf-compute-node-{number}" for number in range(1, 5)}
    assert names == {"www.google.com"} | nodes | {f"192.168.1.{last}" for last in range(4, 8)}


def test_no_process_of_stackctl_is_left(walk, clouds_of_walk):
    """The engines go on (each under the lab host's own init), commands and agents do not."""
    mark = f"STACKCTL_CLOUDS={clouds_of_walk}".encode()
    left = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            ours = mark in (folder / "environ").read_bytes()
        except OSError:
            continue
        if ours and any(word.endswith((b"bin/stackctl", b"stackctl/host/agent")) for word in words):
            left.append(b" ".join(words))
    assert left == []


def test_a_second_time_uses_what_is_there(walk, clouds_of_walk):
    before = csv(clouds_of_walk, "ID", "Instance Name")
    done = typed(clouds_of_walk, "quickstart")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "worf_head_node is there already." in done.stdout.splitlines()
    assert csv(clouds_of_walk, "ID", "Instance Name") == before


def test_a_failure_is_the_last_line(tmp_path):
    nowhere = tmp_path / "clouds"
    nowhere.write_text("a file where a folder should be")
    done = typed(nowhere, "quickstart")
    assert done.returncode not in (0, 1)
    last = done.stderr.splitlines()[-2:]
    assert re.fullmatch(
        r"quickstart: FAILED \(exit \d+\) after \d+ s while running: stackctl lab-up --hosts 2\.",
        last[0],
    )
    assert "bin/quickstart --down" in last[1]


def test_an_option_that_it_does_not_have():
    done = typed("/nowhere", "quickstart", "--up")
    assert done.returncode == 2
    assert "--down" in done.stderr
