"""The pages of documentation, typed in order as a reader would."""

from pathlib import Path

import pytest

from tests.docs.examples import Walk

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["docs/reference.md"])
def test_pages_that_need_no_lab(page, tmp_path, clouds):
    Walk({"STACKCTL_CLOUDS": str(clouds)}, tmp_path).page(ROOT / page)


@pytest.mark.parametrize("page", ["docs/guide/getting-started.md"])
def test_pages_that_make_their_own_lab(page, tmp_path, clouds):
    walk = Walk({"STACKCTL_CLOUDS": str(clouds), "STACKCTL_CLOUD": "lab"}, tmp_path)
    try:
        walk.page(ROOT / page)
    finally:
        walk.end("stackctl lab-down --yes")
    assert not (clouds / "lab").exists()


@pytest.mark.slow
def test_guides_that_share_a_lab(tmp_path, clouds):
    """lab.md makes what the others use; each of them cleans up after itself."""
    (tmp_path / "playbooks").symlink_to(ROOT / "playbooks")
    walk = Walk({"STACKCTL_CLOUDS": str(clouds), "STACKCTL_CLOUD": "lab"}, tmp_path)
    try:
        pages = [
            "lab",
            "images",
            "networks",
            "routers",
            "security-groups",
            "seeing",
            "servers",
            "placing",
            "volumes",
            "clusters",
            "recovery",
            "scripting",
        ]
        for page in pages:
            walk.page(ROOT / "docs" / "guide" / f"{page}.md")
            left = walk.shell("stackctl list -f value -c ID").stdout
            assert left == "", f"{page}.md leaves servers"
    finally:
        walk.end("stackctl lab-down --yes")
