"""docs/runtime.md lists what is left out of crun's tests, and why, as `support.oci_suites` does."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.oci_suites import CRUN_LEFT_OUT

PAGE = Path(__file__).parents[2] / "docs/runtime.md"


def test_the_page_lists_what_is_left_out() -> None:
    assert dict(re.findall(r"^\| `(test_\w+\.py [^`]+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE)) == CRUN_LEFT_OUT
