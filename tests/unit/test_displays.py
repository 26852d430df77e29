"""Displays and passwords of guests: what is asked of hosts, and what is left behind of it."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import threading
import zlib
from contextlib import contextmanager

import pytest

from agent import actions, picture, relay, waiting
from agent.copies import live_copy
from agent.faults import StepFailed
from agent.resources.hardware_xml import display_socket
from agent.spec import Guest, Hardware, HostSettings, HostSpec, Power, Server
from agent.store import Store
from agent.system import libvirt_conn, sockets
from stackctl.cli import vnc
from stackctl.compute import access, passwords, service
from stackctl.errors import AgentFailed, Conflict, ResourceFailed, UsageError
from stackctl.image import service as images
from stackctl.image.types import ImageChange
from tests.builders import furnished

ID = "11111111-1111-4111-8111-111111111111"
WITH_DISPLAY = """<domain><devices><graphics type='vnc'>
<listen type='socket' socket='/run/vnc.sock'/></graphics></devices></domain>"""
WITH_AGENT = """<domain><devices><channel><target name='org.qemu.guest_agent.0'
state='connected'/></channel></devices></domain>"""


class Asked:
    """A host that remembers what it was asked, and answers as it was told."""

    def __init__(self) -> None:
        self.acts: list[tuple[str, dict]] = []
        self.answer: object = {}

    @contextmanager
    def session(self, context, host):
        yield self

    def act(self, name, arguments, timeout_s=60):
        self.acts.append((name, arguments))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def display(self, server_id, from_fd, to_fd):
        self.acts.append(("display", {"server_id": server_id}))
        os.write(to_fd, b"RFB 003.008\n")


@pytest.fixture
def host(monkeypatch):
    asked = Asked()
    monkeypatch.setattr(access, "acting_session", asked.session)
    monkeypatch.setattr(passwords, "acting_session", asked.session)
    return asked


@pytest.fixture
def one(world):
    world.add_hosts("h1")
    return furnished(world)


def test_a_server_without_a_display_is_told_how_to_get_one(one, host):
    one.booted()
    with pytest.raises(Conflict, match="Server vm has no display") as refused:
        access.require_display(one.context, "vm")
    assert "server-set vm --vnc" in refused.value.hint
    assert host.acts == []


def test_a_viewer_reaches_the_display_through_a_port_of_this_machine(one, host):
    (server,) = one.booted(vnc=True)
    listener = vnc._listening(0)
    arguments = (one.context, "vm", listener, True)
    thread = threading.Thread(target=vnc._serve, args=arguments, daemon=True)
    thread.start()
    with listener, socket.create_connection(listener.getsockname()) as viewer:
        assert viewer.recv(12) == b"RFB 003.008\n"
        thread.join(10)
    assert not thread.is_alive()
    assert host.acts == [("display", {"server_id": server.id})]


def test_a_port_that_is_taken_is_said_so():
    with vnc._listening(0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UsageError, match=f"Port {port} of this machine cannot be opened"):
            vnc._listening(port)


def test_a_picture_comes_whole_or_not_at_all(one, host):
    one.booted(vnc=True)
    host.answer = {"png": base64.b64encode(b"picture").decode()}
    assert access.screenshot(one.context, "vm") == b"picture"
    for nonsense in ({}, {"png": "%"}, {"png": None}):
        host.answer = nonsense
        with pytest.raises(AgentFailed, match="no picture"):
            access.screenshot(one.context, "vm")


def everything_kept(world) -> str:
    """All that the database says, and what else lies in the cloud's folder."""
    tables = world.column("SELECT name FROM sqlite_master WHERE type = 'table'")
    rows = [repr(world.rows(f"SELECT * FROM {table}")) for table in tables]
    files = [path for path in world.cloud.folder.rglob("*") if path.is_file()]
    return " ".join(rows) + " ".join(path.read_bytes().decode(errors="replace") for path in files)


def test_a_password_goes_to_the_host_and_nowhere_else(one, host):
    images.set_image(one.context, "cirros", ImageChange(properties={"os_admin_user": "debian"}))
    (server,) = one.booted()
    assert passwords.set_password(one.context, "vm", "s3cr3t-w0rd").value == "debian"
    secret = {"server_id": server.id, "user": "debian", "password": "s3cr3t-w0rd"}
    assert host.acts == [("set-password", secret)]
    kept = everything_kept(one)
    assert "set the password of debian" in kept
    assert "s3cr3t-w0rd" not in kept


def test_a_password_that_could_not_be_set_leaves_nothing_behind(one, host):
    one.booted()
    host.answer = ResourceFailed("set-password on host h1 failed: no agent.")
    with pytest.raises(ResourceFailed):
        passwords.set_password(one.context, "vm", "s3cr3t-w0rd")
    kept = everything_kept(one)
    assert "set the password" not in kept
    assert "s3cr3t-w0rd" not in kept
    assert one.value("SELECT count(*) FROM operations WHERE outcome = 'running'") == 0


def test_a_rehearsed_password_is_not_set(one, host):
    one.booted()
    assert passwords.set_password(one.asked(dry_run=True), "vm", "s3cr3t").value == "root"
    assert host.acts == []


def test_only_a_running_guest_gets_a_password(one, host):
    one.booted()
    service.change_power(one.context, "stop", ["vm"]).check()
    with pytest.raises(Conflict, match="Cannot 'set-password' instance vm while it is in vm_state"):
        passwords.set_password(one.context, "vm", "s3cr3t")
    assert host.acts == []


@pytest.mark.parametrize("password", ["", "a\nb", "x" * 256])
def test_a_password_that_no_guest_takes_is_refused(one, password):
    with pytest.raises(UsageError):
        passwords.set_password(one.context, "vm", password)


def test_generated_passwords_differ():
    found = {passwords.generate() for _ in range(100)}
    assert len(found) == 100
    assert {len(each) for each in found} == {16}


def test_pixels_become_a_png():
    pixels = bytes(range(18))
    png = picture.to_png(b"P6\n3 2\n255\n" + pixels)
    assert png.startswith(picture.PNG)
    assert struct.unpack(">II", png[16:24]) == (3, 2)
    length = struct.unpack(">I", png[33:37])[0]
    assert zlib.decompress(png[41 : 41 + length]) == b"\0" + pixels[:9] + b"\0" + pixels[9:]
    assert picture.to_png(png) == png


@pytest.mark.parametrize("content", [b"", b"P5\n1 1\n255\n ", b"P6\n3 2\n255\nshort"])
def test_what_is_no_picture_is_refused(content):
    with pytest.raises(StepFailed):
        picture.to_png(content)


def test_the_display_of_a_guest_is_behind_its_socket(monkeypatch, tmp_path):
    assert display_socket(WITH_DISPLAY) == "/run/vnc.sock"
    assert display_socket("<domain><devices/></domain>") is None
    monkeypatch.setattr(libvirt_conn, "state", lambda _: "SHUTDOWN")
    with pytest.raises(StepFailed, match="does not run"):
        relay.running_display(ID)
    monkeypatch.setattr(libvirt_conn, "state", lambda _: "RUNNING")
    monkeypatch.setattr(libvirt_conn, "live_xml", lambda _: "<domain/>")
    with pytest.raises(StepFailed, match="after a hard reboot"):
        relay.running_display(ID)
    monkeypatch.setattr(libvirt_conn, "live_xml", lambda _: WITH_DISPLAY)
    assert relay.running_display(ID) == "/run/vnc.sock"
    with pytest.raises(OSError, match="No such file"):
        sockets.connect_local(str(tmp_path / "none"), 1)


def test_a_guest_without_an_agent_gets_no_password(monkeypatch, tmp_path):
    monkeypatch.setattr(libvirt_conn, "live_xml", lambda _: "<domain/>")
    secret = {"server_id": ID, "user": "root", "password": "s3cr3t"}
    with pytest.raises(StepFailed, match="no qemu-guest-agent answers") as refused:
        actions.set_password(Store(tmp_path), secret, lambda: None)
    assert "s3cr3t" not in str(refused.value)


@pytest.fixture
def guest(monkeypatch, tmp_path):
    """A guest with a console log, and perhaps an agent with files."""
    log = tmp_path / "servers" / ID / "console.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"booting\n")
    state = {"xml": "<domain/>", "file": None, "error": None}

    def ask(domain_id, command, **arguments):
        if state["error"] is not None:
            raise libvirt_conn.LibvirtError(state["error"])
        if command == "guest-file-open" and state["file"] is None:
            raise libvirt_conn.LibvirtError("failed to open: No such file or directory")
        answers = {"guest-file-open": 7, "guest-file-close": {}}
        read = {"buf-b64": base64.b64encode(state["file"] or b"").decode()}
        return answers.get(command, read)

    monkeypatch.setattr(libvirt_conn, "live_xml", lambda _: state["xml"])
    monkeypatch.setattr(libvirt_conn, "ask_agent", ask)
    state["ready"] = lambda: waiting._is_set_up(Store(tmp_path), {"server_id": ID})
    state["log"] = log
    return state


def test_without_an_agent_the_console_says_that_cloud_init_has_ended(guest):
    assert not guest["ready"]()
    guest["log"].write_bytes(b"Cloud-init v. 22.4.2 finished at Thu, 26 Nov 2026. Datasource ...\n")
    assert guest["ready"]()


def test_an_agent_knows_how_cloud_init_ended(guest):
    guest["xml"] = WITH_AGENT
    guest["log"].write_bytes(b"Cloud-init v. 22.4.2 finished at Thu, 26 Nov 2026.\n")
    assert not guest["ready"]()
    guest["file"] = json.dumps({"v1": {"errors": []}}).encode()
    assert guest["ready"]()
    guest["file"] = json.dumps({"v1": {"errors": ["runcmd failed"]}}).encode()
    with pytest.raises(StepFailed, match="ended with errors: runcmd failed"):
        guest["ready"]()


def test_an_agent_that_may_not_read_files_leaves_it_to_the_console(guest):
    guest |= {"xml": WITH_AGENT, "error": "Command guest-file-open has been disabled"}
    assert not guest["ready"]()
    guest["log"].write_bytes(b"Cloud-init v. 23.1 finished at Thu\n")
    assert guest["ready"]()


def test_an_image_that_must_be_quiet_is_not_copied_otherwise(monkeypatch, tmp_path):
    server = Server(ID, 1, 1, 64, Power(1, "start"), Guest("h", "h", "p", 0, "nova"))
    strict = Server(**{**vars(server), "hardware": Hardware(quiesce=True)})
    spec = HostSpec(2, "c", "h", 1, "n", HostSettings(), servers=(strict,))
    assert live_copy.must_be_quiet(spec, ID)
    assert not live_copy.must_be_quiet(None, ID)
    monkeypatch.setattr(libvirt_conn, "live_xml", lambda _: "<domain/>")
    begun = []
    monkeypatch.setattr(libvirt_conn, "backup_begin", lambda *_: begun.append(1))
    source, target = tmp_path / "a", live_copy.ImageFile(tmp_path / "b", "qcow2")
    monkeypatch.setattr(live_copy, "disk_target", lambda *_: "vda")
    with pytest.raises(StepFailed, match="os_require_quiesce"):
        live_copy.copy(tmp_path, ID, str(source), target, lambda: None, 1, must_be_quiet=True)
    assert begun == []
