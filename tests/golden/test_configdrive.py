"""A config drive, file by file and word for word, as a guest with everything finds it.

STACKCTL_UPDATE_GOLDEN=1 writes the file anew.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from agent.resources.configdrive import LABEL, compile_tree
from agent.spec import (
    Attachment,
    Disk,
    HostRoute,
)
from agent.system import iso
from tests.guest_samples import ID, network, port, server, spec, subnet

GOLDEN = Path(__file__).with_name("configdrive") / "drive.txt"
CONTENTS = {
    "a" * 64: b"#cloud-config\nruncmd: [touch /made]\n",
    "b" * 64: b"10.0.0.2 head\n",
    "c" * 64: b'{"cloud-init": "#cloud-config\\npackage_update: false"}',
}


PORTS = (
    port(
        "10000000",
        "11",
        "dual",
        ("dual-4", "192.168.1.4"),
        ("dual-6", "fd00::4"),
        gives_default_route=False,
    ),
    port("20000000", "12", "static", ("static-4", "10.1.0.5"), ("static-6", "fd01::5")),
    port("30000000", "13", "managed", ("managed-6", "fd02::6"), gives_name_server=False),
    port("40000000", "14", "bare"),
)
SPEC = spec(
    (
        network(
            "dual",
            1450,
            subnet("dual-4", "192.168.1.0/24", "192.168.1.1", "192.168.1.3"),
            subnet("dual-6", "fd00::/64", "fd00::1", "fd00::3", ipv6_mode="slaac"),
        ),
        network(
            "static",
            9000,
            subnet(
                "static-4",
                "10.1.0.0/24",
                "10.1.0.1",
                None,
                dns_nameservers=("10.1.0.53",),
                host_routes=(HostRoute("172.16.0.0/12", "10.1.0.9"),),
            ),
            subnet("static-6", "fd01::/64", "fd01::1", None, dns_nameservers=("fd01::53",)),
        ),
        network(
            "managed",
            1500,
            subnet("managed-6", "fd02::/64", None, "fd02::3", ipv6_mode="dhcpv6-stateful"),
        ),
        network("bare", 1400),
    ),
    PORTS,
    disks=tuple(
        Disk(kind, 1, ID, kind, "qcow2", 1 << 30, False) for kind in ("root", "ephemeral", "swap")
    ),
)
SERVER = server(
    "a" * 64,
    "b" * 64,
    {
        "vendor_data_sha256": "c" * 64,
        "seed": "cmFuZG9t",
        "instance_type": "m1.small",
        "image_id": "image-1",
    },
    disks=("root", "ephemeral", "swap"),
    ports=tuple(each.id for each in PORTS),
    volumes=(Attachment("7" * 36, "vdd"),),
)


def test_the_drive_of_a_guest_with_everything():
    """Of files that several versions have in one form, the last one is shown whole."""
    tree = compile_tree(SPEC, SERVER, CONTENTS.__getitem__)
    lines = []
    for path in sorted(tree):
        folder, _, name = path.rpartition("/")
        latest = tree.get(f"{folder.partition('/')[0]}/latest/{name}")
        same = not folder.endswith("/latest") and tree[path] == latest
        lines += [f"== {path}{'  (as in latest)' if same else ''}"]
        lines += [] if same else tree[path].decode().splitlines()
    text = "\n".join(lines) + "\n"
    if os.environ.get("STACKCTL_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_the_image_holds_every_file_of_it(tmp_path):
    tree = compile_tree(SPEC, SERVER, CONTENTS.__getitem__)
    image, again = tmp_path / "1.iso", tmp_path / "2.iso"
    iso.build(image, LABEL, tree)
    iso.build(again, LABEL, compile_tree(SPEC, SERVER, CONTENTS.__getitem__))
    assert image.read_bytes() == again.read_bytes()
    argv = ["xorriso", "-indev", str(image), "-osirrox", "on", "-extract", "/", str(tmp_path / "x")]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    found = {
        str(path.relative_to(tmp_path / "x")): path.read_bytes()
        for path in (tmp_path / "x").rglob("*")
        if path.is_file()
    }
    assert found == tree
