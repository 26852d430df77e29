"""What unsafe images name is never opened, and no tool of qemu sees one: watched by strace."""

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from stackctl.identity.bootstrap import create_cloud
from stackctl.identity.context import admin_context
from stackctl.image import service
from stackctl.state import find_cloud
from tests.unit.test_agent_inspection import CLUSTER, extension, qcow2

ROOT = Path(__file__).parents[2]

AGENT = """
import sys
from pathlib import Path
from agent import images
from agent.faults import StepFailed
from agent.spec import Image

data, folder = Path(sys.argv[1]), Path(sys.argv[2])
for number, line in enumerate(sys.stdin):
    name, sha256, size, declared = line.split()
    image = Image(f"image-{number}", sha256, int(size), declared)

    def ask(image, why):
        return images.Offer(iter_of((folder / name).read_bytes()))

    def iter_of(content):
        yield content

    try:
        images.Fetcher(data, lambda message: None, ask, lambda: None).fetch(image)
        print(name, "ACCEPTED")
    except StepFailed as refusal:
        print(name, refusal)
"""


def qemu_img(*words):
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "canary-secret.raw"
    path.write_bytes(b"the canary's words" * 10_000)
    return path


@pytest.fixture
def corpus(tmp_path, secret):
    """Images that name the secret, or that a probing tool would take for something else."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    name = os.fsencode(secret)
    made = {
        "backing": qcow2(backing=name),
        "backing-v2": qcow2(version=2, backing=name),
        "backing-json": qcow2(backing=json.dumps({"file.filename": str(secret)}).encode()),
        "data-file": qcow2(incompatible=4, extensions=extension(0x44415441, name)),
        "data-file-raw": qcow2(incompatible=4, autoclear=2, extensions=extension(0x44415441, name)),
        "data-file-extension-only": qcow2(extensions=extension(0x44415441, name)),
        "unknown-bit": qcow2(incompatible=1 << 20),
        "version-1": qcow2(version=1, backing=name),
        "truncated": qcow2(backing=name)[:2100],
        "huge": qcow2(size=2**63),
        "vmdk-text": (
            b'# Disk DescriptorFile\nversion=1\nCID=fffffffe\ncreateType="monolithicFlat"\n'
            b'RW 100 FLAT "' + name + b'" 0\n'
        ),
        "vmdk-text-hidden": b'# a\nversion=1\nRW 100 FLAT "' + name + b'" 0\n',
        "vmdk-sparse": b"KDMV" + struct.pack("<I", 1) + bytes(4096),
        "qed": b"QED\0"
        + struct.pack("<IIIQQQQQII", CLUSTER, 4, 1, 1, 0, 0, 0, 1 << 20, 64, 40)
        + name,
        "vdi": b"<<< a disk >>>".ljust(64, b"\0") + b"\x7f\x10\xda\xbe" + bytes(512),
        "vhdx": b"vhdxfile" + bytes(1 << 16),
        "vhd": b"conectix" + bytes(1 << 16),
        "iso-and-disk": bytes(510) + b"\x55\xaa" + bytes(0x8001 - 512) + b"CD001" + bytes(512),
    }
    for kind, content in made.items():
        (folder / kind).write_bytes(content)
    qemu_img("create", "-f", "qcow2", "-b", secret, "-F", "raw", folder / "qemu-backing")
    data = ("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data.raw'},data_file_raw=on")
    qemu_img(*data, folder / "qemu-data-file", "1M")
    qemu_img("create", "-f", "vmdk", "-o", "subformat=monolithicFlat", tmp_path / "flat.vmdk", "1M")
    shutil.copy(tmp_path / "flat.vmdk", folder / "qemu-vmdk-flat")
    for kind in ("vmdk", "vdi", "vpc", "vhdx", "qed"):
        qemu_img("create", "-f", kind, folder / f"qemu-{kind}", "8M")
    return folder


def traced(log, *argv, **options):
    """Run a program and return (its result, what it opened or started, one a line)."""
    calls = "trace=open,openat,openat2,execve,execveat,symlink,link,linkat"
    done = subprocess.run(
        ["strace", "-f", "-q", "-s", "512", "-e", calls, "-o", log, *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )
    return done, log.read_text()


def check_harmless(trace, secret):
    assert str(secret) not in trace
    assert "data.raw" not in trace
    assert "-flat.vmdk" not in trace
    started = re.findall(r'execve(?:at)?\("([^"]*)"', trace)
    assert not [name for name in started if "qemu" in name], started
    assert "openat" in trace  # the watch itself works


@pytest.mark.parametrize("declared", [(), ("--disk-format", "raw"), ("--disk-format", "qcow2")])
def test_the_controller_opens_nothing_that_an_image_names(
    clouds, corpus, secret, tmp_path, declared
):
    cloud = find_cloud("default")
    create_cloud(cloud)
    script = "for file in *; do {} -m stackctl image-create i --file $file {}; echo $?; done"
    # One process tree: what any of them opens or starts is in the trace.
    words = script.format(sys.executable, " ".join(declared))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done, trace = traced(tmp_path / "trace", "sh", "-c", f"cd {corpus} && {words}", env=environment)
    statuses = done.stdout.split()
    assert statuses == ["31"] * len(list(corpus.iterdir())), done.stdout + done.stderr
    assert "refused and nothing of it kept" in done.stderr
    check_harmless(trace, secret)
    assert service.list_images(admin_context(cloud)) == []
    assert list(cloud.images.iterdir()) == []


@pytest.mark.parametrize("declared", ["raw", "qcow2"])
def test_a_host_opens_nothing_that_an_image_names(corpus, secret, tmp_path, declared):
    """A controller that was fooled, or taken over, changes nothing: each host looks itself."""
    lines = []
    for path in sorted(corpus.iterdir()):
        content = path.read_bytes()
        lines.append(f"{path.name} {hashlib.sha256(content).hexdigest()} {len(content)} {declared}")
    done, trace = traced(
        tmp_path / "trace",
        sys.executable,
        "-c",
        AGENT,
        str(tmp_path / "data"),
        str(corpus),
        input="\n".join(lines) + "\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == len(lines)
    assert "ACCEPTED" not in done.stdout
    assert done.stdout.count("is unsafe") == len(lines), done.stdout
    check_harmless(trace, secret)
    assert list((tmp_path / "data" / "images").iterdir()) == []


def test_the_watch_sees_what_qemu_would_have_done(corpus, secret, tmp_path):
    """The same trace of a tool that believes headers: the secret is opened."""
    _, trace = traced(tmp_path / "trace", "qemu-img", "check", str(corpus / "qemu-backing"))
    assert str(secret) in trace
