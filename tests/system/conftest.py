"""Helpers of the tests on real engines; the fixtures are in tests/engines.py."""

import secrets

from tests.engines import Shell, eventually

__all__ = ["Shell", "eventually", "unique_prefix"]


def unique_prefix() -> str:
    """A lab prefix that nobody else on this machine has."""
    return "t" + secrets.token_hex(3)
