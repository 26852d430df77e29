"""Making a cloud: its folder, SSH key, and the rows that are there from the start."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stackctl.identity.context import ADMIN_PROJECT, ADMIN_USER
from stackctl.identity.quota import DEFAULTS, UNLIMITED
from stackctl.state import Cloud, Writer, create, new_id, now

# The set that Nova shipped in the slides' time, and the slides' own "medium".
FLAVORS = (
    # name, vcpus, RAM in MB, root disk in GB, ephemeral disk in GB
    ("m1.tiny", 1, 512, 1, 0),
    ("m1.small", 1, 2048, 20, 0),
    ("m1.medium", 2, 4096, 40, 0),
    ("m1.large", 4, 8192, 80, 0),
    ("m1.xlarge", 8, 16384, 160, 0),
    ("medium", 2, 4096, 40, 40),
)


def create_cloud(cloud: Cloud) -> None:
    """Make a new, empty cloud with its admin and the classic flavors; Conflict if it is there."""
    create(cloud, lambda writer: _first_rows(writer, cloud.name), lambda: _first_files(cloud))


def _first_files(cloud: Cloud) -> None:
    if not cloud.key_file.with_suffix(".pub").exists():
        # A private key alone was left by somebody who was interrupted.
        cloud.key_file.unlink(missing_ok=True)
        write_keypair(cloud.key_file, f"stackctl-{cloud.name}")
    for folder in (cloud.images, cloud.locks, cloud.logs):
        folder.mkdir(mode=0o700, exist_ok=True)


def public_key(cloud: Cloud) -> str:
    """The cloud's own SSH public key, as it stands in authorized_keys of its hosts."""
    return cloud.key_file.with_suffix(".pub").read_text(encoding="utf-8").strip()


def make_keypair(comment: str) -> tuple[str, str]:
    """A new ed25519 key pair: (private key in OpenSSH's format, public key line)."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    ).decode()
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return private, f"{public.decode()} {comment}"


def write_keypair(path: Path, comment: str) -> None:
    """Write a new key pair to ``path`` (0600) and ``path``.pub."""
    private, public = make_keypair(comment)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(private)
    path.with_suffix(".pub").write_text(public + "\n", encoding="utf-8")


def _first_rows(writer: Writer, name: str) -> None:
    at = now()
    cloud_row = {"id": new_id(), "name": name, "prefix": f"sc{secrets.token_hex(2)}"}
    writer.insert(
        "cloud", {**cloud_row, "serial": writer.serial, "nonce": writer.nonce, "created_at": at}
    )
    project_id = new_id()
    writer.insert("projects", {"id": project_id, "name": ADMIN_PROJECT, "created_at": at})
    writer.insert("users", {"id": new_id(), "name": ADMIN_USER, "created_at": at})
    for resource in DEFAULTS:
        row = {"project_id": project_id, "resource": resource, "maximum": UNLIMITED}
        writer.insert("quotas", row)
    for flavor, vcpus, ram_mb, disk_gb, ephemeral_gb in FLAVORS:
        row = {"id": new_id(), "name": flavor, "vcpus": vcpus, "ram_mb": ram_mb}
        sizes = {"disk_gb": disk_gb, "ephemeral_gb": ephemeral_gb, "created_at": at}
        writer.insert("flavors", {**row, **sizes})
