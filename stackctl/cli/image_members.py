"""image-member-add, -list, -delete: projects that an image is shared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stackctl.cli import words
from stackctl.cli.frame import Output, changes, command, finish, lists
from stackctl.cli.render import Column

if TYPE_CHECKING:
    from stackctl.identity.context import Context

MEMBERS = (
    Column("Project", "name"),
    Column("Status", "status"),
    Column("Project ID", "id", extra=True),
    Column("Image ID", "image_id", extra=True),
    Column("Created", "created_at", extra=True),
)

PROJECT = words.Name("projects", "project")


@command("image-member-add")
@changes
@lists(MEMBERS)
@click.argument("image", type=words.IMAGE)
@click.argument("project", type=PROJECT)
def image_member_add(context: Context, output: Output, image: str, project: str) -> None:
    """Share an image with a project: it may use the image, and lists it once it has accepted
    (image-set --accept)."""
    from stackctl.image.sharing import add_member, list_members

    done = add_member(context, image, project)
    output.list(list_members(context, done.value.id))
    finish(context, done)


@command("image-member-list")
@lists(MEMBERS)
@click.argument("image", type=words.IMAGE)
def image_member_list(context: Context, output: Output, image: str) -> None:
    """List the projects that an image is shared with."""
    from stackctl.image.sharing import list_members

    output.list(list_members(context, image))


@command("image-member-delete")
@changes
@click.argument("image", type=words.IMAGE)
@click.argument("project", type=PROJECT)
def image_member_delete(context: Context, image: str, project: str) -> None:
    """Share an image with a project no more. Its servers keep their disks."""
    from stackctl.image.sharing import remove_member

    finish(context, remove_member(context, image, project))
