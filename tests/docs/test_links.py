"""Pages lead where they say, and none is left out of its index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.examples import FENCE, ROOT, pages

LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target, anchor in LINK.findall(text):
        if "://" in target:
            continue
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(there), f"{target} has no heading #{anchor}"


@pytest.mark.parametrize(
    ("index", "folder"), [("README.md", "guide"), ("docs/adr/README.md", "adr")]
)
def test_every_page_stands_in_its_index(index: str, folder: str) -> None:
    linked = {Path(target).name for target, _ in LINK.findall((ROOT / index).read_text())}
    there = {page.name for page in (ROOT / "docs" / folder).glob("*.md")}
    assert there - {"README.md"} <= linked
