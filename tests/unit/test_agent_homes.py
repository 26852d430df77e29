"""Homes of volumes on a host: shared folders, NFS, storage pools; and the backends they are of."""

from __future__ import annotations

import io
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from agent import inspection, store
from agent.faults import StepFailed
from agent.resources import backend, domain, domain_inputs, home_pool, volume
from agent.resources.base import Host
from agent.resources.disk_source import Source
from agent.resources.domain_xml import VolumeInput, compile_domain, describe, volume_xml
from agent.resources.home import home_of
from agent.spec import Attachment, Backend, Tombstone, Volume
from agent.system import libvirt_conn, libvirt_pools, nfs, qemu_img
from agent.system.libvirt_conn import LibvirtError
from agent.system.libvirt_pools import PoolView, VolumeView
from tests.unit.test_agent_domain import INPUT, MARK, SERVER, SPEC, existing

ID, OTHER = (f"{digit * 8}-2222-4222-8222-222222222222" for digit in "45")
PLACE_ID = "99999999-2222-4222-8222-222222222222"
MIB = 1 << 20
DATA = Volume(ID, 3, "qcow2", 4 * MIB, True, backend_id=PLACE_ID)


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setattr(libvirt_conn, "running", lambda wanted: {})
    data = tmp_path / "data"
    data.mkdir()
    return Host(data, "boot", "boot", lambda sha256: b"")


def spec_of(driver, location, *, volumes=(DATA,), shared=True, **more):
    place = Backend(PLACE_ID, 1, driver, location, shared, **more)
    return replace(SPEC, volumes=volumes, servers=(), backends=(place,))


def in_folder(tmp_path, **more):
    return spec_of("folder", str(tmp_path / "share"), **more)


def applied(kind, host, spec):
    host.failed.clear()
    host.seen.clear()
    done = []
    for step in kind.changes(host, spec):
        facts = step.apply() if step.apply is not None else step.facts
        done.append((step.result, facts))
    return done


# --- backends -----------------------------------------------------------------------------------


def test_the_place_in_a_shared_folder_is_made_by_the_one_that_is_told_to(host, tmp_path):
    """A host whose mount is missing must never make volumes below it."""
    look = in_folder(tmp_path)
    ((result, facts),) = applied(backend.KIND, host, look)
    assert (result, facts["usable"]) == ("unchanged", False)
    assert "share is not there: is the shared file system mounted?" in facts["why"]
    assert (backend.KIND.name, PLACE_ID) in host.failed
    (tmp_path / "share").mkdir()
    ((_, facts),) = applied(backend.KIND, host, look)
    assert "lacks this cloud's folder" in facts["why"]
    ((result, facts),) = applied(backend.KIND, host, in_folder(tmp_path, claim=True))
    assert (result, facts["usable"]) == ("made", True)
    assert facts["total_gb"] >= facts["free_gb"] >= 0
    assert [path.name for path in (tmp_path / "share").iterdir()] == [f"stackctl-{SPEC.cloud_id}"]
    for spec in (look, in_folder(tmp_path, claim=True)):
        ((result, facts),) = applied(backend.KIND, host, spec)
        assert (result, facts["usable"]) == ("unchanged", True)


def test_a_place_that_nothing_here_needs_is_not_looked_at_unless_asked(host, tmp_path):
    assert applied(backend.KIND, host, in_folder(tmp_path, volumes=())) == []
    assert len(applied(backend.KIND, host, in_folder(tmp_path, volumes=(), look=True))) == 1


def test_a_claim_without_a_mount_fails(host, tmp_path):
    (step,) = backend.KIND.changes(host, in_folder(tmp_path, claim=True))
    with pytest.raises(StepFailed, match="is not there: is the shared file system mounted"):
        step.apply()
    assert not (tmp_path / "share").exists()


def test_an_unknown_driver_is_no_place(host):
    ((_, facts),) = applied(backend.KIND, host, spec_of("tape", "x"))
    assert facts["why"] == "unknown driver of volumes: 'tape'"


def test_nothing_is_made_in_a_place_that_is_not_there(host, tmp_path):
    spec = in_folder(tmp_path)
    applied(backend.KIND, host, spec)
    (step,) = volume.KIND.changes(host, spec)
    assert (step.result, step.apply) == ("failed", None)
    assert step.fault.message.startswith("not tried: ")
    assert "is the shared file system mounted" in step.fault.message
    stone = Tombstone("volume", ID, 0, PLACE_ID)
    (step,) = volume.KIND.removals(host, replace(spec, volumes=(), tombstones=(stone,)))
    assert (step.result, step.apply) == ("failed", None)


# --- a shared folder ----------------------------------------------------------------------------


@pytest.fixture
def shared(host, tmp_path):
    (tmp_path / "share").mkdir()
    applied(backend.KIND, host, in_folder(tmp_path, claim=True))
    return tmp_path / "share" / f"stackctl-{SPEC.cloud_id}"


def test_volumes_in_a_shared_folder(host, tmp_path, shared):
    spec = in_folder(tmp_path)
    (step,) = volume.KIND.changes(host, spec)
    assert step.apply() == {"used_by": []}
    path = shared / f"{ID}.qcow2"
    assert inspection.virtual_size_bytes(path, "qcow2") == 4 * MIB
    assert not (host.data / "volumes").exists()
    grown = replace(spec, volumes=(replace(DATA, build=False, size_bytes=8 * MIB),))
    assert applied(volume.KIND, host, grown) == [("changed", {"used_by": []})]
    assert inspection.virtual_size_bytes(path, "qcow2") == 8 * MIB
    # What is another host's to know is no stranger.
    assert applied(volume.KIND, host, replace(spec, volumes=())) == []
    stone = Tombstone("volume", ID, 0, PLACE_ID)
    (step,) = volume.KIND.removals(host, replace(spec, volumes=(), tombstones=(stone,)))
    step.apply()
    assert list(shared.iterdir()) == []


def test_a_server_gets_its_file_there(host, tmp_path, shared):
    server = replace(SERVER, volumes=(Attachment(ID, "vdb"),))
    spec = replace(in_folder(tmp_path), servers=(server,))
    (found,) = domain_inputs.volumes_of(host, spec, server)
    path = str(shared / f"{ID}.qcow2")
    assert found == VolumeInput(path, "qcow2", ID, "vdb", cache="none")
    check_read_back(found)


def test_a_copy_may_be_in_another_place_than_its_origin(host, tmp_path, shared):
    origin = Volume(OTHER, 1, "qcow2", 4 * MIB, True)
    spec = in_folder(tmp_path, volumes=(origin,))
    applied(volume.KIND, host, spec)
    path = host.data / "volumes" / f"{OTHER}.qcow2"
    argv = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 65536", str(path)]
    subprocess.run(argv, check=True, capture_output=True)
    spec = replace(spec, volumes=(origin, replace(DATA, source_id=OTHER)))
    ((_, facts), (result, copied)) = applied(volume.KIND, host, spec)
    assert (facts["used_by"], result, copied["consistency"]) == ([], "made", "at-rest")
    argv = ["qemu-io", "-f", "qcow2", "-c", "read -P 7 0 65536", str(shared / f"{ID}.qcow2")]
    assert b"failed" not in subprocess.run(argv, check=True, capture_output=True).stdout


# --- held ---------------------------------------------------------------------------------------


def test_what_is_held_is_not_tried_and_nothing_that_needs_it(host):
    held = replace(DATA, backend_id=None, held=True)
    server = replace(SERVER, volumes=(Attachment(ID, "vdb"),))
    spec = replace(SPEC, volumes=(held,), servers=(server,))
    (step,) = volume.KIND.changes(host, spec)
    assert (step.result, step.apply) == ("held", None)
    assert domain_inputs.missing_needs(host, spec, server) == f"volume {ID} failed"


# --- NFS ----------------------------------------------------------------------------------------


class FakeMount:
    """An export whose files are those of a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _path(self, path):
        return self._root / path.lstrip("/")

    def size_bytes(self, path):
        found = self._path(path)
        return found.stat().st_size if found.exists() else None

    def head(self, path):
        return io.BytesIO(self._path(path).read_bytes()[: nfs.HEADER_BYTES])

    def make_folder(self, path):
        self._path(path).mkdir(exist_ok=True)

    def rename(self, path, to):
        self._path(path).rename(self._path(to))

    def remove(self, path):
        there = self._path(path).exists()
        self._path(path).unlink(missing_ok=True)
        return there

    def free_bytes(self):
        return 10 << 30, 20 << 30


@pytest.fixture
def export(tmp_path, monkeypatch):
    """An export nas:/vol; qemu-img is led to the same files."""
    root = tmp_path / "export"
    root.mkdir()

    @contextmanager
    def mounted(server, path):
        if server != "nas":
            raise nfs.NfsError(5, f"{server}:{path}: no route to host")
        assert path == "/vol"
        yield FakeMount(root)

    def run(argv, **more):
        local = [word.replace("nfs://nas/vol", str(root)).partition("?uid")[0] for word in argv]
        subprocess.run(local, check=True, capture_output=True)
        return ""

    monkeypatch.setattr(nfs, "mounted", mounted)
    monkeypatch.setattr(qemu_img, "run", run)
    monkeypatch.setattr(qemu_img, "has_driver", lambda name: True)
    return root


NAS = spec_of("nfs", "nas:/vol")


def test_volumes_of_an_nfs_server(host, export):
    ((_, facts),) = applied(backend.KIND, host, NAS)
    assert facts["why"] == "nas:/vol lacks this cloud's folder"
    claiming = replace(NAS, backends=(replace(NAS.backends[0], claim=True),))
    ((result, facts),) = applied(backend.KIND, host, claiming)
    assert (result, facts) == ("made", {"usable": True, "free_gb": 10, "total_gb": 20})
    assert applied(volume.KIND, host, NAS) == [("made", {"used_by": []})]
    path = export / f"stackctl-{SPEC.cloud_id}" / f"{ID}.qcow2"
    assert inspection.virtual_size_bytes(path, "qcow2") == 4 * MIB
    grown = replace(NAS, volumes=(replace(DATA, build=False, size_bytes=8 * MIB),))
    assert [each[0] for each in applied(volume.KIND, host, grown)] == ["changed"]
    assert inspection.virtual_size_bytes(path, "qcow2") == 8 * MIB
    (path.parent / f".{ID}.qcow2.part").touch()
    stone = Tombstone("volume", ID, 0, PLACE_ID)
    (step,) = volume.KIND.removals(host, replace(NAS, volumes=(), tombstones=(stone,)))
    step.apply()
    assert list(path.parent.iterdir()) == []


def test_a_server_that_does_not_answer_is_told_in_its_words(host, export):
    ((_, facts),) = applied(backend.KIND, host, spec_of("nfs", "gone:/vol"))
    assert "gone:/vol: no route to host" in facts["why"]


def test_qemu_without_its_driver_has_no_place_there(host, export, monkeypatch):
    monkeypatch.setattr(qemu_img, "has_driver", lambda name: False)
    (export / f"stackctl-{SPEC.cloud_id}").mkdir()
    ((_, facts),) = applied(backend.KIND, host, NAS)
    assert facts["why"] == "qemu on this host lacks its NFS driver (qemu-block-extra)"


def test_a_guest_reaches_it_by_qemus_own_client(host, export):
    found = home_of(host, NAS, PLACE_ID).plugged(DATA, "vdb")
    path = f"/vol/stackctl-{SPEC.cloud_id}/{ID}.qcow2"
    source = Source("nfs", path, hosts=("nas",))
    assert found == VolumeInput("", "qcow2", ID, "vdb", source, "none")
    image = home_of(host, NAS, PLACE_ID).image(DATA)
    assert image.name == f"nfs://nas{path}?uid=0&gid=0"
    check_read_back(found)


# --- storage pools ------------------------------------------------------------------------------

DIR_POOL = "<pool type='dir'><name>p</name><target><path>/p</path></target></pool>"
LVM_POOL = "<pool type='logical'><name>p</name><source><name>vg0</name></source></pool>"
RBD_POOL = """
<pool type='rbd'><name>p</name><source>
  <host name='mon1' port='6789'/><host name='mon2'/>
  <name>cinder</name>
  <auth type='ceph' username='libvirt'><secret uuid='2ec115d7-3a88-3ceb-bc12-0ac909a6fd87'/></auth>
</source></pool>
"""


class FakePool:
    """One pool as libvirt keeps it."""

    def __init__(self, xml: str) -> None:
        self.view = PoolView("p", True, xml, 5 << 30, 9 << 30)
        self.volumes: dict[str, VolumeView] = {}
        self.said: list[str] = []

    def pool(self, name):
        return self.view if name == "p" else None

    def names(self, pool):
        return list(self.volumes)

    def volume(self, pool, name):
        return self.volumes.get(name)

    def create(self, pool, xml):
        root = ElementTree.fromstring(xml)
        name, size = root.findtext("name"), int(root.findtext("capacity"))
        assert name not in self.volumes
        self.said.append(f"create {name} {root.findtext('allocation')}")
        self.volumes[name] = VolumeView(name, f"/p/{name}", size)

    def resize(self, pool, name, size_bytes):
        self.volumes[name] = replace(self.volumes[name], size_bytes=size_bytes)

    def delete(self, pool, name, *, wipe):
        self.said.append(f"delete {name}{' wiped' if wipe else ''}")
        self.volumes.pop(name, None)


@pytest.fixture(params=["dir", "logical", "rbd"])
def pool(request, monkeypatch):
    monkeypatch.setattr(qemu_img, "has_driver", lambda name: True)
    made = FakePool({"dir": DIR_POOL, "logical": LVM_POOL, "rbd": RBD_POOL}[request.param])
    for name in ("pool", "names", "volume", "create", "resize", "delete"):
        monkeypatch.setattr(libvirt_pools, name, getattr(made, name))
    return made


def of_pool(pool, **more):
    wanted = "qcow2" if "'dir'" in pool.view.xml else "raw"
    return spec_of("pool", "p", volumes=(replace(DATA, format=wanted),), **more)


def test_volumes_of_a_pool(host, pool):
    spec = of_pool(pool, claim=True)
    ((result, facts),) = applied(backend.KIND, host, spec)
    assert (result, facts) == ("made", {"usable": True, "free_gb": 5, "total_gb": 9})
    assert applied(volume.KIND, host, spec) == [("made", {"used_by": []})]
    name = f"sc-{ID}"
    assert pool.volumes[name].size_bytes == 4 * MIB
    larger = replace(spec.volumes[0], build=False, size_bytes=8 * MIB)
    assert [each[0] for each in applied(volume.KIND, host, replace(spec, volumes=(larger,)))] == [
        "changed"
    ]
    assert pool.volumes[name].size_bytes == 8 * MIB
    stone = Tombstone("volume", ID, 0, PLACE_ID)
    (step,) = volume.KIND.removals(host, replace(spec, volumes=(), tombstones=(stone,)))
    step.apply()
    assert list(pool.volumes) == [f"stackctl-{SPEC.cloud_id}"]
    thick = "'logical'" in pool.view.xml
    # The next volume there must not begin with the content of this one.
    assert pool.said[-1] == f"delete {name}{' wiped' if thick else ''}"
    assert pool.said[-2] == f"create {name} {4 * MIB if thick else 0}"


def test_a_pool_that_lacks_the_claim_is_another_one(host, pool):
    ((_, facts),) = applied(backend.KIND, host, of_pool(pool))
    assert "it is not the one that other hosts share" in facts["why"]
    assert applied(backend.KIND, host, of_pool(pool, shared=False)) == [
        ("unchanged", {"usable": True, "free_gb": 5, "total_gb": 9})
    ]


def test_what_was_not_filled_is_not_there(host, pool):
    """Killed between making it and filling it."""
    spec = of_pool(pool, shared=False)
    pool.volumes[f"sc-{ID}"] = VolumeView(f"sc-{ID}", "/p/x", 4 * MIB)
    store.mark_pending(host.data, f"filling-{ID}")
    assert applied(volume.KIND, host, spec) == [("made", {"used_by": []})]
    assert pool.said == [f"delete sc-{ID}", pool.said[1]]
    assert not store.is_pending(host.data, f"filling-{ID}")
    assert [each[0] for each in applied(volume.KIND, host, spec)] == ["unchanged"]


def test_what_could_not_be_filled_leaves_nothing(host, pool, monkeypatch):
    spec = of_pool(pool, shared=False)
    origin = Volume(OTHER, 1, "qcow2", MIB, False)
    spec = replace(spec, volumes=(origin, replace(spec.volumes[0], source_id=OTHER)))
    (host.data / "volumes").mkdir()
    qemu_img.create(home_of(host, spec, None).image(origin), MIB)

    def full(source, target):
        raise LibvirtError("No space left on device")

    monkeypatch.setattr(qemu_img, "copy_into", full)
    steps = {step.id: step for step in volume.KIND.changes(host, spec)}
    with pytest.raises(LibvirtError, match="No space"):
        steps[ID].apply()
    assert pool.volumes == {}
    assert not store.is_pending(host.data, f"filling-{ID}")


def test_the_formats_of_a_pool_are_those_of_its_type(host, pool):
    """libvirt looks into files to see what they are, and guests write them."""
    spec = of_pool(pool, shared=False)
    other = {"qcow2": "raw", "raw": "qcow2"}[spec.volumes[0].format]
    wrong = replace(spec, volumes=(replace(spec.volumes[0], format=other),))
    (step,) = volume.KIND.changes(host, wrong)
    assert (step.result, step.apply) == ("failed", None)
    assert f"must be {spec.volumes[0].format}, not {other}" in step.fault.message


def test_volumes_of_our_kind_that_nobody_knows_are_told_of_a_hosts_own_pool(host, pool):
    spec = of_pool(pool, shared=False)
    applied(volume.KIND, host, spec)
    pool.volumes[f"sc-{OTHER}"] = VolumeView(f"sc-{OTHER}", "/p/y", MIB)
    pool.volumes["mine"] = VolumeView("mine", "/p/mine", MIB)
    assert applied(volume.KIND, host, spec)[1:] == [("orphan", {"file": f"sc-{OTHER}"})]


def test_a_ceph_pool_needs_qemus_driver(host, pool, monkeypatch):
    monkeypatch.setattr(qemu_img, "has_driver", lambda name: False)
    ((_, facts),) = applied(backend.KIND, host, of_pool(pool, shared=False))
    assert facts["usable"] is ("'rbd'" not in pool.view.xml)


@pytest.mark.parametrize("state", ["absent", "inactive"])
def test_a_pool_that_is_not_there_or_not_active(host, pool, state):
    pool.view = None if state == "absent" else replace(pool.view, active=False)
    spec = spec_of("pool", "p", shared=False)
    ((_, facts),) = applied(backend.KIND, host, spec)
    assert state == "absent" or facts["why"] == "storage pool p is not active: virsh pool-start"
    assert "storage pool p" in facts["why"]


def test_what_libvirt_is_told_of_a_pools_volume(host, pool):
    spec = of_pool(pool, shared=False)
    applied(volume.KIND, host, spec)
    home, data = home_of(host, spec, PLACE_ID), spec.volumes[0]
    found = home.plugged(data, "vdb")
    if "'rbd'" in pool.view.xml:
        secret = "2ec115d7-3a88-3ceb-bc12-0ac909a6fd87"
        source = Source("rbd", f"cinder/sc-{ID}", "", ("mon1:6789", "mon2"), "libvirt", secret)
        assert home.image(data).name == f"rbd:cinder/sc-{ID}:id=libvirt"
    else:
        source = Source("pool", f"sc-{ID}", pool="p")
        assert home.image(data).name == f"/p/sc-{ID}"
    assert found == VolumeInput("", data.format, ID, "vdb", source)
    check_read_back(found)


def check_read_back(found: VolumeInput) -> None:
    """What is in a domain's XML is what was put there, and libvirt's schema allows it."""
    xml = compile_domain(replace(INPUT, volumes=(found,)), MARK)
    assert describe(xml).volumes == (found,)
    assert found.key in describe(xml).essentials


def test_a_domain_with_such_a_volume_is_left_as_it_is(host, pool):
    spec = of_pool(pool, shared=False)
    server = replace(SERVER, volumes=(Attachment(ID, "vdb"),))
    spec = replace(spec, servers=(server,), **{name: getattr(SPEC, name) for name in KEPT})
    applied(volume.KIND, host, replace(spec, servers=()))
    view = existing(host, spec)
    platform = domain_inputs.Platform(host, spec.settings)
    change = domain.plan(host, spec, server, domain.Existing(view, describe(view.xml)), platform)
    assert change.why == ""


KEPT = ("disks", "ports", "networks", "images")

RBD_DISK = (
    '<disk type="network" device="disk"><driver name="qemu" type="raw" discard="unmap" />'
    '<source protocol="rbd" name="cinder/sc-x"><host name="mon1" port="6789" />'
    '<host name="mon2" /><auth username="libvirt"><secret type="ceph" uuid="2ec1" /></auth>'
    '</source><backingStore /><target dev="vdb" bus="virtio" />'
    f"<serial>{ID}</serial></disk>"
)


def test_the_xml_of_a_ceph_volume():
    source = Source("rbd", "cinder/sc-x", "", ("mon1:6789", "mon2"), "libvirt", "2ec1")
    assert volume_xml(VolumeInput("", "raw", ID, "vdb", source), "virtio") == RBD_DISK


def test_the_xml_of_a_new_volume():
    assert home_pool.volume_xml("dir", "sc-x", 7, "qcow2") == (
        '<volume><name>sc-x</name><capacity unit="bytes">7</capacity>'
        '<allocation unit="bytes">0</allocation><target><format type="qcow2" /></target></volume>'
    )
