"""Going through trees that somebody else fills."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dockyard.linux.walking import walk
from dockyard.runtime import owners
from dockyard.store.commit import clamp_times
from tests.support.deeptree import LEVELS, deep_tree


def test_every_directory_once_and_no_link_followed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "a" / "file").touch()
    (tmp_path / "link").symlink_to("a")
    found = {each.path: sorted(each.names) for each in walk(str(tmp_path))}
    assert found == {b"": [b"link"], b"a": [b"file"], b"a/b": [], b"c": []}
    with pytest.raises(NotADirectoryError):
        list(walk(str(tmp_path / "a" / "file")))


def test_it_does_not_climb_out_of_a_directory_that_is_moved(tmp_path: Path) -> None:
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    (top / "a" / "b").mkdir(parents=True)
    (elsewhere / "secret").mkdir(parents=True)
    seen = []
    for directory in walk(str(top)):
        seen.append(directory.path)
        if directory.path == b"a/b":
            os.rename(top / "a" / "b", elsewhere / "b")
    assert seen == [b"", b"a", b"a/b"]


def test_any_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk itself, and those who change what they find: times of a build, owners of a `:U` bind."""
    given: list[int | bytes] = []
    monkeypatch.setattr(os, "chown", lambda name, *_, **__: given.append(name))
    monkeypatch.setattr(os, "fchown", lambda fd, *_: given.append(fd))
    with deep_tree(tmp_path / "top") as top:
        assert sum(1 for _ in walk(top)) == LEVELS
        clamp_times(str(top), 1_000_000_000)
        for directory in walk(top):
            assert os.fstat(directory.fd).st_mtime == 1
            assert all(os.stat(name, dir_fd=directory.fd).st_mtime == 1 for name in directory.names)
        fd = os.open(top, os.O_PATH)
        owners.give(fd, os.getuid() + 1, os.getgid())
        os.close(fd)
    assert len(given) == LEVELS + 1 and b"file" in given
