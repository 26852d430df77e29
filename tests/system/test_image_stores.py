"""Contents of images in a real Swift, by its own API and by S3's, and in a folder."""

import dataclasses
import hashlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stackctl.errors import Conflict, NotFound, ResourceFailed, UnsafeImage, UsageError
from stackctl.identity.bootstrap import create_cloud
from stackctl.identity.context import Watch, admin_context
from stackctl.image import copying, placing, service, uploading
from stackctl.image.types import NewImage, Url
from stackctl.operation.exchange import open_image
from stackctl.state import Cloud, find_cloud, read
from stackctl.stores import open_store, registry, s3, swift
from tests.objectstore import KEY, USER, object_store
from tests.system.test_images import serving

ROOT = Path(__file__).parents[2]
CONTENT = b"a kernel, or a disk without a table" * 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
KINDS = ("folder", "swift", "s3")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("swift")) as running:
        yield running


@pytest.fixture
def context(server, clouds, tmp_path):
    """A cloud with a store of each kind, a container and bucket of its own."""
    cloud = find_cloud("default")
    create_cloud(cloud)
    stores = server.settings(tmp_path.name.replace("_", "-").lower())
    (tmp_path / "nas").mkdir()
    stores["folder"] = {"kind": "file", "folder": str(tmp_path / "nas")}
    for name, secrets in (
        ("swift", {"user": USER, "key": KEY}),
        ("s3", {"access_key": USER, "secret_key": KEY}),
    ):
        stores[name]["credentials"] = f"{name}.yaml"
        file = cloud.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(secrets))
        file.chmod(0o600)
    configure(cloud, stores=stores)
    cloud = find_cloud("default")
    bucket = stores["s3"]["bucket"]
    s3_client(cloud).create_bucket(Bucket=bucket)
    return admin_context(cloud)


def configure(cloud, **settings):
    path = cloud.folder / "config.yaml"
    known = yaml.safe_load(path.read_text()) if path.exists() else {}
    path.write_text(yaml.safe_dump({**known, **settings}))


def s3_client(cloud):
    return open_store(cloud, "s3")._client


def create(context, name="img", content=CONTENT, **more):
    return service.create_image(context, NewImage(name, **more), io.BytesIO(content)).value


def files(context):
    return sorted(path.name for path in context.cloud.images.iterdir())


def has(context, store, sha256=SHA256):
    return open_store(context.cloud, store).exists(sha256)


def announced(context):
    with read(context.cloud) as reader:
        return reader.column("SELECT sha256 FROM image_objects")


def content(context, sha256=SHA256):
    with open_image(context, sha256) as stream:
        return stream.read()


@pytest.mark.parametrize("store", KINDS)
class TestEveryStore:
    def test_a_content_is_there_and_not_here(self, context, store):
        made = create(context, store=store)
        assert made.stores == (store,)
        assert has(context, store)
        assert files(context) == []
        assert content(context) == CONTENT

    def test_what_hosts_ask_for_is_fetched_once_and_swept_later(self, context, store):
        create(context, store=store)
        assert content(context) == CONTENT
        assert files(context) == [SHA256]
        open_store(context.cloud, store).delete(SHA256)
        assert content(context) == CONTENT
        create(context, "other", b"another one")
        assert SHA256 not in files(context)

    def test_a_missing_object(self, context, store):
        create(context, store=store)
        open_store(context.cloud, store).delete(SHA256)
        with pytest.raises(ResourceFailed, match=rf"cannot be read: The store {store} does not"):
            content(context)
        assert files(context) == []

    @pytest.mark.parametrize(
        ("altered", "words"),
        [
            (CONTENT[:-1], f"gave {len(CONTENT) - 1} bytes"),
            (b"", "gave 0 bytes"),
            (CONTENT + b"x", "gives more than"),
            (b"X" + CONTENT[1:], "with the SHA-256"),
        ],
    )
    def test_an_altered_object(self, context, store, altered, words):
        create(context, store=store)
        open_store(context.cloud, store).put(SHA256, io.BytesIO(altered), len(altered))
        with pytest.raises(ResourceFailed, match=words):
            content(context)
        with pytest.raises(ResourceFailed, match=words):
            copying.save_image(context, "img", io.BytesIO())
        with pytest.raises(ResourceFailed, match=words):
            copying.copy_image(context, "img", "local")
        assert files(context) == []
        assert service.show_image(context, "img").stores == (store,)

    def test_another_store_helps(self, context, store):
        create(context, store=store)
        copying.copy_image(context, "img", "local")
        open_store(context.cloud, store).delete(SHA256)
        assert content(context) == CONTENT
        other = next(kind for kind in KINDS if kind != store)
        made = copying.copy_image(context, "img", other).value
        assert set(made.stores) == {store, "local", other}
        copying.remove_copy(context, "img", "local")
        assert files(context) == []
        assert content(context) == CONTENT

    def test_to_and_fro(self, context, store):
        create(context)
        copying.copy_image(context, "img", store)
        with pytest.raises(Conflict, match=f"is in the store {store} already"):
            copying.copy_image(context, "img", store)
        copying.remove_copy(context, "img", "local")
        with pytest.raises(Conflict, match=f"is in the store {store} only"):
            copying.remove_copy(context, "img", store)
        copying.copy_image(context, "img", "local")
        copying.remove_copy(context, "img", store)
        assert not has(context, store)
        assert (service.show_image(context, "img").stores, files(context)) == (
            ("local",),
            [SHA256],
        )

    def test_two_images_of_one_content_share_an_object(self, context, store):
        create(context, "one", store=store)
        create(context, "two", store=store)
        service.delete_image(context, "one")
        assert has(context, store)
        service.delete_image(context, "two")
        assert not has(context, store)
        assert announced(context) == []

    def test_an_upload_to_a_store(self, context, store):
        service.create_image(context, NewImage("later"))
        upload = uploading.Upload(store, SHA256)
        done = uploading.upload_image(context, "later", io.BytesIO(CONTENT), upload)
        assert (done.value.status, done.value.stores) == ("active", (store,))
        assert has(context, store)

    def test_the_default_store(self, context, store):
        configure(context.cloud, default_store=store)
        context = dataclasses.replace(context, cloud=Cloud("default", context.cloud.folder))
        assert create(context).stores == (store,)

    def test_a_rehearsal_puts_nothing(self, context, store):
        rehearsal = dataclasses.replace(context, dry_run=True)
        create(rehearsal, store=store)
        assert not has(context, store)
        assert announced(context) == []

    def test_an_unsafe_image_never_gets_there(self, context, store):
        with pytest.raises(UnsafeImage):
            create(context, content=b"KDMV" + CONTENT, store=store)
        assert announced(context) == []

    def test_a_failing_transaction_takes_the_object_along(self, context, store, monkeypatch):
        def failing(*_):
            raise RuntimeError("after the object got its place")

        monkeypatch.setattr(service, "image_from", failing)
        with pytest.raises(RuntimeError):
            create(context, store=store)
        assert not has(context, store)
        assert announced(context) == []


def test_contents_in_segments(context, monkeypatch):
    monkeypatch.setattr(swift, "SEGMENT_BYTES", 1_000_000)
    monkeypatch.setattr(s3, "PART_BYTES", 1_000_000)
    create(context, store="swift")
    copying.copy_image(context, "img", "s3")
    client = open_store(context.cloud, "swift")._client
    segments = f"{open_store(context.cloud, 'swift')._container}_segments"
    assert len(client.get_container(segments)[1]) == 4
    assert content(context) == CONTENT
    copying.remove_copy(context, "img", "swift")
    assert client.get_container(segments)[1] == []
    client.close()
    create(context, "other", b"sweeps")
    assert content(context) == CONTENT


def test_a_content_that_stays_on_the_web(context):
    with serving({"/a": (200, {}, CONTENT)}) as (asked, url):
        wanted = NewImage("img", store="http")
        made = service.create_image(context, wanted, Url(f"{url}/a", host_fetch=True)).value
        assert made.host_may_fetch
        assert (made.stores, files(context)) == (("http",), [])
        assert content(context) == CONTENT
        copying.copy_image(context, "img", "s3")
    assert len(asked.asked) == 2
    assert not copying.remove_copy(context, "img", "http").value.host_may_fetch
    assert content(context) == CONTENT
    for word, store in (("img", "http"), ("img", "nowhere")):
        with pytest.raises((Conflict, NotFound)):
            copying.copy_image(context, word, store)
    with pytest.raises(Conflict, match="it needs --url"):
        create(context, "second", store="http")


@pytest.mark.parametrize("body", [None, CONTENT[:-1], b"X" + CONTENT[1:], CONTENT + b"x"])
def test_a_content_that_changed_on_the_web(context, body):
    routes = {"/a": (200, {}, CONTENT)}
    with serving(routes) as (_, url):
        service.create_image(context, NewImage("img", store="http"), Url(f"{url}/a"))
        routes["/a"] = (404, {}, b"") if body is None else (200, {}, body)
        with pytest.raises(ResourceFailed, match=f"SHA-256 {SHA256} cannot be read"):
            content(context)
    assert files(context) == []


@pytest.mark.parametrize("store", ["swift", "s3"])
class TestTrouble:
    def test_a_wrong_key(self, context, store, monkeypatch):
        secret = {"swift": "STACKCTL_STORE_SWIFT_KEY", "s3": "STACKCTL_STORE_S3_SECRET_KEY"}
        monkeypatch.setenv(secret[store], "not-the-key")
        with pytest.raises(ResourceFailed, match=f"The store {store} .* failed") as caught:
            create(context, store=store)
        assert "not-the-key" not in str(caught.value)
        monkeypatch.delenv(secret[store])
        with read(context.cloud) as reader:
            assert reader.value("SELECT count(*) FROM images") == 0
        placing.sweep(context)
        assert announced(context) == []

    def test_a_file_of_secrets_that_is_open_to_others(self, context, store):
        file = context.cloud.folder / f"{store}.yaml"
        file.chmod(0o640)
        with pytest.raises(UsageError, match="is open to others"):
            create(context, store=store)

    def test_a_store_that_is_down_while_an_image_is_deleted(self, context, store, tmp_path):
        create(context, store=store)
        place = registry.settings(context.cloud, store)
        address = {"swift": "auth_url", "s3": "endpoint"}[store]
        configured = context.cloud.config["stores"]
        there = configured[store][address]
        configured[store][address] = "http://127.0.0.1:9/"
        warnings = []
        watching = dataclasses.replace(context, watch=Watch(warn=warnings.append))
        service.delete_image(watching, "img")
        assert len(warnings) == 1
        assert "stays there until a later command" in warnings[0]
        assert (announced(context), place.kind) == ([SHA256], store)
        configured[store][address] = there
        assert has(context, store)
        create(context, "other", b"another one")
        service.delete_image(context, "other")
        assert not has(context, store)
        assert announced(context) == []


def stackctl(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "stackctl", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("store", ["swift", "s3"])
def test_killed_at_every_step(context, store, tmp_path):
    """Whenever it dies, a row has its content; the next command removes what nobody has."""
    path, counted = tmp_path / "a.raw", tmp_path / "points"
    path.write_bytes(CONTENT)
    words = ("image-create", "i", "--file", str(path), "--store", store)
    assert stackctl(*words, STACKCTL_KILL_COUNT_FILE=str(counted)).returncode == 0
    points = counted.read_text().split()[1::2]
    assert {"object-announced", "object-put", "after-commit"} <= set(points)
    assert stackctl("image-delete", "i").returncode == 0
    for number in range(1, len(points) + 1):
        died = stackctl(*words, STACKCTL_KILL_AT=str(number))
        assert died.returncode == -signal.SIGKILL, points[number - 1]
        for image in service.list_images(context):
            assert content(context) == CONTENT
            service.delete_image(context, image.id)
        create(context, "other", b"another one")
        service.delete_image(context, "other")
        assert not has(context, store), points[number - 1]
        assert (files(context), announced(context)) == ([], [])


def test_no_process_shows_a_secret(context):
    """What opens a store stands in no argument and in no message."""
    done = stackctl("image-create", "i", "--file", "-", "--store", "s3", "--debug")
    assert done.returncode == 31  # nothing came on standard input
    assert KEY not in done.stdout + done.stderr
    assert KEY not in repr(registry.settings(context.cloud, "s3"))
