"""Packing: a tree becomes a tar from which the same tree comes again."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dockyard.model.errors import SystemFailure
from dockyard.store.pack import pack
from dockyard.store.recipe import rebuild
from tests.unit.store.tars import Unpacked

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes and trusted attributes")


def packed(tree: Path, **options: Any) -> tuple[bytes, dict[str, Any]]:
    with open(tree.parent / "packed.tar", "w+b") as file:
        result = pack(fds=[file.fileno()], tree=str(tree), **options)
        file.seek(0)
        return file.read(), result


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    """An upper directory with everything that one can have."""
    tree = tmp_path / "upper"
    (tree / "d" / "sub").mkdir(parents=True)
    tree.chmod(0o751)
    (tree / "d" / "file").write_bytes(os.urandom(3_000_000))
    os.chown(tree / "d" / "file", 7, 3_000_000)  # more than ustar's seven octal digits hold
    (tree / "d" / "file").chmod(0o4755)
    os.utime(tree / "d" / "file", ns=(1, 1_700_000_000_987_654_321))
    os.link(tree / "d" / "file", tree / "same")
    (tree / "link").symlink_to("x" * 150)
    (tree / ("n" * 120)).write_text("long name")
    (tree / "ümläut").write_text("not ASCII")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tree / "d" / "gone", stat.S_IFCHR | 0o600, 0)
    os.setxattr(tree / "d" / "sub", "trusted.overlay.opaque", b"y")
    os.setxattr(tree / "d" / "sub", "trusted.overlay.origin", b"?")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
    return tree


def seen(tree: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(tree.rglob("*")):
        state = path.lstat()
        if stat.S_ISSOCK(state.st_mode):
            continue
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        size = 0 if path.is_dir() else state.st_size
        where = os.readlink(path) if path.is_symlink() else None
        opaque = path.is_dir() and "trusted.overlay.opaque" in os.listxattr(path)
        mtime = 0 if path.name == "gone" else int(state.st_mtime)
        found[str(path.relative_to(tree))] = (
            state.st_mode, state.st_uid, state.st_gid, size, mtime, state.st_rdev, state.st_nlink,
            content, where, opaque,
        )  # fmt: skip
    return found


def test_an_upper_directory_comes_back_from_its_tar(upper: Path, tmp_path: Path) -> None:
    data, result = packed(upper)
    got = Unpacked(tmp_path / "again", data)
    assert seen(got.root) == {k: v for k, v in seen(upper).items() if k != "socket"}
    assert got.result["root"] == (0o751, 0, 0)
    assert {k: got.result[k] for k in ("digest", "tar_size", "size")} == {
        k: result[k] for k in ("digest", "tar_size", "size")
    }
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:  # another reader agrees
        names = tar.getnames()
        assert tar.getmember("d/file").gid == 3_000_000
        assert {"d/.wh.gone", "d/sub/.wh..wh..opq", "n" * 120, "ümläut"} <= set(names)
        assert tar.getmember("same").linkname == "d/file" or tar.getmember("d/file").linkname == "same"
    assert not [name for name in os.listxattr(got.root / "d" / "sub") if "origin" in name]


def test_the_same_tree_gives_the_same_bytes(upper: Path) -> None:
    first, _ = packed(upper)
    (upper / "d" / "file").read_bytes()  # access times do not count
    assert packed(upper)[0] == first


def test_a_tree_that_is_taken_over_needs_no_copy(upper: Path, tmp_path: Path) -> None:
    """Only hashed, with the recipe beside it: the tar comes out of the tree itself."""
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    result = pack(fds=[], tree=str(upper), recipe=str(recipe))
    parts: list[bytes] = []
    rebuild(str(recipe), str(upper), lambda view: parts.append(bytes(view)))
    data, written = packed(upper)
    assert b"".join(parts) == data
    assert result == written


def test_a_name_that_would_mean_a_whiteout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper" / ".wh.passwd").write_text("x")
    with pytest.raises(SystemFailure, match="whiteout"):
        packed(tmp_path / "upper")
