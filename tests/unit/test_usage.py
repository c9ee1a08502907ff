"""The kernel's lines about a control group, as numbers and as JSON."""

from __future__ import annotations

import json

import pytest

from dockyard.runtime.cgroups.usage import fields, fields_json

MEMORY_STAT = "cache 0\nrss 1048576\nhierarchical_memory_limit 9223372036854771712\n"


@pytest.mark.parametrize("text", [MEMORY_STAT, ""])
def test_lines_become_the_json_of_their_numbers(text: str) -> None:
    assert json.loads(fields_json(text.encode())) == fields(text)


def test_each_name_has_its_number() -> None:
    assert fields(MEMORY_STAT) == {"cache": 0, "rss": 1 << 20, "hierarchical_memory_limit": 9223372036854771712}
