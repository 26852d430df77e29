"""A Swift whose users a real Keystone knows: by password, and by application credential."""

from __future__ import annotations

import hashlib
import io

import pytest

from stackctl.errors import ResourceFailed
from stackctl.stores.swift import SwiftStore
from stackctl.stores.types import StoreSettings
from tests import keystone as ks
from tests.objectstore import free_ports, object_store

pytestmark = pytest.mark.slow

CONTENT = b"an image" * 50_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """A Keystone that knows one user of one Swift."""
    (port,) = free_ports(1)
    with (
        ks.keystone(tmp_path_factory.mktemp("keystone"), port) as running,
        object_store(tmp_path_factory.mktemp("swift"), running.url, ks.ADMIN_PASSWORD) as swift,
    ):
        running.has_swift(swift.endpoint)
        yield running


def store(identity, user, key, **options):
    """A store of that Swift."""
    given = {"auth_url": identity.url, "container": "images", **options}
    return SwiftStore(StoreSettings("cold", "swift", given, {"user": user, "key": key}))


def check_store(opened) -> None:
    """What is put is there until it is deleted."""
    opened.put(SHA256, io.BytesIO(CONTENT), len(CONTENT))
    assert opened.exists(SHA256)
    assert b"".join(opened.get(SHA256)) == CONTENT
    opened.delete(SHA256)
    assert not opened.exists(SHA256)


def test_a_password_opens_it(identity):
    check_store(store(identity, ks.USER, ks.PASSWORD, auth="password", project=ks.PROJECT))


def test_an_application_credential_opens_it(identity):
    id_, secret = identity.credential()
    check_store(store(identity, id_, secret, auth="application-credential", region=ks.REGION))


def test_a_token_that_ended_is_renewed(identity):
    opened = store(identity, ks.USER, ks.PASSWORD, auth="password", project=ks.PROJECT)
    opened.put(SHA256, io.BytesIO(CONTENT), len(CONTENT))
    opened._client.token = "gone"
    assert opened.exists(SHA256)


@pytest.mark.parametrize(
    ("user", "key", "options", "words"),
    [
        (ks.USER, "wrong", {"auth": "password", "project": ks.PROJECT}, "HTTP 401"),
        (ks.USER, ks.PASSWORD, {"auth": "password", "project": "nosuch"}, "HTTP 401"),
        ("nosuch", "wrong", {"auth": "application-credential"}, "HTTP 40"),
        (
            ks.USER,
            ks.PASSWORD,
            {"auth": "password", "project": ks.PROJECT, "region": "south"},
            "failed",
        ),
        (
            ks.USER,
            ks.PASSWORD,
            {"auth": "password", "project": ks.PROJECT, "auth_url": "http://127.0.0.1:9/v3"},
            "Unable to establish connection",
        ),
    ],
)
def test_what_does_not_open_it_fails_in_words(identity, user, key, options, words):
    opened = store(identity, user, key, **options)
    with pytest.raises(ResourceFailed) as caught:
        opened.exists(SHA256)
    assert words in str(caught.value)
    assert ks.PASSWORD not in str(caught.value)
