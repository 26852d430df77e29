"""Every command that documentation shows exists, with all its options."""

import pytest

from tests.docs.examples import Example, Walk, calls, examples, pages, problem

ALL = [example for page in pages() for example in examples(page)]


@pytest.mark.parametrize("example", ALL, ids=str)
def test_example_exists(example):
    for words in calls(example.text):
        assert problem(words) == "", example.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("version", ""),
        ("--cloud lab version --trace", ""),
        ("server list", ""),
        ("completion bash", ""),
        ("completion tcsh", "none of"),
        ("completion", "missing"),
        ("version extra", "unexpected"),
        ("version --colour", "No such option"),
        ("fly", "no command"),
    ],
)
def test_problems_are_found(words, said):
    found = problem(words.split())
    assert (said in found) if said else (found == "")


def test_calls_in_a_line_of_shell():
    line = "ID=$(stackctl list -f value -c ID | head -1) && A=1 sudo stackctl show 'a b' > /tmp/x"
    assert ["show", "a b"] in calls(line)
    assert calls("stackctl list | grep stackctl") == [["list"]]
    assert calls("echo stackctl list") == []


def test_blocks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n```console\n$ stackctl boot \\\n    --count 4 web\nprinted\n$ true\n```\n"
        "```sh skip\nstackctl list\n```\n```yaml\n$ stackctl no\n```\n"
    )
    assert examples(page) == [
        Example(page, 3, "stackctl boot --count 4 web", True),
        Example(page, 6, "true", True),
        Example(page, 9, "stackctl list", False),
    ]


def test_a_walk_stops_at_what_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo one > file\n$ cat file\n$ exit 3\n$ touch never\n```\n")
    walk = Walk({}, tmp_path)
    with pytest.raises(AssertionError, match="exit 3"):
        walk.page(page)
    assert walk.outputs[f"{page}:3"] == "one\n"
    assert not (tmp_path / "never").exists()
