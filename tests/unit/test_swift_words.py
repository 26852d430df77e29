"""What config.yaml may say of a Swift store, and what it may not."""

from __future__ import annotations

import pytest

from stackctl.errors import UsageError
from stackctl.stores.swift import SwiftStore
from stackctl.stores.types import StoreSettings

BASE = {"auth_url": "https://keystone.example.org/v3", "container": "images"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"auth": "v2"}, "its auth is one of v1, password, application-credential"),
        ({"auth": "password"}, "it needs project"),
        ({"auth": "application-credential", "project": "p"}, "project is for auth: password"),
        ({"user_domain": "d"}, "user_domain is for auth: password"),
        ({"region": "north"}, "region is for a Keystone"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words):
    settings = StoreSettings("cold", "swift", BASE | options, {"user": "u", "key": "k"})
    with pytest.raises(UsageError, match=words):
        SwiftStore(settings)
