"""volume-snapshot-create, -list, -show, -delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, confirm, destroys, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.several import each_of

if TYPE_CHECKING:
    from stackctl.identity.context import Context

LIST = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Status", "status"),
    Column("Size", "size_gb"),
    Column("Volume", "volume_name"),
    Column("Taken", "taken_at"),
    Column("Consistency", "consistency", extra=True),
    Column("Host", "host", extra=True),
)

SHOW = (
    Column("ID", "id"),
    Column("Name", "name"),
    Column("Description", "description"),
    Column("Status", "status"),
    Column("Size GB", "size_gb"),
    Column("Volume", "volume_name"),
    Column("Volume ID", "volume_id"),
    Column("Host", "host"),
    Column("Taken", "taken_at"),
    Column("Consistency", "consistency"),
    Column("Fault", "fault"),
    Column("Project", "project_id"),
    Column("Created", "created_at"),
)


@command("volume-snapshot-create")
@changes
@shows(SHOW)
@click.argument("name")
@click.option("--volume", type=words.VOLUME, help="The volume (default: that called NAME).")
@click.option("--description", default="", help="What it is for.")
def volume_snapshot_create(
    context: Context, output: Output, name: str, volume: str | None, description: str
) -> None:
    """Copy a volume as it is now.

    A guest that has it goes on writing; the snapshot is of one moment. If the guest's agent runs,
    its file systems are brought to rest for that moment.

    Example: stackctl volume-snapshot-create monday --volume data
    """
    from stackctl.volume.snapshots import create_snapshot

    done = create_snapshot(context, name, volume or name, description)
    output.show(done.value)
    finish(context, done)


@command("volume-snapshot-list")
@lists(LIST)
@click.option("--volume", type=words.VOLUME, help="Only those of this volume.")
def volume_snapshot_list(context: Context, output: Output, volume: str | None) -> None:
    """List snapshots of volumes."""
    from stackctl.volume.snapshots import list_snapshots

    output.list(list_snapshots(context, volume))


@command("volume-snapshot-show")
@shows(SHOW)
@click.argument("snapshot", type=words.SNAPSHOT)
def volume_snapshot_show(context: Context, output: Output, snapshot: str) -> None:
    """Show a snapshot."""
    from stackctl.volume.snapshots import show_snapshot

    output.show(show_snapshot(context, snapshot))


@command("volume-snapshot-delete")
@changes
@destroys
@click.argument("snapshots", nargs=-1, required=True, type=words.SNAPSHOT)
def volume_snapshot_delete(context: Context, snapshots: tuple[str, ...]) -> None:
    """Delete snapshots. Volumes that were made of them stay."""
    from stackctl.volume.snapshots import delete_snapshot

    confirm(f"Delete {', '.join(snapshots)}?")
    each_of(context, snapshots, delete_snapshot, "Deleted snapshot")
