"""Key pairs: the public SSH keys that servers are given, by user."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field, replace

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from stackctl.errors import Conflict, UsageError
from stackctl.identity.bootstrap import make_keypair
from stackctl.identity.context import Context
from stackctl.names import checked_name, refuse_control_characters
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one
from stackctl.state import Reader, Row, Writer, find, new_id, now, read

KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
)
PUBLIC_KEY_LIMIT_BYTES = 16384


@dataclass(frozen=True)
class Keypair:
    """A public key under a name. ``private_key`` is there once, when stackctl made the pair.

    ``fingerprint`` is Nova's (MD5, with colons), ``fingerprint_sha256`` what ssh-keygen prints.
    """

    id: str
    name: str
    public_key: str
    fingerprint: str
    fingerprint_sha256: str
    created_at: str
    private_key: str | None = field(default=None, repr=False)

    @property
    def type(self) -> str:
        """The type of the key, such as ssh-ed25519."""
        return self.public_key.split(" ", 1)[0]


def add_keypair(context: Context, name: str, public_key: bytes | None = None) -> Done[Keypair]:
    """Keep a public key (one line of authorized_keys), or make an ed25519 pair without one.

    The private key is returned and nowhere stored. UsageError: not a public key. Conflict: the
    user has a key of this name.
    """
    checked_name("key pair", name)
    private: str | None = None
    if public_key is None:
        private, line = make_keypair(_comment(name))
    else:
        line = checked_public_key(public_key)

    def work(writer: Writer) -> Keypair:
        row = {
            "id": new_id(),
            "user_id": context.user_id,
            "name": name,
            "public_key": line,
            "fingerprint": md5_fingerprint(line),
            "created_at": now(),
        }
        if not writer.insert_if_free("keypairs", row, "(user_id, name) WHERE deleted_at IS NULL"):
            raise Conflict(f"Key pair '{name}' already exists.")
        return replace(keypair_from(writer, row), private_key=private)

    given = {} if public_key is None else {"public_key": line}
    return change_one(context, "add", "keypair", name, given, work, keypair_from)


def list_keypairs(context: Context) -> list[Keypair]:
    """The user's key pairs by name."""
    with read(context.cloud) as reader:
        rows = reader.all(
            "SELECT * FROM keypairs WHERE deleted_at IS NULL AND user_id = ? ORDER BY name",
            context.user_id,
        )
        return [keypair_from(reader, row) for row in rows]


def show_keypair(context: Context, word: str) -> Keypair:
    """One of the user's key pairs by name or id."""
    with read(context.cloud) as reader:
        return keypair_from(reader, _own(context, reader, word))


def delete_keypair(context: Context, word: str) -> Done[Keypair]:
    """Delete a key pair; servers that were given the key keep it."""

    def work(writer: Writer) -> Keypair:
        row = _own(context, writer, word)
        writer.update("keypairs", row["id"], deleted_at=now())
        return keypair_from(writer, row)

    return change_one(context, "delete", "keypair", word, {}, work, keypair_from)


def keypair_from(_: Reader, row: Row) -> Keypair:
    """The value of a ``keypairs`` row."""
    return Keypair(
        id=row["id"],
        name=row["name"],
        public_key=row["public_key"],
        fingerprint=row["fingerprint"],
        fingerprint_sha256=sha256_fingerprint(row["public_key"]),
        created_at=row["created_at"],
    )


def checked_public_key(content: bytes) -> str:
    """One public key line (type, base64, comment) as it is stored; UsageError when it is not."""
    if b"PRIVATE KEY" in content:
        raise UsageError(
            "That is a private key. Give the public one; the private one should not leave its "
            "owner's hands.",
            hint="ssh-keygen -y -f KEY > KEY.pub",
        )
    try:
        line = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise UsageError("A public key is one line of text; that is not text.") from None
    if len(content) > PUBLIC_KEY_LIMIT_BYTES:
        raise UsageError(f"A public key has at most {PUBLIC_KEY_LIMIT_BYTES} bytes.")
    if "\n" in line:
        raise UsageError("A public key is one line, as in ~/.ssh/id_ed25519.pub; this has several.")
    refuse_control_characters("public key", line)
    kind, _, rest = line.partition(" ")
    encoded, _, comment = rest.strip().partition(" ")
    if kind not in KEY_TYPES:
        raise UsageError(f"A public key begins with one of {', '.join(KEY_TYPES)}.")
    _load(kind, encoded)
    return " ".join(part for part in (kind, encoded, comment.strip()) if part)


def md5_fingerprint(line: str) -> str:
    """The fingerprint as Nova shows it: MD5 of the key in hex, with colons."""
    digest = hashlib.md5(_blob(line), usedforsecurity=False).hexdigest()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def sha256_fingerprint(line: str) -> str:
    """The fingerprint as ssh-keygen -l shows it."""
    digest = base64.b64encode(hashlib.sha256(_blob(line)).digest()).decode()
    return "SHA256:" + digest.rstrip("=")


def _own(context: Context, reader: Reader, word: str) -> Row:
    return find(
        reader,
        "keypairs",
        word,
        noun="keypair",
        where="user_id = ?",
        parameters=(context.user_id,),
    )


def _load(kind: str, encoded: str) -> None:
    """UsageError unless the base64 part is one whole key of this type."""
    try:
        base64.b64decode(encoded, validate=True)
        load_ssh_public_key(f"{kind} {encoded}".encode())
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        raise UsageError(f"That is not a whole {kind} public key.") from None


def _blob(line: str) -> bytes:
    return base64.b64decode(line.split(" ")[1])


def _comment(name: str) -> str:
    """A comment for a key that we make: the name, if it stays one word of ASCII."""
    return name if name.isascii() and not any(c.isspace() for c in name) else "stackctl"
