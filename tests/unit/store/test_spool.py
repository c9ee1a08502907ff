"""Build contexts as an index and a spool: what a tar becomes, whatever is in it; what a COPY chooses of it."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from dockyard.model.errors import DockyardError, InvalidArgument, NotFound
from dockyard.proto.dockerignore import Ignore
from dockyard.store.builds import selecting
from dockyard.store.builds.context import receive
from dockyard.store.builds.spool import BIG, SpoolTree
from tests.support.builds import File, context


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "context"
    directory.mkdir()
    yield directory


def received(directory: Path, data: bytes) -> SpoolTree:
    fd = os.memfd_create("test")
    try:
        os.write(fd, data)
        receive(fds=[fd], directory=str(directory), offset=0, length=len(data))
    finally:
        os.close(fd)
    return SpoolTree.load(str(directory))


def take(directory: Path, files: Mapping[str, bytes | str | File]) -> SpoolTree:
    return received(directory, context(files))


def test_what_a_tar_becomes(place: Path) -> None:
    tree = take(
        place,
        {
            "a": b"1",
            "d/deep/b": File(b"2", 0o4755, 5),
            "big": File(b"x" * BIG, 0o640, 7),
            "link": File(link="d"),
            "link/through": b"3",
            "again": b"old",
            "./again": b"new",
            "hard": File(link="d/deep/b", kind=tarfile.LNKTYPE),
            "fifo": File(kind=tarfile.FIFOTYPE),
            "empty": b"",
        },
    )
    assert tree.names(b"") == sorted([b"a", b"d", b"big", b"link", b"again", b"hard", b"fifo", b"empty"])
    assert tree.read(b"link/through") == b"3" and tree.read(b"d/through") == b"3"
    assert tree.read(b"again") == b"new" and tree.read(b"hard") == b"2" and tree.read(b"empty") == b""
    found = tree.lookup(b"d/deep/b")
    assert found is not None and found.status.st_mode == 0o104755 and found.status.st_mtime_ns == 5 * 10**9
    big = tree.lookup(b"big")
    assert big is not None and tree.link_source(big) is not None and tree.content(big) is None
    assert os.stat(place / "big" / "1").st_mode & 0o7777 == 0o640 and tree.read(b"big", BIG) == b"x" * BIG
    assert sorted(os.listdir(place)) == ["big", "index", "spool"]


@pytest.mark.parametrize("compress", [bytes, lambda data: gzip.compress(data, mtime=0)])
def test_compressed_or_not_and_a_dockerfile_by_itself(place: Path, compress: type[bytes]) -> None:
    assert received(place, compress(context({"a": b"1"}))).read(b"a") == b"1"
    other = place.parent / "other"
    other.mkdir()
    assert received(other, b"FROM scratch\n").read(b"Dockerfile") == b"FROM scratch\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../up": b""}, "outside"),
        ({"a/../../up": b""}, "outside"),
        ({"dev": File(kind=tarfile.CHRTYPE)}, "device"),
        ({"x" * 300: b""}, "too long"),
        ({"f": b"", "f/below": b""}, "something else"),
        ({"loop": File(link="loop"), "loop/x": b""}, "loop"),
        ({"hard": File(link="missing", kind=tarfile.LNKTYPE)}, "not in the archive"),
    ],
)
def test_hostile_contexts_are_refused_by_name(place: Path, files: dict[str, bytes | File], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        take(place, files)


@pytest.mark.parametrize(
    "data", [b"\0" * 100 + b"x" * 2000, b"\x1f\x8b\x08" + b"x" * 600, context({"a": b"1" * 9000})[:4000]]
)
def test_what_is_no_archive_is_refused(place: Path, data: bytes) -> None:
    with pytest.raises(DockyardError):
        received(place, data)


def digest(tree: SpoolTree, path: str, **more: object) -> bytes:
    source = {"spool": tree, "path": path, "pattern": True, **more}
    return selecting.digest_sources(sources=[source], excludes=(), parents=bool(more))


def test_the_digest_is_of_what_is_chosen(place: Path) -> None:
    def of(files: Mapping[str, bytes | str | File], path: str = "/d") -> bytes:
        directory = place / str(len(os.listdir(place)))
        directory.mkdir()
        return digest(take(directory, files), path)

    plain = of({"d/a": b"1", "other": b"x"})
    assert plain == of({"d/a": File(b"1", mtime=99), "other": b"y", "more": b""})
    assert plain == of({"d/a": File(b"1", uid=7)})
    for change in ({"d/a": b"2"}, {"d/a": File(b"1", 0o600)}, {"d/b": b"1"}, {"d/a": b"1", "d/e": File(link="a")}):
        assert plain != of(change)
    assert of({"a1": b"1", "a2": b"2", "b": b"3"}, "/a*") == of({"a1": b"1", "a2": b"2"}, "/a?")
    assert of({"a1": b"1"}, "/a1") != of({"a2": b"1"}, "/a2")


def test_choosing(place: Path) -> None:
    tree = take(place, {"d/x.go": b"", "d/y.md": b"", "e/x.go": b"", "l": File(link="d"), "gone": File(link="nowhere")})

    def chosen(path: str) -> list[tuple[bytes, bytes]]:
        return [(source.found.path, source.name) for source in selecting.choose(tree, path, pattern=True)]

    assert chosen("/l") == [(b"d", b"l")] and chosen("/l/x.go") == [(b"d/x.go", b"x.go")]
    assert chosen("/*/x.go") == [(b"d/x.go", b"x.go"), (b"e/x.go", b"x.go")]  # not through the link
    assert chosen("/[de]") == [(b"d", b"d"), (b"e", b"e")] and chosen("/zz*") == [] and chosen("/g*") == []
    for missing in ("/nothing", "/gone", "/d/x.go/below"):
        with pytest.raises(NotFound):
            chosen(missing)


def test_what_an_ignore_file_excludes(place: Path) -> None:
    tree = take(
        place, {"keep/a": b"", "drop/a": b"", "drop/b.md": b"", "x.md": b"", "only": File(kind=tarfile.DIRTYPE)}
    )
    tree.excluding(Ignore.parse("drop\n*.md\n!drop/b.md\n"))
    assert sorted(tree.items) == [b"drop", b"drop/b.md", b"keep", b"keep/a", b"only"]
    tree.save()
    assert sorted(SpoolTree.load(str(place)).items) == sorted(tree.items)
