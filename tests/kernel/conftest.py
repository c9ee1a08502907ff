"""Fixtures of tests on the real kernel: runtimes on private ground that must leave nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.runtime.bundle import Bundler, Host
from tests.support.ground import CommandGround, Ground, MonitorGround
from tests.support.leaks import settle
from tests.support.oci import OURS, Bundle, OciRuntime, docker_config


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


@pytest.fixture(params=["runc", "ours"])
def runtime(request: pytest.FixtureRequest) -> OciRuntime:
    """Both, one after the other: what passes with runc first is known to be asked rightly."""
    found: OciRuntime = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def bundle(tmp_path: Path, bundler: Bundler) -> Bundle:
    """Docker's default container on busybox."""
    tmp_path.chmod(0o711)
    return Bundle(tmp_path / "bundle", docker_config(bundler))


@pytest.fixture(params=["command", "monitor"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """Both ways into a container."""
    if request.param == "command":
        for runtime in _runtime(OURS, tmp_path / "ours"):
            yield CommandGround(runtime)
        return
    monitors = MonitorGround(tmp_path / "monitors")
    try:
        yield monitors
    finally:
        monitors.close()
    assert monitors.errors.read_text() == ""
