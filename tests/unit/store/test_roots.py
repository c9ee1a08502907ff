"""Clients' paths in a container, and what API and Go make of a file's mode."""

from __future__ import annotations

import stat

import pytest

from dockyard.edge.api.archive import path_stat
from dockyard.engine.files import PathStat
from dockyard.store.roots import absolute


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"a/b", b"/a/b"), (b"/a/b/", b"/a/b/"), (b".", b"/."), (b"/a/b/.", b"/a/b/."), (b"/a/./b", b"/a/b"),
        (b"/", b"/"),
        (b"../../a", b"/a"), (b"/a/../b", b"/b"), (b"//a//b", b"/a/b"), (b"/a/./", b"/a/./"), (b"/..", b"/"),
    ],
)  # fmt: skip
def test_a_path_from_the_root(path: bytes, expected: bytes) -> None:
    assert absolute(path) == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (stat.S_IFREG | 0o644, 0o644),
        (stat.S_IFDIR | 0o1777, 1 << 31 | 1 << 20 | 0o777),
        (stat.S_IFLNK | 0o777, 1 << 27 | 0o777),
        (stat.S_IFCHR | 0o600, 1 << 26 | 1 << 21 | 0o600),
        (stat.S_IFBLK | 0o600, 1 << 26 | 0o600),
        (stat.S_IFIFO | 0o600, 1 << 25 | 0o600),
        (stat.S_IFSOCK | 0o700, 1 << 24 | 0o700),
        (stat.S_IFREG | 0o6755, 1 << 23 | 1 << 22 | 0o755),
    ],
)
def test_modes_as_go_has_them(mode: int, expected: int) -> None:
    assert path_stat(PathStat("f", 1, mode, 0, ""))["mode"] == expected


def test_names_of_any_bytes_can_be_told() -> None:
    assert path_stat(PathStat("\udcff", 1, stat.S_IFREG, 0, ""))["name"] == "\ufffd"
