"""Which volumes a start takes away: those that a killed daemon was about to make or to remove, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.engine.volumes import Volumes
from dockyard.model.mounts import MountPoint
from dockyard.store.layout import Layout


async def measure(function: str, arguments: dict[str, Any]) -> Any:
    raise FileNotFoundError(arguments["path"])


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    made = Layout(tmp_path / "data", tmp_path / "exec")
    made.open()
    yield made
    made.close()


def anonymous(volumes: Volumes) -> str:
    point = MountPoint(type="volume", destination="/data", anonymous=True)
    assert volumes.resolve(point)
    assert Path(point.source).is_dir()
    return point.name


def names(layout: Layout) -> set[str]:
    return {path.name for path in layout.volumes.iterdir()}


def test_a_creation_that_was_cut(layout: Layout) -> None:
    volumes = Volumes(layout, measure)
    cut, finished = anonymous(volumes), anonymous(volumes)
    volumes.keep([finished])
    Volumes(layout, measure).sweep(used=[])
    assert names(layout) == {finished}
    assert cut != finished


def test_cut_between_the_row_and_the_mark(layout: Layout) -> None:
    name = anonymous(Volumes(layout, measure))
    Volumes(layout, measure).sweep(used=[name])
    assert names(layout) == {name}
    Volumes(layout, measure).sweep(used=[])  # left by a removal without -v later on
    assert names(layout) == {name}


def test_a_removal_that_was_cut(layout: Layout) -> None:
    volumes = Volumes(layout, measure)
    name = anonymous(volumes)
    volumes.keep([name])
    volumes.doubt([name])  # then its row went, and the daemon with it
    Volumes(layout, measure).sweep(used=[])
    assert names(layout) == set()


def test_named_volumes_stay(layout: Layout) -> None:
    volumes = Volumes(layout, measure)
    assert not volumes.resolve(MountPoint(type="volume", destination="/data", name="mine"))
    volumes.sweep(used=[])
    assert names(layout) == {"mine"}


def test_one_that_goes_while_it_is_measured_has_no_size(layout: Layout) -> None:
    assert asyncio.run(Volumes(layout, measure).usage("gone")) == 0
