"""Projects that an image is shared with, as in Glance: they accept it, and then it is listed."""

from __future__ import annotations

from stackctl.errors import Conflict, Forbidden, NotFound, UsageError
from stackctl.identity.context import ADMIN_PROJECT, Context
from stackctl.image.service import own_image, usable_image
from stackctl.image.types import Image, Member, image_from
from stackctl.operation.outcome import Done
from stackctl.operation.resource import change_one
from stackctl.state import Reader, Row, Writer, find, now, read

MAX_MEMBERS = 128
MEMBER_STATUSES = ("pending", "accepted", "rejected")


def add_member(context: Context, word: str, project: str) -> Done[Image]:
    """Share an image with a project; the image's visibility must be shared."""

    def work(writer: Writer) -> Image:
        image = _shared(context, writer, word)
        member = find(writer, "projects", project, noun="project")
        if member["id"] == image["project_id"]:
            raise Conflict(f"Image {image['name']} belongs to project {member['name']} already.")
        count = "SELECT count(*) FROM image_members WHERE image_id = ?"
        if writer.value(count, image["id"]) >= MAX_MEMBERS:
            raise Conflict(f"Image {image['name']} has {MAX_MEMBERS} members, which is the limit.")
        row = {"image_id": image["id"], "project_id": member["id"], "created_at": now()}
        if not writer.insert_if_free("image_members", row, "(image_id, project_id)"):
            raise Conflict(f"Project {member['name']} is a member of {image['name']} already.")
        return image_from(writer, image)

    return change_one(context, "share", "image", word, {"project": project}, work, image_from)


def list_members(context: Context, word: str) -> list[Member]:
    """The members of an image, for its owner; a member sees itself."""
    with read(context.cloud) as reader:
        image = usable_image(context, reader, word)
        members = [
            _member(reader, image["id"], project_id)
            for project_id in reader.column(
                "SELECT project_id FROM image_members WHERE image_id = ? ORDER BY created_at",
                image["id"],
            )
        ]
    owner = image["project_id"] == context.project_id
    return [each for each in members if owner or each.id == context.project_id]


def set_member(context: Context, word: str, project: str | None, status: str) -> Done[Image]:
    """Accept an image, reject it, or think about it again: for the member itself.

    ``project`` None is the asker's own; only the cloud's operator answers for others.
    """
    if status not in MEMBER_STATUSES:
        raise UsageError(f"'{status}' is not one of {', '.join(MEMBER_STATUSES)}.")

    def work(writer: Writer) -> Image:
        image = usable_image(context, writer, word)
        project_id = context.project_id
        if project is not None:
            project_id = find(writer, "projects", project, noun="project")["id"]
        if project_id != context.project_id and context.project_name != ADMIN_PROJECT:
            raise Forbidden("A project accepts or rejects for itself only. Nothing was changed.")
        member = _member(writer, image["id"], project_id)
        writer.run(
            "UPDATE image_members SET status = ? WHERE image_id = ? AND project_id = ?",
            status,
            image["id"],
            member.id,
        )
        return image_from(writer, image)

    arguments = {"project": project, "status": status}
    return change_one(context, "answer", "image", word, arguments, work, image_from)


def remove_member(context: Context, word: str, project: str) -> Done[Image]:
    """Share an image with a project no more. Servers that it made keep their disks."""

    def work(writer: Writer) -> Image:
        image = own_image(context, writer, word)
        found = find(writer, "projects", project, noun="project")
        member = _member(writer, image["id"], found["id"])
        writer.run(
            "DELETE FROM image_members WHERE image_id = ? AND project_id = ?",
            image["id"],
            member.id,
        )
        return image_from(writer, image)

    return change_one(context, "unshare", "image", word, {"project": project}, work, image_from)


def _shared(context: Context, writer: Writer, word: str) -> Row:
    image = own_image(context, writer, word)
    if image["visibility"] != "shared":
        raise Conflict(
            f"Image {image['name']} is {image['visibility']}: only shared images have members.",
            hint=f"stackctl image-set {image['id']} --shared",
        )
    return image


def _member(reader: Reader, image_id: str, project_id: str) -> Member:
    row = reader.one(
        "SELECT projects.id, projects.name, image_id, status, image_members.created_at "
        "FROM image_members JOIN projects ON projects.id = project_id "
        "WHERE image_id = ? AND project_id = ?",
        image_id,
        project_id,
    )
    if row is None:
        name = reader.get("projects", project_id)["name"]
        image = reader.get("images", image_id)["name"]
        raise NotFound(
            f"Project {name} is not a member of image {image}.",
            hint=f"stackctl image-member-list {image_id}",
        )
    return Member(**row)
