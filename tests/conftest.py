"""Options of all suites, and the look at the machine after each module of the kernel suite."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from tests.support import leaks


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        choices=("both", "dockerd", "dockyardd"),
        default="both",
        help="which engine the conformance suite asks: Debian's dockerd, ours, or one after the other",
    )
    parser.addoption("--before", default="", help="of the conformance suite, only the files with names before this one")
    parser.addoption("--from", dest="since", default="", help="of the conformance suite, only the other files")


@pytest.fixture(autouse=True, scope="module")
def machine_as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a module of the kernel suite: no child, no descriptor; where nobody else works (CI), also no mount, cgroup,
    link, namespace or firewall rule that was not there before."""
    if "kernel" not in request.path.parts:
        yield
        return
    alone = bool(os.environ.get("CI"))
    before = leaks.machine(alone)
    yield
    gc.collect()
    left = leaks.settle(lambda: leaks.machine(alone).left(before))
    assert not left, "left behind:\n" + "\n".join(left)
