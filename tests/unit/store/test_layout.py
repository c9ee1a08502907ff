"""The data root: lock, format, modes, trash."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from dockyard.model.errors import Conflict, SystemFailure
from dockyard.store import layout as layout_module
from dockyard.store.layout import Layout, write_file
from dockyard.store.trees import remove_tree


def layout_in(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data", tmp_path / "run")


def test_a_second_daemon_is_refused_naming_the_first(tmp_path: Path) -> None:
    first, second = layout_in(tmp_path), layout_in(tmp_path)
    first.open()
    with pytest.raises(Conflict, match=f"pid {os.getpid()}"):
        second.open()
    first.close()
    second.open()
    second.close()


def test_a_daemon_with_another_data_root_is_refused_too_where_containers_of_the_first_run(tmp_path: Path) -> None:
    """It would kill them: what runs there is in no database of its own."""
    first, second = layout_in(tmp_path), Layout(tmp_path / "other", tmp_path / "run")
    first.open()
    with pytest.raises(
        Conflict, match=rf"exec root {tmp_path}/run is in use by another dockyardd \(pid {os.getpid()}\)"
    ):
        second.open()
    first.close()
    second.open()
    Layout(tmp_path / "other", tmp_path / "run2").close()  # never opened: nothing is let go of
    with pytest.raises(Conflict, match="data root"):
        Layout(tmp_path / "other", tmp_path / "run2").open()
    second.close()


def test_a_newer_format_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "format").write_text("2\n")
    with pytest.raises(SystemFailure, match="format '2'"):
        layout_in(tmp_path).open()
    assert sorted(os.listdir(tmp_path / "data")) == ["format", "lock"]


def test_s36_no_other_user_enters_what_holds_layers(tmp_path: Path) -> None:
    layout = layout_in(tmp_path)
    old = os.umask(0)
    try:
        layout.open()
    finally:
        os.umask(old)
    assert layout.data_root.stat().st_mode & 0o777 == 0o711
    for path in (layout.snapshots, layout.blobs, layout.ingest, layout.trash):
        assert path.stat().st_mode & 0o777 == 0o700, path
    assert layout.exec_root.stat().st_mode & 0o777 == 0o711
    layout.close()


def test_s26_names_are_single_components(tmp_path: Path) -> None:
    layout = layout_in(tmp_path)
    for name in ("", ".", "..", "a/b", "/etc", "a\0b"):
        with pytest.raises(ValueError, match="component"):
            layout.container(name)


def test_what_is_discarded_is_gone_at_once_and_deleted_behind(tmp_path: Path) -> None:
    layout = layout_in(tmp_path)
    layout.open()
    (layout.volumes / "v" / "sub").mkdir(parents=True)
    layout.discard(layout.volumes / "v")
    layout.discard(layout.volumes / "never-there")
    assert not (layout.volumes / "v").exists()
    assert layout.drain(10)
    assert os.listdir(layout.trash) == []
    layout.close()


def test_open_sweeps_what_a_crash_left(tmp_path: Path) -> None:
    layout = layout_in(tmp_path)
    layout.open()
    (layout.ingest / "half").write_bytes(b"x")
    (layout.trash / "old" / "deep").mkdir(parents=True)
    layout.close()
    layout.open()
    assert os.listdir(layout.ingest) == []
    assert layout.drain(10)
    assert os.listdir(layout.trash) == []
    layout.close()


def test_a_tree_deeper_than_any_limit_is_removed(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):  # beyond PATH_MAX and the recursion limit
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=deeper))
        os.close(fd)
        fd = deeper
    os.close(fd)
    top = os.open(tmp_path, os.O_RDONLY)
    remove_tree(top, "d")
    os.close(top)
    assert os.listdir(tmp_path) == []


def test_removal_follows_no_symlink(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "file").write_text("x")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "link").symlink_to("../keep")
    (tmp_path / "link").symlink_to("keep")
    top = os.open(tmp_path, os.O_RDONLY)
    for name in ("gone", "link", "absent"):
        remove_tree(top, name)
    os.close(top)
    assert os.listdir(tmp_path) == ["keep"]
    assert (tmp_path / "keep" / "file").exists()


def test_write_file_replaces_whole_and_leaves_no_temporary(tmp_path: Path) -> None:
    write_file(tmp_path / "f", b"one")
    write_file(tmp_path / "f", b"two")
    assert (tmp_path / "f").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["f"]


def test_a_disk_without_room_for_a_name_in_the_trash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As xfs refuses: what is discarded is deleted where it is, and what cannot be deleted now, is later."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    layout = layout_in(tmp_path)
    layout.open()
    place = layout.containers / "box"
    (place / "deep").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        layout.discard(place)
    assert not place.exists() and os.listdir(layout.trash) == []
    monkeypatch.setattr(layout_module, "_TRY_AGAIN", 0.01)
    place.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(layout_module, "remove_tree", full)
        layout.discard(place)
        assert layout.drain()
        assert len(os.listdir(layout.trash)) == 1
    deadline = time.monotonic() + 5
    while os.listdir(layout.trash):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    layout.close()
