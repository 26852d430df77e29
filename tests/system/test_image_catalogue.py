"""The distributions' images, from a web server that stands where the catalogue points."""

import hashlib

import pytest
import yaml

from stackctl.errors import Conflict, NotFound, ResourceFailed, UsageError
from stackctl.identity.bootstrap import create_cloud
from stackctl.identity.context import admin_context
from stackctl.image import catalogue, service
from stackctl.image.types import NewImage
from stackctl.state import Cloud, find_cloud
from tests.system.test_image_stores import stackctl
from tests.system.test_images import CONTENT, SHA256, nothing_left, serving

SHA512 = hashlib.sha512(CONTENT).hexdigest()
FILE = "distro-1-amd64.qcow2"


@pytest.fixture
def context(clouds):
    cloud = find_cloud("default")
    create_cloud(cloud)
    return admin_context(cloud)


def listed(context, url, **more):
    """A cloud whose catalogue has one image, published at ``url``."""
    entry = {"url": f"{url}/{FILE}", "sums": f"{url}/SUMS", "min_disk": 3, "min_ram": 256}
    entry["properties"] = {"os_distro": "distro", "os_version": 1}
    folder = context.cloud.folder
    (folder / "catalogue.yaml").write_text(yaml.safe_dump({"distro-1": {**entry, **more}}))
    (folder / "config.yaml").write_text("image_catalogue: catalogue.yaml\n")
    return admin_context(Cloud("default", folder))


def create(context, name="distro-1", **more):
    wanted, source = catalogue.from_catalogue(context, name, NewImage(name, **more))
    return service.create_image(context, wanted, source).value


@pytest.mark.parametrize(
    "sums",
    [
        f"{SHA256}  {FILE}\n",
        f"{'0' * 64}  other\n{SHA256} *{FILE}\n",
        f"# {FILE}: 12 bytes\nSHA256 ({FILE}) = {SHA256}\n",
        f"{SHA512}  {FILE}\n{'1' * 128}  x{FILE}\n",
        f"SHA512 ({FILE}) = {SHA512.upper()}\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\n\n{SHA256}  ./{FILE}\n-----BEGIN PGP SIGNATURE-----",
    ],
)
def test_files_of_checksums(context, sums):
    routes = {f"/{FILE}": (200, {}, CONTENT), "/SUMS": (200, {}, sums.encode())}
    with serving(routes) as (_, url):
        made = create(listed(context, url))
    assert (made.sha256, made.status) == (SHA256, "active")
    assert (made.min_disk_gb, made.min_ram_mb) == (3, 256)
    assert made.properties == {"os_distro": "distro", "os_version": "1"}
    assert made.source_url == f"{url}/{FILE}"


@pytest.mark.parametrize(
    ("sums", "error", "words", "asked"),
    [
        ((200, {}, f"{'0' * 64}  {FILE}".encode()), Conflict, "is not the one expected", 2),
        ((200, {}, f"{SHA256}  another".encode()), ResourceFailed, "has no checksum of", 1),
        ((200, {}, b"<html>not here</html>"), ResourceFailed, "has no checksum of", 1),
        ((404, {}, b""), NotFound, "HTTP 404", 1),
        ((200, {}, b"x" * (2 << 20)), Conflict, "limit is", 1),
        ((200, {"Content-Length": None}, b"x" * (2 << 20)), ResourceFailed, "too long", 1),
    ],
)
def test_nothing_is_fetched_or_kept_without_the_right_checksum(context, sums, error, words, asked):
    with serving({f"/{FILE}": (200, {}, CONTENT), "/SUMS": sums}) as (server, url):
        with pytest.raises(error, match=words):
            create(listed(context, url))
        assert len(server.asked) == asked
    assert nothing_left(context)


def test_what_is_given_counts_more(context):
    routes = {f"/{FILE}": (200, {}, CONTENT)}
    routes["/SUMS"] = (200, {}, f"{SHA256}  {FILE}".encode())
    with serving(routes) as (_, url):
        more = {"min_disk_gb": 9, "min_ram_mb": 999, "properties": {"os_version": "2"}}
        made = create(listed(context, url), **more)
    assert (made.min_disk_gb, made.min_ram_mb) == (9, 999)
    assert made.properties == {"os_distro": "distro", "os_version": "2"}


def test_as_typed(context):
    routes = {f"/{FILE}": (200, {}, CONTENT)}
    routes["/SUMS"] = (200, {}, f"{SHA256}  {FILE}".encode())
    with serving(routes) as (server, url):
        listed(context, url)
        shown = stackctl("image-catalogue", "-f", "value", "-c", "Name", "-c", "URL")
        assert shown.stdout == f"distro-1 {url}/{FILE}\n"
        made = stackctl("image-create", "distro-1", "-f", "value", "-c", "SHA256", "-c", "Name")
        assert made.stdout.split() == [SHA256, "distro-1"]
        other = stackctl("image-create", "mine", "--from", "distro-1")
        assert other.returncode == 0, other.stderr
        asked = len(server.asked)
        queued = stackctl("image-create", "distro-1", "--empty", "-f", "value", "-c", "Status")
        assert queued.stdout == "queued\n"
        assert stackctl("image-create", "x", "--from", "distro-2").returncode == 3
        assert len(server.asked) == asked
    assert {image.name for image in service.list_images(context)} == {"distro-1", "mine"}


def test_the_catalogue_that_comes_along(context):
    entries = catalogue.published(context.cloud)
    assert {"debian-12", "ubuntu-24.04"} <= {entry.name for entry in entries}
    for entry in entries:
        assert entry.url.startswith("https://")
        assert entry.sums.startswith("https://")
        assert entry.properties["os_distro"] == entry.name.rpartition("-")[0].split("-")[0]


@pytest.mark.parametrize(
    "text", ["- a list", "a: text", "a: {url: http://x/y}", "a: {url: 'file:///x', sums: 'h'}", "["]
)
def test_catalogues_that_make_no_sense(context, text):
    listed(context, "http://127.0.0.1:9")
    (context.cloud.folder / "catalogue.yaml").write_text(text)
    with pytest.raises(UsageError):
        catalogue.published(Cloud("default", context.cloud.folder))
