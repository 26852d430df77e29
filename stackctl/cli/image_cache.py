"""image-cache-list, image-prefetch, image-prune: the images that hosts have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists
from stackctl.cli.render import Column, size

if TYPE_CHECKING:
    from stackctl.identity.context import Context

DAY_S = 24 * 3600


def _idle(seconds: int) -> str:
    days, rest = divmod(seconds, DAY_S)
    return f"{days} d" if days else f"{rest // 3600} h {rest % 3600 // 60} min"


CACHED = (
    Column("Host", "host"),
    Column("Image", "name"),
    Column("Size", "size_bytes", text=size),
    Column("Disks", "disks"),
    Column("Needed", "wanted"),
    Column("Idle", "idle_s", text=_idle),
    Column("Format", "format", extra=True),
    Column("SHA256", "sha256", extra=True),
)
PREFETCHED = (Column("Host", "host"), Column("Result", "result"))
PRUNED = (
    Column("Host", "host"),
    Column("Removed", "images"),
    Column("Freed", "freed_bytes", text=size),
)


@command("image-cache-list")
@lists(CACHED)
@click.argument("hosts", nargs=-1, type=words.HOST)
def image_cache_list(context: Context, output: Output, hosts: tuple[str, ...]) -> None:
    """List the images in the caches of hosts (default: of all), as these say now.

    Disks: how many have the image under them. Needed: the host's spec names it.
    """
    from stackctl.image.caching import list_cached

    done = list_cached(context, hosts)
    output.list(done.value)
    done.check()


@command("image-prefetch")
@changes
@lists(PREFETCHED)
@click.argument("image", type=words.IMAGE)
@click.argument("hosts", nargs=-1, type=words.HOST)
def image_prefetch(context: Context, output: Output, image: str, hosts: tuple[str, ...]) -> None:
    """Bring an image to hosts before they need it (default: to all that are enabled)."""
    from stackctl.image.caching import prefetch

    done = prefetch(context, image, hosts)
    output.list(done.value)
    finish(context, done)


@command("image-prune")
@changes
@lists(PRUNED)
@click.argument("hosts", nargs=-1, type=words.HOST)
@click.option(
    "--idle", type=click.IntRange(0), default=0, metavar="DAYS", help="Only unneeded for so long."
)
@click.option("--keep", type=words.Size("M"), help="Only until a cache is this small.")
def image_prune(
    context: Context, output: Output, hosts: tuple[str, ...], idle: int, keep: int | None
) -> None:
    """Remove images from the caches of hosts (default: of all).

    One that a disk of the host has under it stays, whatever the database says: each host reads
    the headers of all its disks first.
    """
    from stackctl.image.caching import prune

    done = prune(context, hosts, idle * DAY_S, None if keep is None else keep << 20)
    output.list(done.value)
    finish(context, done)
