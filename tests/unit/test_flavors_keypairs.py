"""Flavors and key pairs."""

import base64
import dataclasses
import subprocess

import pytest

from stackctl.compute.flavors import (
    NewFlavor,
    create_flavor,
    delete_flavor,
    list_flavors,
    show_flavor,
)
from stackctl.compute.keypairs import (
    add_keypair,
    checked_public_key,
    delete_keypair,
    list_keypairs,
    show_keypair,
)
from stackctl.errors import Conflict, NotFound, UsageError
from stackctl.identity.bootstrap import create_cloud, make_keypair
from stackctl.identity.context import admin_context
from stackctl.state import Cloud, new_id, now, read, write


@pytest.fixture
def context(tmp_path):
    cloud = Cloud("test", tmp_path / "cloud")
    create_cloud(cloud)
    return admin_context(cloud)


def ssh_keygen(*arguments):
    command = ["ssh-keygen", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class TestFlavors:
    def test_the_classic_ones_are_there(self, context):
        names = [flavor.name for flavor in list_flavors(context)]
        classic = ["m1.tiny", "m1.small", "m1.medium", "medium", "m1.large", "m1.xlarge"]
        assert names == classic
        medium = show_flavor(context, "medium")
        assert (medium.vcpus, medium.ram_mb, medium.disk_gb, medium.ephemeral_gb) == (
            2,
            4096,
            40,
            40,
        )

    def test_create_and_delete(self, context):
        made = create_flavor(context, NewFlavor("f", 3, 100, 0, 5, 6)).value
        assert show_flavor(context, made.id) == made
        with pytest.raises(Conflict, match="Flavor with name f already exists"):
            create_flavor(context, NewFlavor("f", 1, 1, 1))
        assert delete_flavor(context, "f").value == made
        with pytest.raises(NotFound):
            show_flavor(context, "f")
        create_flavor(context, NewFlavor("f", 1, 1, 1))

    @pytest.mark.parametrize("field", ["vcpus", "ram_mb", "disk_gb", "ephemeral_gb", "swap_mb"])
    def test_sizes_that_make_no_sense(self, context, field):
        for size in (-1, 1 << 31):
            with pytest.raises(UsageError, match=field):
                create_flavor(
                    context, dataclasses.replace(NewFlavor("f", 1, 1, 1), **{field: size})
                )

    def test_request_id(self, context):
        context = dataclasses.replace(context, request_id="r")
        first = create_flavor(context, NewFlavor("f", 1, 1, 1)).value
        assert create_flavor(context, NewFlavor("f", 1, 1, 1)).value == first


class TestKeypairs:
    def test_a_pair_is_made_and_its_private_key_kept_nowhere(self, context, tmp_path):
        made = add_keypair(context, "mine").value
        path = tmp_path / "key"
        path.touch(mode=0o600)
        path.write_text(made.private_key)
        assert ssh_keygen("-y", "-f", path).split()[:2] == made.public_key.split()[:2]
        assert ssh_keygen("-l", "-f", path).split()[1] == made.fingerprint_sha256
        md5 = ssh_keygen("-l", "-E", "md5", "-f", path).split()[1]
        assert md5 == f"MD5:{made.fingerprint}"
        assert show_keypair(context, "mine") == dataclasses.replace(made, private_key=None)
        secret = made.private_key.splitlines()[2].encode()
        found = [
            f for f in context.cloud.folder.rglob("*") if f.is_file() and secret in f.read_bytes()
        ]
        assert found == []
        assert "PRIVATE" not in repr(made)

    @pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
    def test_keys_of_all_types_are_imported(self, context, tmp_path, kind):
        ssh_keygen("-q", "-t", kind, "-N", "", "-C", "me at home", "-f", tmp_path / "k")
        line = (tmp_path / "k.pub").read_bytes()
        made = add_keypair(context, kind, b"  " + line + b"\n").value
        assert made.public_key == line.decode().strip()
        assert made.private_key is None
        assert made.type == line.decode().split()[0]
        assert made.fingerprint_sha256 == ssh_keygen("-l", "-f", tmp_path / "k.pub").split()[1]

    def test_what_is_no_public_key(self, context):
        private, good = make_keypair("c")
        kind, encoded, _ = good.split()
        short = base64.b64encode(base64.b64decode(encoded)[:-1]).decode()
        for bad in (
            "",
            private,
            f'command="rm -rf /" {good}',
            f"{good}\nssh-rsa AAAA",
            f"{good}\x00",
            f"ssh-rsa {encoded}",
            f"ssh-dss {encoded}",
            f"{kind} {short}",
            f"{kind} {encoded}!",
            kind,
            f"{kind} {encoded} {'x' * 20000}",
        ):
            with pytest.raises(UsageError):
                add_keypair(context, "k", bad.encode())
        with pytest.raises(UsageError):
            add_keypair(context, "k", b"\xff\xfe")
        assert list_keypairs(context) == []

    def test_the_words_about_a_private_key_do_not_repeat_it(self):
        private, _ = make_keypair("c")
        with pytest.raises(UsageError) as refused:
            checked_public_key(private.encode())
        assert private.splitlines()[1] not in str(refused.value)

    def test_names(self, context):
        add_keypair(context, "b")
        add_keypair(context, "a b ü")
        assert [pair.name for pair in list_keypairs(context)] == ["a b ü", "b"]
        with pytest.raises(Conflict, match="Key pair 'b' already exists"):
            add_keypair(context, "b")
        for bad in ("", "a\nb", "x" * 256):
            with pytest.raises(UsageError):
                add_keypair(context, bad)
        delete_keypair(context, "b")
        add_keypair(context, "b")

    def test_they_belong_to_a_user(self, context):
        add_keypair(context, "mine")
        with write(context.cloud) as writer:
            user = writer.insert("users", {"id": new_id(), "name": "u", "created_at": now()})
        other = dataclasses.replace(context, user_id=user["id"])
        assert list_keypairs(other) == []
        with pytest.raises(NotFound):
            delete_keypair(other, "mine")
        add_keypair(other, "mine")

    def test_a_repeated_request_makes_no_second_pair(self, context):
        context = dataclasses.replace(context, request_id="r")
        first = add_keypair(context, "mine").value
        again = add_keypair(context, "mine").value
        assert again == dataclasses.replace(first, private_key=None)
        with read(context.cloud) as reader:
            assert reader.value("SELECT count(*) FROM keypairs") == 1
