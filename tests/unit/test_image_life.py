"""The life of an image: states, upload, tags, filters, members, stores in a folder."""

import dataclasses
import hashlib
import io

import pytest

from stackctl.compute.resolving import resolve
from stackctl.errors import Conflict, Forbidden, NotFound, ResourceFailed, UnsafeImage, UsageError
from stackctl.image import copying, service, sharing, states
from stackctl.image.types import ImageChange, ImageFilter, NewImage
from stackctl.image.uploading import Upload, upload_image
from stackctl.operation.recover import recover
from stackctl.state import Cloud, new_id, now, read, write
from stackctl.stores import registry
from tests.builders import new_world

RAW = b"a kernel, or a disk without a table" * 1000
SHA256 = hashlib.sha256(RAW).hexdigest()


@pytest.fixture
def context(fast_path):
    return new_world(fast_path).context


def create(context, name="img", content=RAW, **more):
    source = None if content is None else io.BytesIO(content)
    return service.create_image(context, NewImage(name, **more), source).value


def upload(context, word="img", content=RAW, how=None):
    return upload_image(context, word, io.BytesIO(content), how).value


def force(context, word, status):
    with write(context.cloud) as writer:
        writer.run("UPDATE images SET status = ? WHERE name = ?", status, word)


def files(context):
    return sorted(path.name for path in context.cloud.images.iterdir())


def project(context, name):
    with write(context.cloud) as writer:
        row = {"id": new_id(), "name": name, "created_at": now()}
        writer.insert("projects", row)
    return dataclasses.replace(context, project_id=row["id"], project_name=name)


def names(context, **wanted):
    return [image.name for image in service.list_images(context, ImageFilter(**wanted))]


ATTEMPTS = {
    "upload": lambda context: upload(context),
    "deactivate": lambda context: service.deactivate_image(context, "img").value,
    "reactivate": lambda context: service.reactivate_image(context, "img").value,
    "read": lambda context: copying.save_image(context, "img", io.BytesIO()),
    "copy": lambda context: copying.copy_image(context, "img", "nas").value,
    "delete": lambda context: service.delete_image(context, "img").value,
    "boot-with": lambda context: create(context, "disk", RAW + b"d", kernel="img"),
}


class TestStates:
    @pytest.mark.parametrize("status", states.STATUSES[:-1])
    @pytest.mark.parametrize("action", sorted(ATTEMPTS))
    def test_every_action_in_every_state(self, context, action, status, tmp_path):
        """What the table says is what the commands do: allowed, or refused with the state."""
        configure(context, f"stores: {{nas: {{kind: file, folder: {tmp_path}}}}}")
        if status in ("active", "deactivated"):
            create(context)
        else:
            create(context, content=None)
        force(context, "img", status)
        if status in states.ACTIONS[action].allowed:
            ATTEMPTS[action](context)
            return
        with pytest.raises(Conflict, match=f"Image img is {status}: it can be") as caught:
            ATTEMPTS[action](context)
        assert caught.value.exit_status == 4
        assert service.show_image(context, "img").status == status

    def test_the_whole_way(self, context):
        queued = create(context, content=None, disk_format="raw", tags=("b", "a"))
        assert (queued.status, queued.sha256, queued.stores) == ("queued", "", ())
        assert queued.tags == ("a", "b")
        active = upload(context)
        assert (active.status, active.sha256, active.stores) == ("active", SHA256, ("local",))
        assert active.min_disk_gb == 1
        assert service.deactivate_image(context, "img").value.status == "deactivated"
        assert service.reactivate_image(context, "img").value.status == "active"
        service.delete_image(context, "img")
        assert files(context) == []

    def test_nova_refuses_what_is_not_active(self, pair):
        for status in ("queued", "saving", "importing", "deactivated"):
            force(pair.context, "cirros", status)
            with read(pair.cloud) as reader, pytest.raises(Conflict) as caught:
                resolve(pair.context, reader, pair.request())
            assert caught.value.message == "Image cirros is not active."
            assert caught.value.exit_status == 4

    def test_nova_refuses_too_small_flavors(self, pair):
        for change, words in (
            ({"min_ram_mb": 513}, "Flavor's memory is too small for requested image"),
            ({"min_disk_gb": 2}, "Flavor's disk is smaller than the minimum size specified in"),
        ):
            service.set_image(pair.context, "cirros", ImageChange(**change))
            with read(pair.cloud) as reader, pytest.raises(Conflict, match=words):
                resolve(pair.context, reader, pair.request())
            zero = dict.fromkeys(change, 0)
            service.set_image(pair.context, "cirros", ImageChange(**zero))
        with read(pair.cloud) as reader:
            resolve(pair.context, reader, pair.request())


class Observed(io.BytesIO):
    """A stream that looks at an image while it is read."""

    def __init__(self, look):
        super().__init__(RAW)
        self.look = look

    def read(self, count=-1):
        self.look()
        return super().read(count)


class TestUpload:
    def test_what_is_seen_meanwhile(self, context):
        create(context, content=None)
        seen = []
        stream = Observed(lambda: seen.append(service.show_image(context, "img").status))
        upload_image(context, "img", stream)
        assert set(seen) == {"saving"}

    @pytest.mark.parametrize(
        ("content", "how", "error"),
        [
            (b"KDMV" + RAW, Upload(), UnsafeImage),
            (RAW, Upload(expected_sha256="0" * 64), Conflict),
            (RAW, Upload(expected_sha512="0" * 128), Conflict),
            (RAW, Upload(store="http"), Conflict),
            (RAW, Upload(store="nowhere"), NotFound),
        ],
    )
    def test_a_failure_leads_back_to_queued(self, context, content, how, error):
        create(context, content=None)
        with pytest.raises(error):
            upload(context, "img", content, how)
        assert service.show_image(context, "img").status == "queued"
        assert files(context) == []
        assert upload(context).status == "active"

    def test_an_interruption_leads_back_to_queued(self, context):
        create(context, content=None)

        def interrupt():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            upload_image(context, "img", Observed(interrupt))
        assert service.show_image(context, "img").status == "queued"
        assert recover(context) == []

    def test_a_killed_upload_is_queued_again_by_the_next_command(self, context, monkeypatch):
        create(context, content=None)
        with monkeypatch.context() as dying:
            dying.setattr("stackctl.image.uploading._Uploading._give_up", lambda *_: None)
            asked = dataclasses.replace(context, request_id="r")
            with pytest.raises(UnsafeImage):
                upload(asked, "img", b"KDMV")
        assert service.show_image(context, "img").status == "saving"
        create(context, "other", b"another command")
        assert service.show_image(context, "img").status == "queued"
        assert upload(asked).status == "active"
        assert upload(asked).status == "active"  # a repeated request

    def test_a_repeated_request_after_a_kill_uploads(self, context, monkeypatch):
        create(context, content=None)
        asked = dataclasses.replace(context, request_id="r")
        with monkeypatch.context() as dying:
            dying.setattr("stackctl.image.uploading._Uploading._give_up", lambda *_: None)
            with pytest.raises(UnsafeImage):
                upload_image(asked, "img", io.BytesIO(b"KDMV"))
        assert upload_image(asked, "img", io.BytesIO(RAW)).value.status == "active"

    def test_deleted_meanwhile(self, context):
        create(context, content=None)
        stream = Observed(lambda: names(context) and service.delete_image(context, "img"))
        with pytest.raises(Conflict, match="was deleted while its content came"):
            upload_image(context, "img", stream)
        assert (names(context), files(context)) == ([], [])

    def test_a_rehearsal_leaves_it_queued(self, context):
        create(context, content=None)
        rehearsal = dataclasses.replace(context, dry_run=True)
        assert upload(rehearsal).status == "active"
        assert service.show_image(context, "img").status == "queued"
        assert files(context) == []

    def test_the_declared_format_counts(self, context):
        create(context, content=None, disk_format="qcow2")
        with pytest.raises(UnsafeImage, match="declared qcow2"):
            upload(context)

    def test_sha512(self, context):
        create(context, expected_sha512=hashlib.sha512(RAW).hexdigest().upper())
        with pytest.raises(Conflict, match="its SHA-512 is"):
            create(context, "other", expected_sha512="0" * 128)


class TestList:
    def test_filters(self, context):
        create(context, "a", tags=("x", "y"), properties={"os": "debian", "v": "12"})
        create(context, "b", tags=("x",), visibility="public", properties={"os": "debian"})
        create(context, "c", content=None)
        create(context, "d", hidden=True)
        assert names(context) == ["a", "b", "c"]
        assert names(context, tags=("x",)) == ["a", "b"]
        assert names(context, tags=("x", "y")) == ["a"]
        assert names(context, properties={"os": "debian", "v": "12"}) == ["a"]
        assert names(context, status="queued") == ["c"]
        assert names(context, visibility="public") == ["b"]
        assert names(context, name="b") == ["b"]
        assert names(context, hidden=True) == ["d"]

    def test_set_and_unset(self, context):
        create(context, tags=("a",), properties={"p": "1", "q": "2"})
        service.set_image(context, "img", ImageChange(tags=("b",), hidden=True, protected=True))
        change = ImageChange(tags_removed=("a",), properties_removed=("p", "absent"))
        image = service.set_image(context, "img", change).value
        assert (image.tags, image.properties) == (("b",), {"q": "2"})
        assert (image.hidden, image.protected) == (True, True)
        with pytest.raises(UsageError, match="at most 128 tags"):
            service.set_image(context, "img", ImageChange(tags=tuple(map(str, range(128)))))
        with pytest.raises(UsageError, match="is no property"):
            service.set_image(context, "img", ImageChange(properties={"protected": "1"}))


class TestMembers:
    @pytest.fixture
    def other(self, context):
        return project(context, "other")

    def test_pending_accepted_rejected(self, context, other):
        """A member may use a shared image at once; it is listed when he has accepted it."""
        create(context)
        with pytest.raises(NotFound):
            service.show_image(other, "img")
        sharing.add_member(context, "img", "other")
        assert service.show_image(other, "img").name == "img"
        assert names(other) == []
        sharing.set_member(other, "img", None, "accepted")
        assert names(other) == ["img"]
        sharing.set_member(other, "img", None, "rejected")
        assert names(other) == []
        (member,) = sharing.list_members(context, "img")
        assert (member.name, member.status) == ("other", "rejected")
        sharing.remove_member(context, "img", "other")
        with pytest.raises(NotFound):
            service.show_image(other, "img")

    def test_what_a_member_may_not(self, context, other):
        third = project(context, "third")
        create(context)
        sharing.add_member(context, "img", "other")
        sharing.add_member(context, "img", "third")
        assert [member.name for member in sharing.list_members(other, "img")] == ["other"]
        with pytest.raises(Forbidden):
            sharing.set_member(other, "img", "third", "accepted")
        for refused in (
            lambda: sharing.add_member(other, "img", "third"),
            lambda: sharing.remove_member(other, "img", "third"),
            lambda: service.set_image(other, "img", ImageChange(name="x")),
            lambda: service.deactivate_image(other, "img"),
            lambda: service.delete_image(other, "img"),
            lambda: copying.copy_image(other, "img", "local"),
        ):
            with pytest.raises(NotFound):
                refused()
        sharing.set_member(context, "img", "third", "accepted")  # the operator, for others
        assert names(third) == ["img"]

    def test_only_the_operator_reads_what_is_deactivated(self, context, other):
        create(context)
        sharing.add_member(context, "img", "other")
        copying.save_image(other, "img", io.BytesIO())
        service.deactivate_image(context, "img")
        with pytest.raises(Forbidden, match="only the operator"):
            copying.save_image(other, "img", io.BytesIO())
        copying.save_image(context, "img", io.BytesIO())

    def test_only_shared_images_have_members(self, context, other):
        for visibility in ("public", "private", "community"):
            create(context, visibility, visibility=visibility)
            with pytest.raises(Conflict, match="only shared images have members"):
                sharing.add_member(context, visibility, "other")
        create(context)
        sharing.add_member(context, "img", "other")
        sharing.set_member(other, "img", None, "accepted")
        service.set_image(context, "img", ImageChange(visibility="private"))
        assert "img" not in names(other)
        with pytest.raises(NotFound):
            service.show_image(other, "img")

    def test_words_that_make_no_sense(self, context, other):
        create(context)
        sharing.add_member(context, "img", "other")
        for project_word, error in (("other", Conflict), ("admin", Conflict), ("no", NotFound)):
            with pytest.raises(error):
                sharing.add_member(context, "img", project_word)
        with pytest.raises(NotFound, match="is not a member"):
            sharing.set_member(context, "img", "admin", "accepted")
        with pytest.raises(UsageError):
            sharing.set_member(other, "img", None, "perhaps")

    def test_at_most_128(self, context, monkeypatch):
        monkeypatch.setattr(sharing, "MAX_MEMBERS", 1)
        create(context)
        project(context, "one")
        project(context, "two")
        sharing.add_member(context, "img", "one")
        with pytest.raises(Conflict, match="which is the limit"):
            sharing.add_member(context, "img", "two")


def configure(context, text):
    (context.cloud.folder / "config.yaml").write_text(text + "\n")
    context.cloud.__dict__.pop("config", None)


class TestStores:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("stores: [a]", "not a mapping"),
            ("stores: {local: {kind: file, folder: /x}}", "named neither local nor http"),
            ("stores: {x: {kind: tape}}", "its kind is one of"),
            ("stores: {x: {kind: file}}", "folder is missing"),
            ("stores: {x: {kind: file, folder: /x, colour: red}}", "colour is unknown"),
            ("stores: {x: {kind: s3, endpoint: http://x, bucket: y}}", "X_ACCESS_KEY"),
            (
                "stores: {x: {kind: s3, endpoint: h, bucket: y, credentials: absent}}",
                "cannot be read",
            ),
        ],
    )
    def test_settings_that_make_no_sense(self, context, text, words):
        configure(context, text)
        with pytest.raises(UsageError, match=words):
            create(context, store="x")
        assert files(context) == []

    def test_a_store_goes_with_the_content(self, context):
        with pytest.raises(UsageError, match="image-upload --store"):
            create(context, content=None, store="local")
        configure(context, "default_store: http")
        with pytest.raises(Conflict, match="keeps nothing"):
            create(context)
        assert create(context, content=None).status == "queued"

    def test_secrets(self, context, monkeypatch):
        configure(
            context, "stores: {a-b: {kind: s3, endpoint: h, bucket: y, credentials: keys.yaml}}"
        )
        keys = context.cloud.folder / "keys.yaml"
        keys.write_text("access_key: one\nsecret_key: two\n")
        keys.chmod(0o644)
        with pytest.raises(UsageError, match="is open to others"):
            registry.settings(context.cloud, "a-b")
        keys.chmod(0o600)
        assert registry.settings(context.cloud, "a-b").secrets["secret_key"] == "two"
        monkeypatch.setenv("STACKCTL_STORE_A_B_SECRET_KEY", "three")
        found = registry.settings(context.cloud, "a-b")
        assert (found.secrets["access_key"], found.secrets["secret_key"]) == ("one", "three")
        keys.write_text("secret_key: [two")
        with pytest.raises(UsageError, match="is not YAML") as caught:
            registry.settings(context.cloud, "a-b")
        assert "two" not in caught.value.message

    def test_a_folder_that_is_not_mounted(self, context, tmp_path):
        configure(context, f"stores: {{nas: {{kind: file, folder: {tmp_path}/nas}}}}")
        with pytest.raises(ResourceFailed, match="is not there"):
            create(context, store="nas")
        (tmp_path / "nas").mkdir()
        assert create(context, store="nas").stores == ("nas",)
        assert (tmp_path / "nas" / SHA256).read_bytes() == RAW

    def test_a_local_file_that_was_changed_is_not_saved_or_copied(self, context, tmp_path):
        configure(context, f"stores: {{nas: {{kind: file, folder: {tmp_path}}}}}")
        create(context)
        path = context.cloud.images / SHA256
        path.chmod(0o600)
        path.write_bytes(b"X" + RAW[1:])
        with pytest.raises(ResourceFailed, match="was changed in"):
            copying.save_image(context, "img", io.BytesIO())
        with pytest.raises(ResourceFailed, match="was changed in"):
            copying.copy_image(context, "img", "nas")
        assert list(tmp_path.iterdir()) == []

    def test_without_the_library_the_hint_says_what_to_install(self, context, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "boto3", None)
        monkeypatch.setenv("STACKCTL_STORE_X_ACCESS_KEY", "a")
        monkeypatch.setenv("STACKCTL_STORE_X_SECRET_KEY", "b")
        configure(context, "stores: {x: {kind: s3, endpoint: http://127.0.0.1:9, bucket: y}}")
        with pytest.raises(ResourceFailed, match="needs the package boto3") as caught:
            create(context, store="x")
        assert "stackctl[s3]" in caught.value.hint
        assert isinstance(context.cloud, Cloud)
