"""Give a queued image its content."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from stackctl.errors import Conflict
from stackctl.identity.context import Context
from stackctl.image import placing, states
from stackctl.image.receiving import Expected, Received, Source, received
from stackctl.image.service import own_image
from stackctl.image.types import Image, Url, image_from
from stackctl.image.words import check_sums
from stackctl.operation.events import note
from stackctl.operation.outcome import Done
from stackctl.operation.recover import settle_interrupted
from stackctl.operation.run import Operation, begin
from stackctl.state import Row, Writer, read, write
from stackctl.stores.web import checked_url


@dataclass(frozen=True)
class Upload:
    """How an image gets its content: into which store, and what its hash must be."""

    store: str | None = None
    expected_sha256: str | None = None
    expected_sha512: str | None = None


def upload_image(
    context: Context,
    word: str,
    source: Source,
    upload: Upload | None = None,
    size_hint: int = 0,
) -> Done[Image]:
    """Give a queued image its content, from a stream or a URL; a failure leaves it queued.

    It is ``saving`` (a stream) or ``importing`` (a URL) meanwhile. Errors as of ``create_image``.
    """
    upload = upload or Upload()
    check_sums(upload.expected_sha256, upload.expected_sha512)
    arguments = {"word": word, **asdict(upload)}
    if isinstance(source, Url):
        checked_url(source.address)
        arguments["url"] = asdict(source)
    if context.request_id is not None:
        # What a killed upload left is queued again, and its request is as if it never was.
        settle_interrupted(context)
    with begin(context, "image-upload", f"upload image {word}", arguments) as operation:
        if operation.repeated is not None:
            return operation.again(lambda row: _uploaded_before(context, word))
        return _Uploading(operation, word, source, upload, size_hint).run()


def _uploaded_before(context: Context, word: str) -> Image:
    with read(context.cloud) as reader:
        return image_from(reader, own_image(context, reader, word))


@dataclass
class _Uploading:
    """One upload: a transaction that announces it, the content, a transaction that keeps it."""

    operation: Operation
    word: str
    source: Source
    upload: Upload
    size_hint: int

    def run(self) -> Done[Image]:
        """Both transactions, and the way back when the content does not come."""
        with placing.swept_on_failure(self.operation.context) as attempt:
            image = self.operation.transact(self._announce)
            try:
                value = self._receive(image, attempt)
            except BaseException:
                self._give_up(image)
                raise
        self.operation.converge()
        return self.operation.finish(value)

    def _announce(self, writer: Writer) -> Row:
        image = own_image(self.operation.context, writer, self.word)
        action = "import" if isinstance(self.source, Url) else "upload"
        status = states.after(image, action)
        writer.update("images", image["id"], status=status, operation_id=self.operation.id)
        return image

    def _receive(self, image: Row, attempt: placing.Attempt) -> Image:
        context = self.operation.context
        url = self.source.address if isinstance(self.source, Url) else None
        store = placing.chosen_store(context, self.upload.store, url)
        sums = self.upload.expected_sha256, self.upload.expected_sha512
        expected = Expected(image["name"], image["disk_format"] or None, *sums, self.size_hint)
        got = attempt.enter_context(received(context, self.source, expected))
        attempt.placing = True
        place = attempt.enter_context(placing.placed(context, store, got.part, url))
        return self.operation.transact(
            lambda writer: self._keep(writer, image["id"], got, place),
            lambda _: {"table": "images", "id": image["id"]},
        )

    def _keep(
        self, writer: Writer, image_id: str, got: Received, place: placing.Placement
    ) -> Image:
        context = self.operation.context
        image = writer.get("images", image_id)
        if not context.dry_run:  # a rehearsal announced nothing
            self._check_still_ours(image)
        url = self.source if isinstance(self.source, Url) else None
        writer.update(
            "images",
            image_id,
            **got.columns(image["min_disk_gb"] or None, image["container_format"]),
            status="active",
            operation_id=None,
            source_url=url.address if url else None,
            host_may_fetch=int(url is not None and url.host_fetch),
            version=image["version"] + 1,
        )
        place.record(writer, image_id)
        note(
            writer,
            "upload",
            "image",
            {"id": image_id, "name": image["name"]},
            self.operation.summary,
            user_name=context.operator,
            operation_id=self.operation.id,
        )
        return image_from(writer, writer.get("images", image_id))

    def _check_still_ours(self, image: Row) -> None:
        if image["deleted_at"] is not None:
            raise Conflict(
                f"Image {image['name']} was deleted while its content came. Nothing was kept."
            )
        states.after(image, "keep")
        if image["operation_id"] != self.operation.id:
            raise Conflict(f"Somebody else gives image {image['name']} its content now.")

    def _give_up(self, image: Row) -> None:
        context = self.operation.context
        if context.dry_run:
            return
        with write(context.cloud) as writer:
            writer.run(
                "UPDATE images SET status = 'queued', operation_id = NULL "
                "WHERE id = ? AND operation_id = ?",
                image["id"],
                self.operation.id,
            )
        self.operation.abandon("the content did not come")
