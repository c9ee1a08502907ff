"""`dockyard cp`: what its paths mean, and what a hostile archive cannot do."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from dockyard.edge.cli.copying import local, paths
from dockyard.edge.cli.copying.packing import pack
from dockyard.edge.cli.copying.paths import Place
from dockyard.edge.cli.copying.unpacking import unpack
from dockyard.edge.cli.errors import CliError


@pytest.mark.parametrize(
    ("text", "container", "path"),
    [
        ("web:/etc/hosts", "web", "/etc/hosts"),
        ("web:etc", "web", "etc"),
        ("web:/a:b", "web", "/a:b"),
        ("/a:b", "", "/a:b"),
        ("./a:b", "", "./a:b"),
        ("-", "", "-"),
        ("file", "", "file"),
        (":/x", "", "/x"),
    ],
)
def test_which_side_a_path_is_on(text: str, container: str, path: str) -> None:
    assert paths.split_argument(text) == (container, path)


@pytest.mark.parametrize(
    ("path", "directory", "name"),
    [
        ("/a/b", "/a", "b"),
        ("/a/b/", "/a", "b"),
        ("/a/b/.", "/a/b", "."),
        ("/", "/", "/"),
        ("b", ".", "b"),
        ("/b", "/", "b"),
    ],
)
def test_the_last_component(path: str, directory: str, name: str) -> None:
    assert paths.split_entry(path) == (directory, name)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (Place("/s/f"), Place("/d", True, True), ("/d", "")),
        (Place("/s/f"), Place("/d/x", True), ("/d", "x")),
        (Place("/s/f"), Place("/d/new", False), ("/d", "new")),
        (Place("/s/f"), Place("/d/new/", False), "no such directory"),
        (Place("/s", True, True), Place("/d", True, True), ("/d", "")),
        (Place("/s", True, True), Place("/d/x", True), "cannot copy directory"),
        (Place("/s", True, True), Place("/d/new/", False), ("/d", "new")),
        (Place("/real", True, True, "asked"), Place("/d", True, True), ("/d", "asked")),
    ],
)
def test_where_it_goes(source: Place, target: Place, expected: tuple[str, str] | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(CliError, match=expected):
            paths.destination(source, target)
    else:
        assert paths.destination(source, target) == expected


def tar(*entries: tuple[str, bytes, str]) -> bytes:
    """Entries of (name, kind, link or content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, text in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            if kind == tarfile.REGTYPE:
                entry.size = len(text)
            else:
                entry.linkname = text
            archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.mark.parametrize(
    "entries",
    [
        [("../evil", tarfile.REGTYPE, "x")],
        [("a/../../evil", tarfile.REGTYPE, "x")],
        [("l", tarfile.SYMTYPE, ".."), ("l/evil", tarfile.REGTYPE, "x")],
        [("l", tarfile.SYMTYPE, "../victim"), ("h", tarfile.LNKTYPE, "l/secret")],
        [("h", tarfile.LNKTYPE, "../victim/secret"), ("h", tarfile.REGTYPE, "x")],
        [("d", tarfile.DIRTYPE, ""), ("d", tarfile.SYMTYPE, "../victim"), ("d/evil", tarfile.REGTYPE, "x")],
    ],
)
def test_s24_s29_nothing_is_made_outside(tmp_path: Path, entries: list[tuple[str, bytes, str]]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/secret").write_text("kept")
    with pytest.raises(CliError):
        unpack(iter([tar(*entries)]), str(tmp_path / "in"), "x", "", False)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in", "victim"]
    assert [each.name for each in (tmp_path / "victim").iterdir()] == ["secret"]
    assert (tmp_path / "victim/secret").read_text() == "kept" and (tmp_path / "victim/secret").stat().st_nlink == 1


def test_an_absolute_name_and_a_link_in_the_way_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/f").symlink_to(tmp_path / "victim")
    unpack(iter([tar(("/f", tarfile.REGTYPE, "new"))]), str(tmp_path / "in"), "x", "", False)
    assert (tmp_path / "in/f").read_text() == "new" and (tmp_path / "victim").read_text() == "kept"


def test_a_tree_goes_there_and_back(tmp_path: Path) -> None:
    source = tmp_path / "from"
    (source / "d/e").mkdir(parents=True)
    (source / "d/f").write_bytes(b"f" * 1_000_000)
    os.link(source / "d/f", source / "same")
    (source / "l").symlink_to("d/f")
    os.mkfifo(source / "p")
    os.chmod(source / "d", 0o2750)
    os.utime(source / "d", (1, 1_600_000_000))
    (tmp_path / "to").mkdir()
    unpack(pack(str(source), "from"), str(tmp_path / "to"), "from", "copy", False)
    copy = tmp_path / "to/copy"
    assert (copy / "d/f").read_bytes() == b"f" * 1_000_000 and (copy / "d/f").samefile(copy / "same")
    assert os.readlink(copy / "l") == "d/f" and (copy / "p").is_fifo() and (copy / "d/e").is_dir()
    assert (copy / "d").stat().st_mode & 0o7777 == 0o2750 and (copy / "d").stat().st_mtime == 1_600_000_000


def test_an_archive_that_breaks_off_leaves_no_half_file(tmp_path: Path) -> None:
    data = tar(("whole", tarfile.REGTYPE, "x"), ("half", tarfile.REGTYPE, "y" * 100_000))
    with pytest.raises(CliError, match="half"):
        unpack(iter([data[:50_000]]), str(tmp_path), "x", "", False)
    assert [each.name for each in tmp_path.iterdir()] == ["whole"]


def test_what_is_no_place_for_a_copy(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="does not exist"):
        local.check_output(str(tmp_path / "no/such"))
    with pytest.raises(CliError, match="got a device"):
        local.check_output("/dev/null")
    with pytest.raises(CliError, match="not a directory"):
        local.target(str(tmp_path / "no/such"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CliError, match="too many symlinks"):
        local.target(str(tmp_path / "loop"))
    with pytest.raises(CliError, match="no such file or directory"):
        local.source(str(tmp_path / "missing"), False)
