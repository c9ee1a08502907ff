"""docs/fields.md has a row for every field of the API's description, and each names a test that is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dockyard.edge.api import wire
from dockyard.engine.execs import ExecConfig
from tests.support.schema import specification

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/fields.md"
STATES = {"works", "refused", "client's", "no effect, as in Docker"}
OPERATIONAL = {  # of an endpoint: what it got, which nobody asks for
    "NetworkID", "EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "IPv6Gateway", "GlobalIPv6Address",
    "GlobalIPv6PrefixLen", "DNSNames",
}  # fmt: skip


def rows() -> dict[str, dict[str, tuple[str, str]]]:
    """Section → field → (state, test)."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    section = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        match = re.match(r"\| (\w+) \| ([^|]+) \|.*\| `(\w+::\w+)` \|$", line)
        if match:
            assert match[1] not in found.setdefault(section, {}), f"{section}.{match[1]} is there twice"
            found[section][match[1]] = (match[2], match[3])
    return found


def fields(schema: dict[str, Any]) -> set[str]:
    names: set[str] = set()
    todo = [schema]
    while todo:
        each = todo.pop()
        if "$ref" in each:
            todo.append(specification()["definitions"][each["$ref"].rpartition("/")[2]])
        names |= set(each.get("properties", {}))
        todo += each.get("allOf", [])
    return names


def described(section: str) -> set[str]:
    if section == "ExecConfig":
        return set(wire.wire_type(ExecConfig).__struct_encode_fields__) - {"Timeout"}  # that is ours
    return fields(specification()["definitions"][section]) - (OPERATIONAL if section == "EndpointSettings" else set())


@pytest.mark.parametrize(
    "section", ["ContainerConfig", "HostConfig", "NetworkingConfig", "EndpointSettings", "ExecConfig"]
)
def test_every_field_has_a_row(section: str) -> None:
    assert set(rows()[section]) == described(section)


def test_every_row_names_a_test_that_is_there() -> None:
    texts: dict[str, str] = {}
    for section, fields_of in rows().items():
        for name, (state, test) in fields_of.items():
            assert state in STATES, f"{section}.{name}: {state}"
            module, _, function = test.partition("::")
            path = ROOT / "tests/conformance" / f"{module}.py"
            text = texts.setdefault(module, path.read_text())
            assert re.search(rf"^def {function}\(", text, re.MULTILINE), f"{section}.{name}: no test {test}"
