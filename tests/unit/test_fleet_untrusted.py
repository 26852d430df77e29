"""Whatever a host sends is bounded, printable, and of the promised shape, or refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.wire import Fault
from stackctl.errors import AgentFailed
from stackctl.fleet import untrusted

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("plain words", "plain words"),
        ("\x1b[31mred\x1b]0;title\x07", "[31mred]0;title"),
        ("a\r\nb\tc\x00", "a\nb\tc"),
        ("abc\u202efdp.exe\u2066", "abcfdp.exe"),
        ("\ud800lone", "lone"),
        ("Grüße 北京", "Grüße 北京"),
    ],
)
def test_text_keeps_what_can_be_read(said, kept):
    assert untrusted.text(said) == kept


def test_text_is_cut():
    assert len(untrusted.text("x" * 100_000)) == untrusted.TEXT_LIMIT
    assert untrusted.line("a\nb   c") == "a b c"


def report(**values):
    return {"kind": "domain", "id": "d1", "result": "made", "version": 1, **values}


def test_a_report_becomes_what_the_agent_meant():
    fault = {"message": "no\nspace", "command": "qemu-img", "detail": "line 1\nline 2"}
    plain = report(result="failed", facts={"uuid": "u"}, fault=fault, seconds=1.5)
    (found,) = untrusted.reports([plain])
    assert (found.kind, found.id, found.result, found.version) == ("domain", "d1", "failed", 1)
    assert found.fault == Fault("no space", "qemu-img", "line 1\nline 2")
    assert found.facts == {"uuid": "u"}
    assert found.seconds == 1.5


@pytest.mark.parametrize(
    "bad",
    [
        "text",
        report(kind="Do main"),
        report(kind=7),
        report(id="../../etc"),
        report(id="a b"),
        report(id="x" * 200),
        report(id="\x1b[2J"),
        report(result="exploded"),
        report(result=["made"]),
        report(version=-1),
        report(version=True),
        report(version=2**70),
        report(version="1"),
        report(facts=["list"]),
        report(facts={"deep": [[[[[[[[[[[1]]]]]]]]]]]}),
    ],
)
def test_reports_that_cannot_be_are_refused(bad):
    with pytest.raises(AgentFailed):
        untrusted.reports([bad])


def test_seconds_that_cannot_be_count_as_none():
    for seconds in (-1, float("nan"), float("inf"), "long", None, True):
        assert untrusted.reports([report(seconds=seconds)])[0].seconds == 0.0


def test_only_contents_that_were_named_may_be_asked_for():
    known, other = "a" * 64, "b" * 64
    assert untrusted.hashes([known], {known}) == [known]
    for wanted in ([other], "x", [known, 7], ["../../etc/shadow"], None):
        with pytest.raises(AgentFailed):
            untrusted.hashes(wanted, {known})


@given(JSON)
def test_any_value_is_made_harmless_or_refused(value):
    try:
        cleaned = untrusted.plain(value)
    except AgentFailed:
        return
    text = json.dumps(cleaned, allow_nan=False, ensure_ascii=False)
    text.encode()
    assert "\x1b" not in text


@given(JSON)
def test_any_value_as_a_report_is_read_or_refused(value):
    try:
        untrusted.reports(value)
        untrusted.reports([value])
    except AgentFailed:
        pass
