"""The pages of documentation, typed in order as a reader would."""

from pathlib import Path

import pytest

from tests.docs.examples import Walk

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["docs/reference.md"])
def test_pages_that_need_no_lab(page, tmp_path, clouds):
    Walk({"STACKCTL_CLOUDS": str(clouds)}, tmp_path).page(ROOT / page)
