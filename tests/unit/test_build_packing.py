"""The build context as a tar: what the walk finds, what ignore rules leave out, what tar(1) and tarfile read."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockyard.edge.cli.building.packing import Packer, _entry, _padding
from dockyard.edge.cli.errors import CliError
from dockyard.proto.dockerignore import Ignore


def _packed(root: Path, *rules: str, **more: Any) -> tarfile.TarFile:
    ignore = Ignore.parse("\n".join(rules)) if rules else None
    return _read(b"".join(Packer(str(root), ignore, **more)))


def _read(data: bytes) -> tarfile.TarFile:
    return tarfile.TarFile(fileobj=io.BytesIO(data), errors="surrogateescape")


def _tree(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_files_directories_and_links_as_they_are(tmp_path: Path) -> None:
    _tree(tmp_path, "a", "d/b", "d/e/c")
    (tmp_path / "d").chmod(0o2750)
    (tmp_path / "a").chmod(0o4755)
    (tmp_path / "link").symlink_to("../nowhere")
    os.link(tmp_path / "a", tmp_path / "same")
    os.utime(tmp_path / "a", (1, 1_600_000_000.75))
    tar = _packed(tmp_path)
    assert tar.getnames() == ["a", "d", "d/b", "d/e", "d/e/c", "link", "same"]
    members = {each.name: each for each in tar.getmembers()}
    assert (members["a"].mode, members["a"].mtime, members["a"].uid, members["a"].gid) == (0o4755, 1_600_000_000, 0, 0)
    assert members["d"].mode == 0o2750
    assert (members["link"].type, members["link"].linkname) == (tarfile.SYMTYPE, "../nowhere")
    assert (members["same"].type, members["same"].linkname) == (tarfile.LNKTYPE, "a")
    file = tar.extractfile("d/e/c")
    assert file is not None
    assert file.read() == b"d/e/c"


def test_sockets_stay_and_pipes_go(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        tar = _packed(tmp_path)
    assert [(m.name, m.type) for m in tar.getmembers()] == [("pipe", tarfile.FIFOTYPE)]


def test_ignored_files_stay_and_exceptions_go(tmp_path: Path) -> None:
    _tree(tmp_path, "keep", "x.log", "logs/a", "logs/b", "node_modules/p/q", "Dockerfile", ".dockerignore")
    tar = _packed(tmp_path, "*.log", "logs", "!logs/b", "node_modules", "Dockerfile", always=("Dockerfile",))
    assert tar.getnames() == [".dockerignore", "Dockerfile", "keep", "logs/b"]


def test_what_is_always_sent_is_found_in_ignored_directories(tmp_path: Path) -> None:
    _tree(tmp_path, "docker/Dockerfile", "docker/other", "a")
    assert _packed(tmp_path, "*", always=("docker/Dockerfile",)).getnames() == ["docker/Dockerfile"]


def test_an_ignored_directory_is_not_even_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tree(tmp_path, "big/a/b", "c")
    listed = []
    scandir = os.scandir

    def noted(path: str) -> Any:
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", noted)
    _packed(tmp_path, "big")
    assert listed == [str(tmp_path)]


def test_extra_files_come_first_and_replace(tmp_path: Path) -> None:
    _tree(tmp_path, ".dockerignore", "a")
    tar = _packed(tmp_path, extra={".dockerignore": b"new\n", "x": b"y"})
    assert tar.getnames() == [".dockerignore", "x", "a"]
    file = tar.extractfile(".dockerignore")
    assert file is not None
    assert file.read() == b"new\n"


def test_a_file_that_becomes_shorter_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 3_000_000)
    pieces = iter(Packer(str(tmp_path)))
    next(pieces)
    path.write_bytes(b"")
    with pytest.raises(CliError, match="log became shorter"):
        list(pieces)


def test_a_file_that_grows_is_sent_as_long_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 3_000_000)
    pieces = iter(Packer(str(tmp_path)))
    first = next(pieces)
    path.write_bytes(b"y" * 4_000_000)
    tar = _read(first + b"".join(pieces))
    assert tar.getmember("log").size == 3_000_000


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    _tree(tmp_path, "secret")
    (tmp_path / "secret").chmod(0)
    with pytest.raises(CliError, match=r"cannot read .*secret: permission denied"):
        _packed(tmp_path)


def test_long_names_and_names_that_are_no_text(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    (deep / "f").symlink_to("t" * 150)
    odd = os.fsencode(tmp_path) + b"/\xff\xfe"
    with open(odd, "wb"):
        pass
    tar = _read(b"".join(Packer(str(tmp_path))))
    names = {each.name: each for each in tar.getmembers()}
    assert names[f"{'d' * 120}/{'e' * 120}/f"].linkname == "t" * 150
    assert os.fsdecode(b"\xff\xfe") in names


@settings(max_examples=60, deadline=None)
@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=200),
    size=st.integers(0, 1 << 40),
    mode=st.integers(0, 0o7777),
    mtime=st.integers(-(10**9), 1 << 35),
)
def test_any_header_is_read_as_it_was_meant(name: str, size: int, mode: int, mtime: int) -> None:
    head = b"".join(_entry(name, mode, b"0", size=size, mtime=mtime))
    tar = _read(head)
    member = tar.next()
    assert member is not None
    assert (member.name, member.size, member.mode, int(member.mtime)) == (name, size, mode, mtime)


def test_entries_are_whole_blocks() -> None:
    assert {len(_padding(n)) + n for n in (1, 511, 512, 513)} == {512, 1024}
    assert len(b"".join(_entry("x" * 300, 0, b"0"))) % 512 == 0


def test_numbers_are_counted(tmp_path: Path) -> None:
    _tree(tmp_path, "a", "d/b")
    packer = Packer(str(tmp_path))
    assert sum(map(len, packer)) == packer.bytes
    assert packer.files == 3
