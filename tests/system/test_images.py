"""Images from real web servers, real qemu images, full disks, and commands killed at any step."""

import contextlib
import hashlib
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent import web
from agent.faults import StepFailed
from agent.system import download
from stackctl.errors import Conflict, NotFound, ResourceFailed, UnsafeImage
from stackctl.identity.bootstrap import create_cloud
from stackctl.identity.context import admin_context
from stackctl.image import service
from stackctl.image.types import NewImage, Url
from stackctl.state import find_cloud, read
from stackctl.stores import web as fetch

ROOT = Path(__file__).parents[2]
CONTENT = b"an image as good as any other " * 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def context(clouds):
    cloud = find_cloud("default")
    create_cloud(cloud)
    return admin_context(cloud)


def answer(routes):
    """A handler class that answers paths with (status, headers, body); None closes the line."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.server.asked.append((self.path, dict(self.headers)))
            status, headers, body = routes.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_):
            pass

    return Handler


@contextlib.contextmanager
def serving(routes, address="127.0.0.1"):
    with http.server.ThreadingHTTPServer((address, 0), answer(routes)) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server, f"http://{address}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def create(context, url, **more):
    return service.create_image(context, NewImage("img", **more), Url(url)).value


def nothing_left(context):
    with read(context.cloud) as reader:
        rows = reader.value("SELECT count(*) FROM images WHERE deleted_at IS NULL")
    return (rows, list(context.cloud.images.iterdir())) == (0, [])


def test_download(context):
    with serving({"/a": (200, {}, CONTENT)}) as (server, url):
        wanted = NewImage("img", expected_sha256=SHA256)
        made = service.create_image(context, wanted, Url(f"{url}/a", host_fetch=True)).value
        assert (made.sha256, made.size_bytes) == (SHA256, len(CONTENT))
        assert (made.source_url, made.host_may_fetch) == (f"{url}/a", True)
    assert (context.cloud.images / SHA256).read_bytes() == CONTENT
    assert server.asked[0][1]["Accept-Encoding"] == "identity"


def test_without_an_announced_size(context):
    with serving({"/a": (200, {"Content-Length": None}, CONTENT)}) as (_, url):
        assert create(context, f"{url}/a").size_bytes == len(CONTENT)


def test_redirects(context):
    routes = {"/a": (200, {}, CONTENT)}
    for at, target in (("/1", "/a"), ("/2", "/1"), ("/3", "/2"), ("/4", "/3")):
        routes[at] = (302, {"Location": target}, b"")
    routes["/file"] = (302, {"Location": "file:///etc/passwd"}, b"")
    routes["/ftp"] = (301, {"Location": "ftp://127.0.0.1/x"}, b"")
    routes["/loop"] = (302, {"Location": "/loop"}, b"")
    with serving(routes) as (_, url):
        for path in ("/4", "/file", "/ftp", "/loop"):
            with pytest.raises(ResourceFailed, match="edirect"):
                create(context, url + path)
            assert nothing_left(context)
        assert create(context, f"{url}/3").sha256 == SHA256


INSIDE = ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1"]
INSIDE += ["[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0", "0.0.0.0"]


@pytest.mark.parametrize("target", INSIDE)
def test_the_way_never_leads_from_the_internet_inside(context, monkeypatch, target):
    """127.0.0.2 plays a public server; however the private address is written, it is not asked."""
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.2")
    with serving({"/secret": (200, {}, b"secret")}) as (inside, inner):
        port = inner.rsplit(":", 1)[1]
        routes = {"/a": (302, {"Location": f"http://{target}:{port}/secret"}, b"")}
        routes["/1"] = (302, {"Location": "/a"}, b"")
        with serving(routes, "127.0.0.2") as (_, outer):
            for path in ("/a", "/1"):
                with pytest.raises(ResourceFailed, match=r"redirects to .* private address"):
                    create(context, outer + path)
        assert inside.asked == []
        assert create(context, f"{inner}/secret").size_bytes == 6
    assert len(inside.asked) == 1


def test_a_name_that_changes_its_address(context, monkeypatch):
    """DNS rebinding: the address that was checked is the one that is talked to."""
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.2")
    real, asked = socket.getaddrinfo, []

    def turning(host, port, *rest, **more):
        if host != "turning.example":
            return real(host, port, *rest, **more)
        asked.append(host)
        return real("127.0.0.2" if len(asked) % 2 else "127.0.0.1", port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", turning)
    with serving({"/a": (200, {}, b"secret")}) as (inside, inner):
        port = inner.rsplit(":", 1)[1]
        with serving(
            {"/a": (302, {"Location": f"http://turning.example:{port}/a"}, b"")}, ("127.0.0.2")
        ) as (_, outer):
            # The first look is public, and nobody listens there on this port.
            with pytest.raises(ResourceFailed, match="cannot be fetched"):
                create(context, f"{outer}/a")
            assert len(asked) == 1
            with pytest.raises(ResourceFailed, match="private address"):
                create(context, f"{outer}/a")
            assert len(asked) == 2
        assert inside.asked == []


def test_a_name_with_a_public_and_a_private_address(context, monkeypatch):
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.2")
    real = socket.getaddrinfo

    def both(host, port, *rest, **more):
        if host != "both.example":
            return real(host, port, *rest, **more)
        return [entry for a in ("127.0.0.2", "127.0.0.1") for entry in real(a, port, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with serving({"/a": (200, {}, b"secret")}) as (inside, inner):
        port = inner.rsplit(":", 1)[1]
        routes = {"/a": (302, {"Location": f"http://both.example:{port}/a"}, b"")}
        refused = pytest.raises(ResourceFailed, match="private address")
        with serving(routes, "127.0.0.2") as (_, outer), refused:
            create(context, f"{outer}/a")
        assert inside.asked == []


def test_a_host_is_not_led_inside_either(monkeypatch):
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.2")
    with serving({"/secret": (200, {}, b"secret")}) as (inside, inner):
        routes = {"/a": (302, {"Location": f"{inner}/secret"}, b"")}
        refused = pytest.raises(StepFailed, match="private address")
        with serving(routes, "127.0.0.2") as (_, outer), refused:
            list(download.stream(f"{outer}/a"))
        assert inside.asked == []


def test_from_a_private_server_to_another(context):
    with serving({"/a": (200, {}, CONTENT)}) as (_, inner):
        routes = {"/a": (307, {"Location": f"{inner}/a"}, b"")}
        with serving(routes, "127.0.0.2") as (_, outer):
            assert create(context, f"{outer}/a").sha256 == SHA256


@pytest.mark.parametrize(
    ("answered", "error", "words"),
    [
        ((404, {}, b"gone"), NotFound, "HTTP 404"),
        ((403, {}, b"no"), ResourceFailed, "HTTP 403"),
        ((500, {}, b"oops"), ResourceFailed, "HTTP 500"),
        ((200, {"Content-Length": str(len(CONTENT) + 1)}, CONTENT), Conflict, "ended after"),
        ((200, {"Content-Length": str(1 << 50)}, b""), Conflict, "limit is"),
        ((200, {"Content-Encoding": "gzip"}, CONTENT), Conflict, "sent compressed"),
        ((200, {}, b""), UnsafeImage, "empty"),
        ((200, {}, CONTENT[:-1]), Conflict, "is not the one expected"),
    ],
)
def test_what_servers_do_wrong(context, answered, error, words):
    with serving({"/a": answered}) as (_, url), pytest.raises(error, match=words):
        create(context, f"{url}/a", expected_sha256=SHA256 if answered[2] else None)
    assert nothing_left(context)


def test_a_chunked_download_that_breaks_off(context):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def once():
            line, _ = listener.accept()
            with line:
                line.recv(4096)
                head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                line.sendall(head + b"400\r\n" + b"x" * 512)

        thread = threading.Thread(target=once)
        thread.start()
        with pytest.raises(Conflict, match="ended after"):
            create(context, f"http://127.0.0.1:{listener.getsockname()[1]}/a")
        thread.join()
    assert nothing_left(context)


def test_a_server_that_says_nothing(context, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.3)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(ResourceFailed, match="timed out"):
        create(context, f"http://127.0.0.1:{silent.getsockname()[1]}/a")
    with pytest.raises(ResourceFailed, match="cannot be fetched"):
        create(context, "http://no-such-host.invalid/a")
    assert nothing_left(context)


def qemu_img(*words):
    program = shutil.which("qemu-img")
    assert program, "qemu-img is missing: apt-get install qemu-utils"
    subprocess.run([program, *map(str, words)], check=True, capture_output=True)


@pytest.mark.parametrize("options", ["compat=0.10", "compat=1.1", "compat=1.1,lazy_refcounts=on"])
def test_what_qemu_makes(context, tmp_path, options):
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", options, path, "3G")
    with path.open("rb") as file:
        made = service.create_image(context, NewImage("img"), file).value
    assert (made.disk_format, made.virtual_size_bytes, made.min_disk_gb) == ("qcow2", 3 << 30, 3)


def test_a_compressed_image_with_data(context, tmp_path):
    (tmp_path / "a.raw").write_bytes(CONTENT.ljust(8 << 20, b"\0"))
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", tmp_path / "a.raw", tmp_path / "a.qcow2")
    with (tmp_path / "a.qcow2").open("rb") as file:
        made = service.create_image(context, NewImage("img", "qcow2"), file).value
    assert made.virtual_size_bytes == 8 << 20


@pytest.mark.parametrize("kind", ["backing", "data", "snapshot", "vmdk", "vdi", "vpc", "vhdx"])
def test_what_qemu_makes_and_nobody_may_boot(context, tmp_path, kind):
    path, secret = tmp_path / "evil", tmp_path / "secret.raw"
    secret.write_bytes(b"secret" * 100_000)
    if kind == "backing":
        qemu_img("create", "-f", "qcow2", "-b", secret, "-F", "raw", path)
    elif kind == "data":
        qemu_img("create", "-f", "qcow2", "-o", f"data_file={secret}", path, "1M")
    elif kind == "snapshot":
        qemu_img("create", "-f", "qcow2", path, "1M")
        qemu_img("snapshot", "-c", "s", path)
    else:
        qemu_img("create", "-f", kind, path, "8M")
    for declared in (None, "raw"):
        with path.open("rb") as file, pytest.raises(UnsafeImage):
            service.create_image(context, NewImage("img", declared), file)
        assert nothing_left(context)


def stackctl(*words, before=(), **environment):
    return subprocess.run(
        [*before, sys.executable, "-m", "stackctl", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_full_disk(context, tmp_path):
    """1 MiB of room for 3 MB, in a mount namespace of the command's own."""
    (tmp_path / "a.raw").write_bytes(CONTENT)
    mount = f'mount -t tmpfs -o size=1m tmpfs "{context.cloud.images}" && "$@"; status=$?; '
    script = mount + f'ls -A "{context.cloud.images}" >&2; exit $status'
    before = ["unshare", "--mount", "sh", "-c", script, "sh"]
    done = stackctl("image-create", "i", "--file", str(tmp_path / "a.raw"), before=before)
    assert done.returncode == 30
    assert done.stderr.startswith("Error: The image cannot be written to")
    assert "No space left on device. Nothing was kept." in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Try: df -h")
    assert nothing_left(context)


def test_interrupted(context, tmp_path):
    command = [sys.executable, "-m", "stackctl", "image-create", "i", "--file", "-"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdin.write(b"x" * (1 << 20))
        run.stdin.flush()
        while not list(context.cloud.images.glob(".part-*")):
            assert run.poll() is None
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 130
        assert b"Interrupted" in run.stderr.read()
        with contextlib.suppress(BrokenPipeError):
            run.stdin.close()
    assert nothing_left(context)


def test_killed_at_every_step(context, tmp_path):
    """Whenever it dies, a row has its file; the next image command removes what nobody has."""
    path, counted = tmp_path / "a.raw", tmp_path / "points"
    path.write_bytes(CONTENT)
    create_words = ("image-create", "i", "--file", str(path))
    assert stackctl(*create_words, STACKCTL_KILL_COUNT_FILE=str(counted)).returncode == 0
    points = counted.read_text().split()[1::2]
    assert {"image-received", "image-kept", "before-commit", "after-commit"} <= set(points)
    assert stackctl("image-delete", "i").returncode == 0
    for number in range(1, len(points) + 1):
        died = stackctl(*create_words, STACKCTL_KILL_AT=str(number))
        assert died.returncode == -signal.SIGKILL, points[number - 1]
        images = service.list_images(context)
        for image in images:
            assert (context.cloud.images / image.sha256).read_bytes() == CONTENT
        other = stackctl("image-create", "other", "--file", "-")
        assert other.returncode == 31  # nothing came on standard input
        with path.open("rb") as file:
            kept = service.create_image(context, NewImage("kept"), file).value
        assert [entry.name for entry in context.cloud.images.iterdir()] == [kept.sha256]
        for image in service.list_images(context):
            service.delete_image(context, image.id)
        assert list(context.cloud.images.iterdir()) == []


def test_an_upload_killed_at_every_step(context, tmp_path):
    """It is queued again, or active with its content; nothing else is left after one command."""
    path, counted = tmp_path / "a.raw", tmp_path / "points"
    path.write_bytes(CONTENT)
    words = ("image-upload", "i", "--file", str(path))

    def queue():
        service.create_image(context, NewImage("i"))

    queue()
    assert stackctl(*words, STACKCTL_KILL_COUNT_FILE=str(counted)).returncode == 0
    service.delete_image(context, "i")
    points = counted.read_text().split()[1::2]
    assert {"image-received", "image-kept", "before-commit", "after-commit"} <= set(points)
    for number in range(1, len(points) + 1):
        queue()
        died = stackctl(*words, STACKCTL_KILL_AT=str(number))
        assert died.returncode == -signal.SIGKILL, points[number - 1]
        service.create_image(context, NewImage("other"))
        image = service.show_image(context, "i")
        assert image.status in ("queued", "active"), points[number - 1]
        if image.status == "queued":
            assert stackctl(*words).returncode == 0
        assert (context.cloud.images / SHA256).read_bytes() == CONTENT
        for word in ("i", "other"):
            service.delete_image(context, word)
        assert list(context.cloud.images.iterdir()) == []


def test_a_delete_killed_at_every_step(context, tmp_path):
    path, counted = tmp_path / "a.raw", tmp_path / "points"
    path.write_bytes(CONTENT)

    def create_one():
        with path.open("rb") as file:
            return service.create_image(context, NewImage("i"), file).value

    create_one()
    assert stackctl("image-delete", "i", STACKCTL_KILL_COUNT_FILE=str(counted)).returncode == 0
    for number in range(1, len(counted.read_text().splitlines()) + 1):
        image = create_one()
        stackctl("image-delete", "i", STACKCTL_KILL_AT=str(number))
        if service.list_images(context):
            assert (context.cloud.images / image.sha256).read_bytes() == CONTENT
            service.delete_image(context, "i")
        else:
            create_one()
            service.delete_image(context, "i")
        assert list(context.cloud.images.iterdir()) == []
