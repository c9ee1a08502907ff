"""Looking through layers as overlayfs would, against what hostile layers may contain."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dockyard.store.mergedtree import MergedTree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts need root")


def layer(place: Path, *entries: str) -> str:
    """A layer: "a/b" a file, "a/" a directory, "a->b" a link, "!a" a whiteout, "a/*" an opaque directory."""
    place.mkdir()
    for entry in entries:
        if entry.startswith("!"):
            (place / entry[1:]).parent.mkdir(parents=True, exist_ok=True)
            os.mknod(place / entry[1:], stat.S_IFCHR, 0)
        elif "->" in entry:
            name, _, target = entry.partition("->")
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(target, place / name)
        elif entry.endswith("/*"):
            (place / entry[:-2]).mkdir(parents=True, exist_ok=True)
            os.setxattr(place / entry[:-2], "trusted.overlay.opaque", b"y")
        elif entry.endswith("/"):
            (place / entry).mkdir(parents=True, exist_ok=True)
        else:
            (place / entry).parent.mkdir(parents=True, exist_ok=True)
            (place / entry).write_text(f"{place.name}:{entry}")
    return str(place)


@pytest.fixture
def tree(tmp_path: Path) -> MergedTree:
    bottom = layer(tmp_path / "0", "a", "d/one", "d/two", "e/x/deep", "f/file", "g/was/a", "link->d", "etc/passwd")
    middle = layer(tmp_path / "1", "!a", "d/three", "!d/one", "e/x/*", "e/x/new", "!f/file", "g/was", "h->/link/../etc")
    top = layer(
        tmp_path / "2", "a/", "a/inside", "d/two", "f/file/", "loop->loop", "up->../../../../etc/passwd", "g/was/"
    )
    return MergedTree([top, middle, bottom])


def test_merging(tree: MergedTree) -> None:
    with tree:
        assert tree.names(b"") == [b"a", b"d", b"e", b"etc", b"f", b"g", b"h", b"link", b"loop", b"up"]
        assert tree.names(b"a") == [b"inside"]
        assert tree.names(b"d") == [b"three", b"two"]
        assert tree.names(b"e/x") == [b"new"]
        assert tree.names(b"f/file") == [] and tree.names(b"g/was") == []
        assert tree.read(b"d/two") == b"2:d/two" and tree.read(b"d/three") == b"1:d/three"
        assert tree.lookup(b"d/one") is None and tree.lookup(b"e/x/deep") is None and tree.lookup(b"g/was/a") is None
        assert tree.parts(b"d") == [0, 1, 2] and tree.parts(b"e/x") == [1] and tree.parts(b"a") == [0]


def test_links_are_followed_within_the_root(tree: MergedTree, tmp_path: Path) -> None:
    with tree:
        assert tree.read(b"link/two") == b"2:d/two"
        assert tree.read(b"h/passwd") == b"0:etc/passwd"
        assert tree.read(b"up") == b"0:etc/passwd"  # never the host's
        assert tree.resolve(b"/../../link/../d/./two") == b"d/two"
        assert tree.resolve(b"link/not/there") == b"d/not/there"
        assert tree.resolve(b"link", follow=False) == b"link"
        assert tree.lookup(b"loop", follow=True) is None and tree.lookup(b"loop/x") is None
        found = tree.lookup(b"loop")
        assert found is not None and found.is_symlink
        with pytest.raises(OSError):
            tree.resolve(b"loop/x")
        assert tree.lookup(b"d/\0") is None and tree.lookup(b"x" * 5000) is None
        assert tree.lookup(b"etc/passwd/below") is None


def test_descriptors_are_few_and_given_back(tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / "l" / str(number) / "x").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    with MergedTree([str(tmp_path / "l")]) as tree:
        for number in range(600):
            assert tree.names(f"{number}".encode()) == [b"x"]
        assert len(os.listdir("/proc/self/fd")) < before + 300
    assert len(os.listdir("/proc/self/fd")) == before
