"""docs/docker-py.md lists what is left out of docker-py's own tests, and why, as `support.docker_py` does."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.docker_py import FILES_LEFT_OUT, LEFT_OUT, RUNS

PAGE = Path(__file__).parents[2] / "docs/docker-py.md"


def test_the_page_lists_what_is_left_out() -> None:
    listed = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE))
    assert listed == {**LEFT_OUT, **FILES_LEFT_OUT}


def test_nothing_is_left_out_of_what_is_not_run() -> None:
    files = {name.partition("::")[0] for names in RUNS.values() for name in names}
    assert {name.partition("::")[0] for name in LEFT_OUT} <= files
    assert not files & FILES_LEFT_OUT.keys()
