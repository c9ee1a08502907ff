"""Options of all suites."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        choices=("both", "dockerd", "dockyardd"),
        default="both",
        help="which engine the conformance suite asks: Debian's dockerd, ours, or one after the other",
    )
