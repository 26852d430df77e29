"""Images fetched by the host itself, from a web server on loopback."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest

from agent import images
from agent.faults import StepFailed
from agent.spec import Image
from agent.system import download

CONTENT = b"\5" * 700_000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, redirects and lies."""

    def do_GET(self):
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[len("/to/") :])
            self.end_headers()
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000])
        elif self.path == "/image":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CONTENT)
        else:
            self.send_error(404)

    def log_message(self, *words):
        pass


@pytest.fixture
def url():
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(tmp_path, url):
    said = []
    image = Image("image-1", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "raw", url)
    images.Fetcher(tmp_path, said.append, None, lambda: None).fetch(image)
    return said


def test_a_url_is_fetched_and_verified(tmp_path, url, monkeypatch):
    monkeypatch.setattr(images, "PROGRESS_INTERVAL_S", 0.0)
    said = fetch(tmp_path, f"{url}/image")
    sidecar = images.cached(tmp_path, hashlib.sha256(CONTENT).hexdigest())
    assert sidecar.virtual_size_bytes == len(CONTENT)
    assert said[-1]["type"] == "step"
    assert (said[-1]["done_bytes"], said[-1]["total_bytes"]) == (len(CONTENT), len(CONTENT))


def test_redirects_are_followed_within_http(tmp_path, url):
    fetch(tmp_path, f"{url}/to/{url}/image")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/absent", "404"),
        ("/short", "ended after"),
        ("/to/file:///etc/passwd", "not allowed"),
        ("/to/ftp://127.0.0.1/x", "only http"),
        ("/to//to//to//to//to//image", "redirect"),
    ],
)
def test_what_does_not_give_the_image_leaves_nothing(tmp_path, url, path, words):
    with pytest.raises(StepFailed, match=words):
        fetch(tmp_path, url + path)
    assert [item for item in (tmp_path / "images").iterdir()] == []


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://x/y", "/etc/passwd", ""])
def test_only_http_is_asked(address):
    with pytest.raises(StepFailed, match="only http"):
        list(download.stream(address))


def test_nobody_there(tmp_path, url):
    with pytest.raises(StepFailed, match=r"127\.0\.0\.1:9"):
        fetch(tmp_path, "http://127.0.0.1:9/image")
