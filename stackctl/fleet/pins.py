"""Host keys as they are pinned: one line "ssh-ed25519 AAAA...", and its fingerprint."""

from __future__ import annotations

import base64
import hashlib

from stackctl.errors import UsageError

ALGORITHMS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
"""Usable types of key, best first, and the signatures that are accepted from each."""


def parse_host_key(line: str) -> tuple[str, bytes]:
    """Type and blob of a key line; UsageError if it is none.

    The line may begin with the names of the host, as ssh-keyscan and known_hosts have it.
    """
    words = line.split()
    if len(words) > 2 and words[0] not in ALGORITHMS and words[1] in ALGORITHMS:
        words = words[1:]
    try:
        key_type, blob = words[0], base64.b64decode(words[1], validate=True)
    except (IndexError, ValueError):
        raise UsageError("A host key is a line like 'ssh-ed25519 AAAA...'.") from None
    if key_type not in ALGORITHMS:
        raise UsageError(f"'{key_type}' is not a usable host key: {', '.join(ALGORITHMS)}.")
    if type_of(blob) != key_type:
        raise UsageError(f"This is not a key of type {key_type}: it is damaged.")
    return key_type, blob


def type_of(blob: bytes) -> str:
    """The type that a key's blob begins with."""
    length = int.from_bytes(blob[:4], "big")
    return blob[4 : 4 + length].decode("ascii", errors="replace")


def pin_line(line: str) -> str:
    """A key line in the form in which it is kept: type and base64, nothing else."""
    key_type, blob = parse_host_key(line)
    return f"{key_type} {base64.b64encode(blob).decode()}"


def fingerprint(blob: bytes) -> str:
    """The fingerprint of a public key as OpenSSH prints it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"
