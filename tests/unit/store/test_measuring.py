"""Sizes of many trees: few workers, trees that change or are deep."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dockyard.model.errors import SystemFailure
from dockyard.store import copytree, inline, measuring
from tests.support.deeptree import deep_tree


def test_few_workers_measure_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    async def call(function: str, arguments: dict[str, Any], fds: Sequence[int] = ()) -> Any:
        calls.append(len(arguments["trees"]))
        return await inline.call(function, arguments, fds)

    trees = []
    for number in range(50):
        tree = tmp_path / str(number)
        tree.mkdir()
        (tree / "file").write_bytes(b"x" * number)
        trees.append(measuring.Tree(str(tree)))
    (tmp_path / "7" / "file").unlink()
    (tmp_path / "7").rmdir()
    expected = [*range(7), measuring.GONE, *range(8, 50)]

    def workers() -> list[int]:
        """How many trees each worker was given."""
        calls.clear()
        assert asyncio.run(measuring.sizes(call, trees, len(trees))) == expected
        return calls

    assert workers() == [], "so few files are looked at by a thread"
    monkeypatch.setattr(measuring, "_BY_THREAD", 20)  # each tree is a directory and a file; one is gone
    assert workers() == [39]
    monkeypatch.setattr(measuring, "_LEAST", 4)
    assert workers() == [10, 10, 10, 9]
    monkeypatch.setattr(measuring, "_MOST", 8)
    assert workers() == [8, 8, 8, 8, 7]
    (tmp_path / "0" / "deeper").mkdir()
    monkeypatch.setattr(measuring, "_AT_A_TIME", 3)
    assert workers() == [8] * 5


def test_what_another_tree_has_does_not_count(tmp_path: Path) -> None:
    for name in ("below", "own"):
        (tmp_path / name / "d").mkdir(parents=True)
        (tmp_path / name / "d" / "same").write_bytes(b"12345")
        os.utime(tmp_path / name / "d" / "same", (1, 1))
    (tmp_path / "own" / "d" / "more").write_bytes(b"1")
    trees = [measuring.Tree(str(tmp_path / "own"), str(tmp_path / "below")), measuring.Tree(str(tmp_path / "own"))]
    assert asyncio.run(measuring.sizes(inline.call, trees, 2)) == [1, 6]


def test_nothing_asks_nobody() -> None:
    async def call(function: str, arguments: dict[str, Any], fds: Sequence[int] = ()) -> Any:
        raise AssertionError("a worker was asked")

    assert asyncio.run(measuring.sizes(call, [], 0)) == []


def test_deeper_than_any_limit(tmp_path: Path) -> None:
    with deep_tree(tmp_path / "top") as top:
        before = len(os.listdir("/proc/self/fd"))
        assert copytree.usage(fds=(), path=str(top)) == {"size": 5, "entries": 1}
        assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemFailure, match=f"Not a directory: {tmp_path}/file"):
        asyncio.run(measuring.sizes(inline.call, [measuring.Tree(f"{tmp_path}/file")], 1))
