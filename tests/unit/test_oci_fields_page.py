"""docs/oci-fields.md has a row for each field of the runtime specification's schemas, with a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.oci_schema_fields import fields

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/oci-fields.md"
STATES = {"works", "refused", "no effect"}


def rows() -> dict[str, dict[str, tuple[str, str]]]:
    """Section → field → (state, test)."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    section = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        match = re.match(r"\| ([\w.*\[\]]+) \| ([^|]+) \| [^|]* \| `(\w+::\w+)` \|$", line)
        if match and match[1] != "field":
            assert match[1] not in found.setdefault(section, {}), f"{section}: {match[1]} is there twice"
            found[section][match[1]] = (match[2], match[3])
    return found


@pytest.mark.parametrize("schema", ["config", "state", "features"])
def test_every_field_has_a_row(schema: str) -> None:
    assert set(rows()[schema]) == fields(schema)


def test_every_row_names_a_test_that_is_there() -> None:
    texts: dict[str, str] = {}
    for path in (ROOT / "tests").glob("*/test_*.py"):
        texts[path.stem] = texts.get(path.stem, "") + path.read_text()
    for section in rows().values():
        for name, (state, test) in section.items():
            assert state in STATES, f"{name}: {state}"
            module, _, function = test.partition("::")
            assert re.search(rf"^def {function}\(", texts[module], re.MULTILINE), f"{name}: no test {test}"


def test_the_schemas_are_walked_to_their_leaves() -> None:
    found = fields("config")
    assert {"process.user.uid", "mounts[].options", "linux.netDevices.*.name", "hooks.prestart[].args"} <= found
    assert {"linux.resources.rdma.*.hcaHandles", "linux.seccomp.syscalls[].args[].op", "annotations"} <= found
    assert not {"process", "linux.resources.blockIO.weightDevice[]", "linux.seccomp.syscalls[].names[]"} & found
