"""docs/dockerfile.md names every case, and the cases leave out no instruction, flag, mount type, field or directive."""

from __future__ import annotations

import re
from pathlib import Path

from dockyard.proto.dockerfile import checks, lines, mounts, parse
from tests.unit.proto.dockerfile.test_conformance import CASES

DOCUMENT = (Path(__file__).parents[4] / "docs" / "dockerfile.md").read_text()


def test_the_table_is_the_list_of_cases() -> None:
    table = DOCUMENT.partition("## Conformance")[2].partition("Variables:")[0]
    assert re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE) == list(CASES)


def test_every_rule_is_there() -> None:
    table = DOCUMENT.partition("## Build checks")[2].partition("## .dockerignore")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(checks.RULES)


def test_every_instruction_flag_and_mount_has_a_case() -> None:
    names = list(CASES)
    for instruction in parse.INSTRUCTIONS:
        assert any(name.split()[0] == instruction for name in names), instruction
        for flag in parse.FLAGS.get(instruction, {}):
            assert any(re.match(rf"{instruction} --{flag}\b", name) for name in names), (instruction, flag)
    for kind in mounts.TYPES:
        assert f"RUN --mount=type={kind}" in names
    for directive in lines.DIRECTIVES:
        assert directive in names


def test_every_field_of_a_mount_is_in_a_case() -> None:
    written = " ".join(case.text for name, case in CASES.items() if "--mount" in name)
    fields = set(re.findall(r"[=, ](\w+)(?==|,| )", written)) | {"type"}
    spelled = {mounts.NAMES[field] for field in fields if field in mounts.NAMES}
    assert spelled == set(mounts.NAMES.values())
