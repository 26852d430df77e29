"""Images from streams: all or nothing, hashed, inspected before anything else, swept."""

import dataclasses
import hashlib
import io
import json
import struct
import threading

import pytest

from agent import web
from stackctl.errors import Conflict, NotFound, ResourceFailed, UnsafeImage, UsageError
from stackctl.identity.bootstrap import create_cloud
from stackctl.identity.context import Watch, admin_context
from stackctl.image import service
from stackctl.image.types import ImageChange, NewImage, Url
from stackctl.state import Cloud, new_id, now, read, write
from stackctl.stores import local

RAW = b"a kernel, or a disk without a table" * 1000


@pytest.fixture
def context(tmp_path):
    cloud = Cloud("test", tmp_path / "cloud")
    create_cloud(cloud)
    return admin_context(cloud)


def qcow2(virtual_bytes=1 << 30, backing=b"", version=3, incompatible=0):
    """An empty qcow2 image as qemu-img makes it: header, refcounts, L1 table."""
    cluster = 1 << 16
    entries = min(-(-virtual_bytes // (cluster * cluster // 8)), 1 << 20)
    offset = 512 if backing else 0
    head = struct.pack(
        ">4sIQIIQIIQQIIQ",
        b"QFI\xfb",
        version,
        offset,
        len(backing),
        16,
        virtual_bytes,
        0,
        entries,
        3 * cluster,
        cluster,
        1,
        0,
        0,
    )
    head += struct.pack(">QQQII", incompatible, 0, 0, 4, 104)
    head = head.ljust(512, b"\0") + backing
    table = struct.pack(">Q", 2 * cluster)
    return head.ljust(cluster, b"\0") + table.ljust(2 * cluster, b"\0") + bytes(cluster)


def create(context, content=RAW, name="img", **more):
    return service.create_image(context, NewImage(name, **more), io.BytesIO(content)).value


def files(context):
    return sorted(path.name for path in context.cloud.images.iterdir())


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def nothing_left(context):
    with read(context.cloud) as reader:
        rows = reader.value("SELECT count(*) FROM images WHERE deleted_at IS NULL")
    return (rows, files(context)) == (0, [])


class Failing(io.RawIOBase):
    """A stream that breaks in the middle."""

    def __init__(self, error):
        self.error = error
        self.given = False

    def read(self, count=-1):
        if self.given:
            raise self.error
        self.given = True
        return RAW


class TestCreate:
    def test_raw(self, context):
        made = create(context)
        assert (made.status, made.disk_format, made.container_format) == ("active", "raw", "bare")
        assert made.sha256 == sha256(RAW)
        assert (made.size_bytes, made.virtual_size_bytes, made.min_disk_gb) == (len(RAW),) * 2 + (
            1,
        )
        assert service.show_image(context, "img") == made
        path = local.image_file(context.cloud, made.sha256)
        assert path.read_bytes() == RAW
        assert path.stat().st_mode & 0o777 == 0o400

    def test_qcow2_is_told_by_its_header(self, context):
        made = create(context, qcow2(5 << 30))
        assert (made.disk_format, made.virtual_size_bytes, made.min_disk_gb) == (
            "qcow2",
            5 << 30,
            5,
        )

    def test_kernel_and_ramdisk(self, context):
        kernel = create(context, RAW, "k", disk_format="aki")
        ramdisk = create(context, RAW + b"r", "r", disk_format="ari")
        disk = create(context, RAW + b"d", "d", kernel="k", ramdisk=ramdisk.id)
        assert (disk.kernel_id, disk.ramdisk_id) == (kernel.id, ramdisk.id)
        assert (kernel.container_format, kernel.min_disk_gb) == ("aki", 0)
        with pytest.raises(NotFound, match="There is no image 'nope'"):
            create(context, name="x", kernel="nope")
        with pytest.raises(Conflict, match="is no kernel: its disk format is ari"):
            create(context, name="x", kernel="r")

    def test_everything_given(self, context):
        more = {"min_disk_gb": 7, "min_ram_mb": 64, "visibility": "public"}
        properties = {"hw_disk_bus": "virtio", "os_distro": "debian"}
        expected = sha256(RAW).upper()
        made = create(context, properties=properties, expected_sha256=expected, **more)
        assert (made.min_disk_gb, made.min_ram_mb, made.visibility) == (7, 64, "public")
        assert made.properties == properties

    def test_progress(self, context):
        seen = []
        watch = Watch(progress=lambda *told: seen.append(told))
        context = dataclasses.replace(context, watch=watch)
        service.create_image(context, NewImage("img"), io.BytesIO(RAW), len(RAW))
        assert seen[-1] == ("image img", len(RAW), len(RAW))

    def test_the_same_request_again_reads_nothing(self, context):
        context = dataclasses.replace(context, request_id="r")
        first = create(context)
        again = service.create_image(context, NewImage("img"), Failing(OSError("not read")))
        assert again.value == first

    def test_a_rehearsal_checks_everything_and_leaves_nothing(self, context):
        rehearsal = dataclasses.replace(context, dry_run=True)
        assert create(rehearsal, qcow2()).disk_format == "qcow2"
        assert nothing_left(context)
        with pytest.raises(UnsafeImage):
            create(rehearsal, qcow2(backing=b"/etc/shadow"))

    @pytest.mark.parametrize(
        "words",
        [
            {"name": ""},
            {"name": "a\nb"},
            {"disk_format": "vmdk"},
            {"container_format": "docker"},
            {"visibility": "secret"},
            {"min_disk_gb": -1},
            {"min_ram_mb": -1},
            {"expected_sha256": "12"},
            {"ramdisk": "r"},
            {"disk_format": "aki", "kernel": "k"},
            {"expected_sha512": "12"},
            {"tags": ("",)},
            {"tags": tuple(f"t{n}" for n in range(129))},
            {"properties": {"protected": "true"}},
            {"properties": {"a b": "c"}},
            {"properties": {"a": "b\nc"}},
            {"properties": {"a": "x" * 1025}},
            {"properties": {f"p{n}": "" for n in range(129)}},
        ],
    )
    def test_words_that_make_no_sense(self, context, words):
        with pytest.raises(UsageError):
            create(context, **words)
        assert nothing_left(context)


class TestNothingHalfMade:
    @pytest.mark.parametrize(
        ("content", "declared", "reason"),
        [
            (qcow2(backing=b"/etc/shadow"), None, "names a backing file"),
            (qcow2(incompatible=4), None, "external data file"),
            (qcow2(incompatible=1 << 40), "qcow2", "needs the feature 40"),
            (qcow2(version=1), "qcow2", "version 1"),
            (qcow2()[:300], "qcow2", "cut off"),
            (qcow2()[: 2 << 16], None, "cut off"),
            (qcow2(1 << 62), None, "virtual size"),
            (qcow2(), "raw", "its header is that of qcow2"),
            (qcow2(), "aki", "its header is that of qcow2"),
            (RAW, "qcow2", "declared qcow2"),
            (b"KDMV" + RAW, None, "VMDK"),
            (b"", None, "empty"),
        ],
    )
    def test_unsafe_images(self, context, content, declared, reason):
        with pytest.raises(UnsafeImage, match=reason):
            create(context, content, disk_format=declared)
        assert nothing_left(context)

    def test_wrong_checksum(self, context):
        with pytest.raises(Conflict, match=f"its SHA-256 is {sha256(RAW)}, not 0000"):
            create(context, expected_sha256="0" * 64)
        assert nothing_left(context)

    def test_too_large(self, context):
        (context.cloud.folder / "config.yaml").write_text("image_size_limit_gb: 0\n")
        cloud = Cloud("test", context.cloud.folder)
        with pytest.raises(Conflict, match="larger than this cloud's limit of 0 GiB"):
            create(dataclasses.replace(context, cloud=cloud))
        assert nothing_left(context)

    @pytest.mark.parametrize(
        ("error", "told"),
        [(KeyboardInterrupt(), KeyboardInterrupt), (OSError("bad sector"), ResourceFailed)],
    )
    def test_interrupted(self, context, error, told):
        with pytest.raises(told):
            service.create_image(context, NewImage("img"), Failing(error))
        assert nothing_left(context)

    def test_the_disk_breaks(self, context):
        context.cloud.images.rmdir()
        with pytest.raises(ResourceFailed, match="cannot be written"):
            create(context)

    def test_a_failing_transaction_takes_the_file_along(self, context, monkeypatch):
        def failing(*_):
            raise RuntimeError("after the file got its name")

        monkeypatch.setattr(service, "image_from", failing)
        with pytest.raises(RuntimeError):
            create(context)
        assert nothing_left(context)

    def test_the_kernel_is_looked_up_before_the_content_is_read(self, context):
        with pytest.raises(NotFound):
            service.create_image(
                context, NewImage("img", kernel="nope"), Failing(AssertionError("read"))
            )


class TestFiles:
    def test_two_images_of_one_content_share_a_file(self, context):
        one, two = create(context, name="one"), create(context, name="two")
        assert files(context) == [one.sha256]
        service.delete_image(context, "one")
        assert files(context) == [two.sha256]
        service.delete_image(context, "two")
        assert files(context) == []

    def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_are_not(self, context):
        (context.cloud.images / ".part-dead").write_bytes(b"x")
        (context.cloud.images / ("0" * 64)).write_bytes(b"x")
        (context.cloud.images / "note.txt").write_bytes(b"not ours")
        with local.received(context.cloud, [RAW], lambda done: None) as part:
            made = create(context)
            assert files(context) == sorted([part.path.name, made.sha256, "note.txt"])
        assert files(context) == sorted([made.sha256, "note.txt"])

    @pytest.mark.parametrize("word", ["../state.db", "0" * 64, "", "A" * 64, "/etc/passwd"])
    def test_only_hashes_are_files(self, context, word):
        with pytest.raises(NotFound):
            local.image_file(context.cloud, word)

    def test_everyone_at_once(self, context):
        """Creators and deleters of the same two contents: no row without its file, ever."""
        errors = []

        def work(number):
            content = RAW + bytes([number % 2])
            try:
                for turn in range(3):
                    made = create(context, content, f"{number}-{turn}")
                    assert local.image_file(context.cloud, made.sha256).read_bytes() == content
                    if turn:
                        service.delete_image(context, made.id)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert files(context) == sorted({image.sha256 for image in service.list_images(context)})


class TestListShowSetDelete:
    def test_who_sees_what(self, context):
        with write(context.cloud) as writer:
            project = {"id": new_id(), "name": "other", "created_at": now()}
            writer.insert("projects", project)
        other = dataclasses.replace(context, project_id=project["id"])
        for visibility in ("public", "private", "shared", "community"):
            create(context, RAW, visibility, visibility=visibility)
        assert len(service.list_images(context)) == 4
        assert [image.name for image in service.list_images(other)] == ["public"]
        assert service.show_image(other, "community").name == "community"
        for hidden in ("private", "shared"):
            with pytest.raises(NotFound):
                service.show_image(other, hidden)
        with pytest.raises(NotFound):
            service.delete_image(other, "public")

    def test_set(self, context):
        made = create(context, properties={"a": "1", "b": "2"})
        change = ImageChange("new", "public", 3, 4, {"a": "", "c": "3"})
        changed = service.set_image(context, "img", change).value
        expected = {"name": "new", "visibility": "public", "min_disk_gb": 3, "min_ram_mb": 4}
        properties = {"b": "2", "c": "3"}
        assert changed == dataclasses.replace(made, **expected, properties=properties)
        for bad in (ImageChange(), ImageChange(visibility="x"), ImageChange(min_disk_gb=-1)):
            with pytest.raises(UsageError):
                service.set_image(context, "new", bad)

    def test_protected(self, context):
        create(context, protected=True)
        with pytest.raises(Conflict, match="Image img is protected"):
            service.delete_image(context, "img")
        service.set_image(context, "img", ImageChange(protected=False))
        service.delete_image(context, "img")
        assert service.list_images(context) == []

    def test_deleted_for_history(self, context):
        made = create(context)
        service.delete_image(context, "img")
        with read(context.cloud) as reader:
            row = reader.get("images", made.id)
            actions = reader.column("SELECT action FROM events ORDER BY id")
        assert (row["status"], actions) == ("deleted", ["create", "delete"])

    def test_delete_rehearsed(self, context):
        create(context)
        service.delete_image(dataclasses.replace(context, dry_run=True), "img")
        assert len(files(context)) == 1
        assert len(service.list_images(context)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc/passwd",
        "ftp://example.org/x",
        "http://",
        "example.org/x",
        "http://u:p@example.org/x",
        "http://example.org:x/",
        "http://a b/",
        "http://a/\r\nHost: b",
        "http://[::1",
    ],
)
def test_addresses_that_are_refused(context, text):
    with pytest.raises(UsageError):
        service.create_image(context, NewImage("img"), Url(text))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("9.9.9.9", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:9.9.9.9", True),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::9.9.9.9", True),
        ("::127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fd00::1", False),
        ("fec0::1", False),
        ("2001::1", False),
        ("224.0.0.1", False),
        ("ff02::1", False),
        ("255.255.255.255", False),
        ("192.0.2.1", False),
        ("2620:fe::fe", True),
    ],
)
def test_what_is_public(address, public):
    assert web.is_public(address) is public


def test_properties_are_stored_as_json(context):
    made = create(context, properties={"k": "Wörf"})
    with read(context.cloud) as reader:
        assert json.loads(reader.get("images", made.id)["properties_json"]) == {"k": "Wörf"}
