"""keypair-add, -list, -show, -delete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists, say, shows
from stackctl.cli.render import Column
from stackctl.cli.several import Spelled, each_of
from stackctl.errors import Conflict, UsageError

if TYPE_CHECKING:
    from stackctl.identity.context import Context

PUBLIC_KEY_LIMIT_BYTES = 16384

COLUMNS = (
    Column("Name", "name"),
    Column("Type", "type"),
    Column("Fingerprint", "fingerprint"),
    Column("SHA256", "fingerprint_sha256", extra=True),
    Column("ID", "id", extra=True),
)

SHOW = (
    Column("Name", "name"),
    Column("Type", "type"),
    Column("Fingerprint", "fingerprint"),
    Column("SHA256", "fingerprint_sha256"),
    Column("Public Key", "public_key"),
    Column("ID", "id"),
    Column("Created", "created_at"),
)

MADE = (*SHOW, Column("Private Key", "private_key", extra=True))


@command("keypair-add")
@changes
@shows(MADE)
@click.argument("name")
@click.option(
    "--public-key",
    "--pub-key",
    "--pub_key",
    "public_key",
    cls=Spelled,
    type=words.LocalFile(),
    help="Import this public key instead of making a pair.",
)
@click.option(
    "--private-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the new private key to this file (mode 0600).",
)
def keypair_add(
    context: Context,
    output: Output,
    name: str,
    public_key: BinaryIO | None,
    private_key: Path | None,
) -> None:
    """Add a public key, or make an ed25519 pair.

    Without --private-key the new private key is printed, once and nowhere kept:
    stackctl keypair-add mine > mine.pem
    """
    from stackctl.compute.keypairs import add_keypair

    if public_key is not None:
        if private_key is not None:
            raise click.UsageError("--private-key is for a new pair, not for an imported key.")
        content = words.read_all(public_key, PUBLIC_KEY_LIMIT_BYTES, "public key")
        done = add_keypair(context, name, content)
    elif private_key is None or context.dry_run:
        done = add_keypair(context, name)
    else:
        with _new_file(private_key) as file:
            done = add_keypair(context, name)
            file.write(done.value.private_key or "")
            file.flush()
            os.fsync(file.fileno())
    secret = done.value.private_key
    if secret and private_key is None and output.format == "table" and not context.dry_run:
        click.echo(secret, nl=False)
        say(f"Key pair {name}: {done.value.fingerprint_sha256}. The private key is kept nowhere.")
    else:
        output.show(done.value)
    finish(context, done)


@command("keypair-list")
@lists(COLUMNS)
def keypair_list(context: Context, output: Output) -> None:
    """List your key pairs."""
    from stackctl.compute.keypairs import list_keypairs

    output.list(list_keypairs(context))


@command("keypair-show")
@shows(SHOW)
@click.argument("keypair", type=words.KEYPAIR)
def keypair_show(context: Context, output: Output, keypair: str) -> None:
    """Show a key pair and its public key."""
    from stackctl.compute.keypairs import show_keypair

    output.show(show_keypair(context, keypair))


@command("keypair-delete")
@changes
@click.argument("keypairs", nargs=-1, required=True, type=words.KEYPAIR)
def keypair_delete(context: Context, keypairs: tuple[str, ...]) -> None:
    """Delete key pairs; servers that were given a key keep it."""
    from stackctl.compute.keypairs import delete_keypair

    each_of(context, keypairs, delete_keypair, "Deleted key pair")


@contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """A new file that only its owner may read; gone again when what should fill it fails."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise Conflict(f"{path} exists already; a private key is never overwritten.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        try:
            yield file
        except BaseException:
            path.unlink()
            raise
