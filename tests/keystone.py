"""A real OpenStack Keystone on loopback, with a database in a folder, and who may do what in it."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

PROGRAMS = Path(sys.executable).parent
ADMIN_PASSWORD, PASSWORD = "the-admin-of-all", "a-password-that-is-secret"
PROJECT, USER, REGION = "images", "painter", "north"

CONF = {
    "database": {"connection": "sqlite:///{folder}/keystone.db"},
    "fernet_tokens": {"key_repository": "{folder}/fernet"},
    "fernet_receipts": {"key_repository": "{folder}/fernet"},
    "credential": {"key_repository": "{folder}/credential"},
    "token": {"provider": "fernet"},
}

SERVE = """
import sys
# Keystone reads the command line, too.
port = int(sys.argv.pop())
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server
from keystone.server.wsgi import initialize_public_application
class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
app = initialize_public_application()
make_server("127.0.0.1", port, app, server_class=Server).serve_forever()
"""


@dataclass
class Keystone:
    """A running Keystone. ``admin`` is a session of its admin."""

    url: str
    admin: requests.Session

    def make(self, kind: str, **values: Any) -> str:
        """Make a thing; returns its id."""
        path = f"{kind}s"
        made = self.admin.post(f"{self.url}/{path}", json={kind: values}, timeout=20)
        assert made.ok, made.text
        return str(made.json()[kind]["id"])

    def found(self, kind: str, name: str) -> str:
        """The id of a thing that is there."""
        said = self.admin.get(f"{self.url}/{kind}s", params={"name": name}, timeout=20)
        return str(said.json()[f"{kind}s"][0]["id"])

    def has_swift(self, endpoint: str) -> None:
        """Say where Swift is, and who may use it: one user in one project."""
        service = self.make("service", name="swift", type="object-store")
        self.make(
            "endpoint",
            service_id=service,
            interface="public",
            region_id=REGION,
            url=f"{endpoint}/v1/AUTH_$(project_id)s",
        )
        project = self.make("project", name=PROJECT, domain_id="default")
        user = self.make("user", name=USER, password=PASSWORD, domain_id="default")
        role = self.found("role", "admin")
        grant = f"{self.url}/projects/{project}/users/{user}/roles/{role}"
        assert self.admin.put(grant, timeout=20).ok

    def credential(self) -> tuple[str, str]:
        """A new application credential of that user: its id and secret."""
        with requests.Session() as session:
            user = sign_in(session, self.url, USER, PASSWORD, PROJECT)
            made = session.post(
                f"{self.url}/users/{user}/application_credentials",
                json={"application_credential": {"name": f"c{time.monotonic_ns()}"}},
                timeout=20,
            )
            assert made.ok, made.text
            said = made.json()["application_credential"]
            return str(said["id"]), str(said["secret"])


def sign_in(session: requests.Session, url: str, user: str, password: str, project: str) -> str:
    """Give a session the token of a user in a project; returns the user's id."""
    who = {"name": user, "password": password, "domain": {"id": "default"}}
    identity = {"methods": ["password"], "password": {"user": who}}
    scope = {"project": {"name": project, "domain": {"id": "default"}}}
    said = session.post(
        f"{url}/auth/tokens", json={"auth": {"identity": identity, "scope": scope}}, timeout=20
    )
    assert said.ok, said.text
    session.headers["X-Auth-Token"] = said.headers["X-Subject-Token"]
    return str(said.json()["token"]["user"]["id"])


@contextmanager
def keystone(folder: Path, port: int) -> Iterator[Keystone]:
    """Start one; it ends with the block."""
    conf = _write_conf(folder)
    url = f"http://127.0.0.1:{port}/v3"
    _manage(conf, "db_sync")
    for what in ("fernet_setup", "credential_setup"):
        _manage(conf, what, "--keystone-user", "root", "--keystone-group", "root")
    words = ("--bootstrap-password", ADMIN_PASSWORD, "--bootstrap-region-id", REGION)
    # Swift asks at the internal address.
    urls = ("--bootstrap-public-url", url, "--bootstrap-internal-url", url)
    _manage(conf, "bootstrap", *words, *urls)
    with (folder / "log").open("wb") as log:
        argv = [sys.executable, "-c", SERVE, str(port)]
        where = {**os.environ, "OS_KEYSTONE_CONFIG_DIR": str(folder)}
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=where)
    try:
        with requests.Session() as admin:
            _wait_for(process, admin, url, folder)
            yield Keystone(url, admin)
    finally:
        process.terminate()
        process.wait(10)


def _write_conf(folder: Path) -> Path:
    parser = configparser.ConfigParser(interpolation=None)
    for section, values in CONF.items():
        parser[section] = {key: value.format(folder=folder) for key, value in values.items()}
    for name in ("fernet", "credential"):
        (folder / name).mkdir(mode=0o700)
    path = folder / "keystone.conf"
    with path.open("w") as file:
        parser.write(file)
    return path


def _manage(conf: Path, *words: str) -> None:
    argv = [f"{PROGRAMS}/keystone-manage", "--config-file", str(conf), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, f"{words}: {done.stderr}"


def _wait_for(
    process: subprocess.Popen[bytes], admin: requests.Session, url: str, folder: Path
) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(requests.RequestException, AssertionError):
            sign_in(admin, url, "admin", ADMIN_PASSWORD, "admin")
            return
        time.sleep(0.2)
    raise AssertionError(f"Keystone does not answer: {(folder / 'log').read_text()}")
