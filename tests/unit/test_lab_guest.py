"""The scripts of the guest image, run by the busybox that the guest has."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackctl.lab import guest
from stackctl.lab.guest import Kernel

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126))
LEAF = st.one_of(TEXT, st.integers(), st.booleans(), st.none())
KEY = st.text(st.sampled_from("abcXYZ_-:/ "), min_size=1)
DOCUMENT = st.dictionaries(
    KEY,
    st.recursive(
        LEAF,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(KEY, inner, max_size=4)
        ),
        max_leaves=12,
    ),
    max_size=6,
)


def flattened(text: str) -> list[str]:
    argv = ["busybox", "awk", "-f", str(guest.SCRIPTS / "json.awk")]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.splitlines()


def expected(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [
            line
            for key, inner in pairs
            for line in expected(inner, f"{path}.{stripped(key)}" if path else stripped(key))
        ]
    return [f"{path}\t{stripped(value) if isinstance(value, str) else json.dumps(value)}"]


def stripped(key: object) -> str:
    return str(key).rstrip(" ")


@settings(max_examples=60, deadline=None)
@given(document=DOCUMENT, indent=st.sampled_from([None, 2]))
def test_metadata_is_read_as_written(document: dict[str, Any], indent: int | None) -> None:
    lines = flattened(json.dumps(document, indent=indent))
    # An empty key joins its parent's path differently; paths are compared where none is empty.
    if all(line.split("\t")[0] and ".." not in line for line in expected(document)):
        assert lines == expected(document)


def test_metadata_escapes() -> None:
    text = '{"a": "one\\ntwo\\u0041\\"\\\\/\\/", "key": "ssh-ed25519 AAAA me\\n", "é": "ü"}'
    assert flattened(text) == ['a\tone twoA"\\//', "key\tssh-ed25519 AAAA me", "é\tü"]


@pytest.mark.parametrize("text", ["", "{", '{"a"', '{"a": [1, {"b": ', "nonsense", '{"a": "'])
def test_broken_metadata_ends(text: str) -> None:
    argv = ["busybox", "awk", "-f", str(guest.SCRIPTS / "json.awk")]
    subprocess.run(argv, input=text, capture_output=True, text=True, timeout=10, check=False)


@pytest.mark.parametrize("script", sorted(guest.SCRIPTS.iterdir()), ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    if script.read_text().startswith("#!/bin/sh"):
        subprocess.run(["busybox", "sh", "-n", str(script)], timeout=10, check=True)
        assert script.name in guest.PLACES


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["node-1"], "-y node-1"),
        (["root@node-1", "hostname", "-f"], "-y root@node-1 hostname -f"),
        (["-o", "StrictHostKeyChecking=no", "node-1", "true"], "-y node-1 true"),
        (["-oBatchMode=yes", "-p", "22", "node-1"], "-y -p 22 node-1"),
        (
            ["-i", "/root/.ssh/id_dropbear", "node-1", "ls *"],
            "-y -i /root/.ssh/id_dropbear node-1 ls *",
        ),
    ],
)
def test_ssh_speaks_openssh(tmp_path: Path, words: list[str], seen: str) -> None:
    wrapper = tmp_path / "ssh"
    text = (guest.SCRIPTS / "ssh").read_text()
    wrapper.write_text(text.replace("exec dbclient", "exec echo"))
    argv = ["busybox", "sh", str(wrapper), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout.strip() == seen


def test_cloud_kernels_come_first_then_newer_ones() -> None:
    versions = ["6.1.0-9-amd64", "6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64", "6.12.0-1-amd64"]
    kernels = [Kernel(Path(version), version) for version in versions]
    assert max(kernels, key=guest._preference).version == "6.1.0-10-cloud-amd64"


def test_digest_follows_the_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = guest.inputs_digest()
    assert guest.inputs_digest() == before
    for script in guest.SCRIPTS.iterdir():
        (tmp_path / script.name).write_bytes(script.read_bytes())
    monkeypatch.setattr(guest, "SCRIPTS", tmp_path)
    assert guest.inputs_digest() == before
    (tmp_path / "boot").write_text("#!/bin/sh\n")
    assert guest.inputs_digest() != before
