"""Fixtures of tests on the real kernel: runtimes on private ground that must leave nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.leaks import settle
from tests.support.oci import OURS, OciRuntime

from dockyard.runtime.bundle import Bundler, Host


@pytest.fixture(scope="session")
def bundler() -> Bundler:
    return Bundler(Host.probe())


def _runtime(command: list[str], directory: Path) -> Iterator[OciRuntime]:
    runtime = OciRuntime(command, directory / "state")
    try:
        yield runtime
    finally:
        runtime.close()
    left = settle(runtime.left)
    assert not left, left


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[OciRuntime]:
    """dockyard-runtime."""
    yield from _runtime(OURS, tmp_path / "ours")


@pytest.fixture
def runc(tmp_path: Path) -> Iterator[OciRuntime]:
    """runc, for comparison."""
    path = shutil.which("runc")
    if path is None:
        pytest.skip("runc is not installed")
    yield from _runtime([path], tmp_path / "runc")
