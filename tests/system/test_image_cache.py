"""The caches of lab hosts: prefetch, from host to host, list, prune."""

import dataclasses
import hashlib
import io
import os

import pytest

from stackctl.compute.service import boot
from stackctl.compute.types import BootRequest, Nic
from stackctl.errors import NotFound
from stackctl.identity.context import Watch, admin_context
from stackctl.image import caching, service
from stackctl.image.types import NewImage
from stackctl.operation import exchange
from stackctl.state import Cloud

SIZE = 3 << 20


@pytest.fixture
def context(fleet):
    """The operator, of a cloud whose hosts give even small images to one another."""
    config = fleet.cloud.folder / "config.yaml"
    before = config.read_text()
    config.write_text(f"{before}image_from_hosts_mb: 1\n")
    yield admin_context(Cloud(fleet.cloud.name, fleet.cloud.folder))
    config.write_text(before)


@pytest.fixture
def image(context):
    made = service.create_image(context, NewImage("cached"), io.BytesIO(os.urandom(SIZE))).value
    yield made
    service.delete_image(context, made.id)
    caching.prune(context, ()).check()


def held(context, image):
    done = caching.list_cached(context, ())
    done.check()
    return sorted(item.host for item in done.value if item.sha256 == image.sha256)


def test_prefetch_sends_one_copy(context, image, fleet):
    sent = []
    watch = Watch(progress=lambda what, done, total: sent.append((what, done)))
    watching = dataclasses.replace(context, watch=watch)
    done = caching.prefetch(watching, "cached", ())
    done.check()
    assert [item.host for item in done.value] == ["host1", "host2"]
    copies = {what for what, _ in sent if what.startswith(f"sending image {image.sha256[:12]}")}
    assert len(copies) == 1, copies
    assert held(context, image) == ["host1", "host2"]
    for host in ("host1", "host2"):
        assert image.sha256 in fleet.images(host)
    sent.clear()
    caching.prefetch(watching, "cached", ["host1"]).check()
    assert sent == []


def test_a_giver_that_lost_the_image_is_no_hindrance(context, image, fleet):
    caching.prefetch(context, "cached", ["host1"]).check()
    fleet.inside("host1", "sh", "-c", f"rm /var/lib/stackctl/host/images/{image.sha256}")
    caching.prefetch(context, "cached", ()).check()
    assert held(context, image) == ["host1", "host2"]


def test_prune_leaves_what_disks_need(context, image, fleet):
    try:
        fleet.boot("kept", "--image", "cached", "--host", "host1")
        caching.prefetch(context, "cached", ["host2"]).check()
        rehearsal = dataclasses.replace(context, dry_run=True)
        assert [step.host for step in caching.prune(rehearsal, ()).planned].count("host2") >= 1
        assert held(context, image) == ["host1", "host2"]
        caching.prune(context, (), idle_s=3600).check()
        assert held(context, image) == ["host1", "host2"]
        caching.prune(context, (), keep_bytes=1 << 40).check()
        assert held(context, image) == ["host1", "host2"]
        caching.prune(context, ()).check()
        assert held(context, image) == ["host1"]
        (item,) = [
            item
            for item in caching.list_cached(context, ["host1"]).value
            if item.sha256 == image.sha256
        ]
        assert (item.disks, item.wanted, item.name) == (1, True, "cached")
    finally:
        fleet.delete_all()


def test_an_image_that_was_pruned_while_a_command_waited(context, image, monkeypatch, fleet):
    """What the exchange found in the cache is gone when the host lock comes: it is sent again."""
    monkeypatch.setattr(exchange, "wanted_before", lambda *_: ((), ()))
    try:
        request = BootRequest("late", "cached", "tiny", nics=(Nic(network="faults"),))
        boot(context, request).check()
    finally:
        fleet.delete_all()


def test_a_server_from_an_image_in_another_store(context, fleet, tmp_path):
    """Fetched to the controller, checked, sent; what is altered there goes to no host."""
    config = context.cloud.folder / "config.yaml"
    before = config.read_text()
    config.write_text(f"{before}stores: {{nas: {{kind: file, folder: {tmp_path}}}}}\n")
    content = os.urandom(1 << 20)
    (tmp_path / "a.raw").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        fleet.run("image-create", "far", "--file", str(tmp_path / "a.raw"), "--store", "nas")
        (tmp_path / sha256).write_bytes(b"X" + content[1:])
        failed = fleet.boot("far", "--image", "far", "--host", "host1", exit=30)
        assert "the store nas gave 1048576 bytes with the SHA-256" in failed.err
        assert sha256 not in fleet.images("host1")
        assert sha256 not in [path.name for path in context.cloud.images.iterdir()]
        fleet.run("delete", "far", "--yes")
        (tmp_path / sha256).write_bytes(content)
        fleet.boot("far", "--image", "far", "--host", "host1")
        assert fleet.statuses() == {"far": "ACTIVE"}
        assert sha256 in fleet.images("host1")
        fleet.run("image-deactivate", "far")
        refused = fleet.boot("again", "--image", "far", exit=4)
        assert "Image far is not active." in refused.err
    finally:
        fleet.delete_all()
        fleet.run("image-delete", "far", "--yes")
        assert not (tmp_path / sha256).exists()
        fleet.run("image-prune")
        config.write_text(before)


def test_who_is_not_there(context, image):
    with pytest.raises(NotFound):
        caching.prefetch(context, "cached", ["host9"])
    with pytest.raises(NotFound):
        caching.prefetch(context, "nothing", ())
