"""Removing directory trees that somebody else filled.

Owns: `remove_tree`, a deletion that needs neither recursion nor a descriptor a level, follows no symbolic link and
crosses no mount point's boundary by name. Does not own: when and what is removed (`store.layout`).

A subvolume of btrfs goes in one step, unless there are others beneath it.

A container can nest directories deeper than any recursion limit or limit of open files (mkdir and chdir in a loop), so
`shutil.rmtree` would fail on such a tree, for good.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from dockyard.linux import btrfs

_MAX_DEPTH = 32  # levels held open at a time; what is deeper is first moved up


def remove_tree(parent: int, name: str, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Delete `name` in the directory `parent` (a descriptor), whatever it is. Missing is fine.

    Directories deeper than 32 levels are renamed into `parent` under fresh names and deleted from there: `parent` must
    be a place of ours (the trash). `should_stop` is asked once a directory; True leaves the rest lying. OSError as they
    come.
    """
    waiting = [name]
    while waiting and not should_stop():
        current = waiting.pop()
        try:
            os.unlink(current, dir_fd=parent)
        except FileNotFoundError:
            continue
        except (IsADirectoryError, PermissionError):
            _empty(parent, current, parent, 1, waiting, should_stop)
            if should_stop():
                return
            _rmdir(current, parent)


def _empty(at: int, name: str, top: int, depth: int, waiting: list[str], should_stop: Callable[[], bool]) -> None:
    """Empty directory `name` beneath descriptor `at`; too deep ones move to `top` and are noted in `waiting`."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        if _is_subvolume_gone(at, name, fd):
            return
        with os.scandir(fd) as entries:
            listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for child, is_directory in listed:
            if not is_directory:
                os.unlink(child, dir_fd=fd)
            elif should_stop():
                return
            elif depth < _MAX_DEPTH:
                _empty(fd, child, top, depth + 1, waiting, should_stop)
                if not should_stop():
                    _rmdir(child, fd)
            else:
                fresh = f"deep-{os.urandom(8).hex()}"
                os.rename(child, fresh, src_dir_fd=fd, dst_dir_fd=top)
                waiting.append(fresh)
    finally:
        os.close(fd)


def _is_subvolume_gone(at: int, name: str, fd: int) -> bool:
    """Delete the directory `fd` whole if it is a subvolume that has no others beneath; whether it was."""
    if os.fstat(fd).st_ino != btrfs.ROOT_INODE or not btrfs.is_btrfs(fd):
        return False
    try:
        btrfs.delete(at, name)
    except OSError:
        return False  # its content goes first, then rmdir(2) takes it
    return True


def _rmdir(name: str, at: int) -> None:
    try:
        os.rmdir(name, dir_fd=at)
    except FileNotFoundError:
        pass  # it was a subvolume
