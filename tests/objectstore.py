"""A real OpenStack Swift on loopback, which speaks S3 too: one replica, in a folder."""

from __future__ import annotations

import socket
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
USER, KEY = "test:tester", "a-key-that-is-secret"
SERVERS = ("account", "container", "object")

SWIFT = """
[swift-hash]
swift_hash_path_prefix = a
swift_hash_path_suffix = b
[storage-policy:0]
name = only
default = yes
policy_type = replication
"""

SERVER = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
devices = {folder}/node
mount_check = false
log_level = WARNING
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
[{name}-replicator]
"""

PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
log_level = WARNING
[pipeline:main]
pipeline = catch_errors cache {auth} copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {key} .admin
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = {keystone}
auth_url = {keystone}
auth_type = password
username = admin
password = {admin_password}
project_name = admin
user_domain_id = default
project_domain_id = default
delay_auth_decision = true
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{cache}
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


@dataclass
class ObjectStore:
    """A running Swift. ``running`` are its processes."""

    port: int
    running: list[subprocess.Popen[bytes]]

    @property
    def endpoint(self) -> str:
        """Where S3 is spoken; Swift's own way in is below it."""
        return f"http://127.0.0.1:{self.port}"

    def settings(self, container: str) -> dict[str, dict[str, Any]]:
        """What config.yaml says of it: the stores ``swift`` and ``s3``, without secrets."""
        swift = {"auth_url": f"{self.endpoint}/auth/v1.0", "container": container}
        s3 = {"endpoint": self.endpoint, "bucket": f"{container}-s3"}
        return {"swift": {"kind": "swift", **swift}, "s3": {"kind": "s3", **s3}}

    def stop(self) -> None:
        """End all of it."""
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait(10)
        self.running.clear()


@contextmanager
def object_store(
    folder: Path, keystone: str = "", admin_password: str = ""
) -> Iterator[ObjectStore]:
    """Start one in a folder, which must take extended attributes; it ends with the block.

    ``keystone``: the address of one that says who asks; Swift's own authentication otherwise.
    """
    ports = dict(zip((*SERVERS, "proxy", "cache"), free_ports(5), strict=True))
    _write_files(folder, ports, keystone, admin_password)
    words = [(f"{PROGRAMS}/swift-{name}-server", f"{folder}/{name}.conf") for name in SERVERS]
    words.append((f"{PROGRAMS}/swift-proxy-server", f"{folder}/proxy.conf"))
    words.append(("memcached", "-l", "127.0.0.1", "-p", str(ports["cache"]), "-u", "nobody"))
    store = ObjectStore(ports["proxy"], [])
    try:
        for number, argv in enumerate(words):
            with (folder / f"{number}.log").open("wb") as log:
                store.running.append(subprocess.Popen(argv, stdout=log, stderr=log))
        if keystone:
            _wait_until_open(list(ports.values()))
        else:
            _wait_for(store, folder)
        yield store
    finally:
        store.stop()


def _write_files(folder: Path, ports: dict[str, int], keystone: str, admin_password: str) -> None:
    (folder / "node" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text(SWIFT)
    values = {"folder": folder, "key": KEY, "cache": ports["cache"]}
    for name in SERVERS:
        server = SERVER.format(name=name, port=ports[name], **values)
        (folder / f"{name}.conf").write_text(server)
        ring = [f"{PROGRAMS}/swift-ring-builder", f"{folder}/{name}.builder"]
        for step in (
            ("create", "4", "1", "1"),
            ("add", f"r1z1-127.0.0.1:{ports[name]}/disk", "1"),
            ("rebalance",),
        ):
            subprocess.run([*ring, *step], check=True, capture_output=True)
    values["auth"] = "authtoken keystoneauth" if keystone else "s3api tempauth"
    values |= {"keystone": keystone, "admin_password": admin_password}
    (folder / "proxy.conf").write_text(PROXY.format(port=ports["proxy"], **values))


def _wait_for(store: ObjectStore, folder: Path) -> None:
    """Until it has put an object, which all of its servers are needed for."""
    deadline = time.monotonic() + 30
    with requests.Session() as session:
        while time.monotonic() < deadline:
            with suppress(requests.RequestException):
                who = {"X-Auth-User": USER, "X-Auth-Key": KEY}
                auth = session.get(f"{store.endpoint}/auth/v1.0", headers=who, timeout=5)
                token = {"X-Auth-Token": auth.headers.get("X-Auth-Token", "")}
                url = auth.headers.get("X-Storage-Url", "")
                made = session.put(f"{url}/ready", headers=token, timeout=5) if url else auth
                if url and made.ok:
                    return
            time.sleep(0.1)
    said = "".join(path.read_text() for path in sorted(folder.glob("*.log")))
    raise AssertionError(f"Swift does not answer: {said}")


def _wait_until_open(ports: list[int]) -> None:
    """Until all of its servers take connections."""
    deadline = time.monotonic() + 60
    while ports:
        assert time.monotonic() < deadline, f"nobody listens at {ports}"
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", ports[-1]), timeout=1).close()
            ports.pop()
            continue
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
