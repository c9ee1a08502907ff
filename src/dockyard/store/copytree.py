"""Copying and measuring directory trees that somebody else filled.

Owns: the worker functions `copy` (for vfs: everything of a tree, hard links kept, nothing followed) and `usage`.
Does not own: overlay's marks (vfs has none).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Any

from dockyard.model.errors import SystemFailure

_LINKS = 4096  # hard-linked files that are kept so; descriptors are not for free
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy(*, fds: Sequence[int], source: str, target: str, marks: bool = False) -> dict[str, Any]:
    """Worker: copy what the directory `source` holds into the directory `target`, which is empty.

    `marks`: overlay's own attributes too (the copy of a writable layer is a layer).
    """
    from_fd, to_fd = os.open(source, _DIRECTORY), os.open(target, _DIRECTORY)
    try:
        Copier(marks).directory(from_fd, to_fd)
    except OSError as error:
        raise SystemFailure(f"copying a layer: {error.strerror}") from error
    finally:
        os.close(from_fd)
        os.close(to_fd)
    return {}


def copy_entry(name: bytes, source: int, new_name: bytes, target: int) -> None:
    """Copy `name` in the directory `source` (a descriptor), whatever it is, as `new_name` into `target`. OSError."""
    Copier().entry(name, source, target, new_name)


def usage(*, fds: Sequence[int], path: str) -> dict[str, Any]:
    """Worker: {"size": bytes of the regular files beneath `path`, each counted once, "entries": their number}."""
    total = entries = 0
    seen: set[tuple[int, int]] = set()
    for _, _, names, at in os.fwalk(path, follow_symlinks=False):
        for name in names:
            try:
                found = os.stat(name, dir_fd=at, follow_symlinks=False)
            except FileNotFoundError:
                continue  # a running container goes on changing it
            entries += 1
            if stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) not in seen:
                if found.st_nlink > 1:
                    seen.add((found.st_dev, found.st_ino))
                total += found.st_size
    return {"size": total, "entries": entries}


class Copier:
    """Copies entries one by one, or directories with all that is in them; hard links among them are kept."""

    def __init__(self, marks: bool = False) -> None:
        self._marks = marks
        self._links: dict[tuple[int, int], tuple[int, bytes]] = {}  # device, inode -> an earlier copy: directory, name
        self._kept: list[int] = []

    def directory(self, source: int, target: int) -> None:
        with os.scandir(source) as entries:
            names = sorted(os.fsencode(entry.name) for entry in entries)
        for name in names:
            self.entry(name, source, target, name)
        copy_attributes(source, target, marks=self._marks)

    def entry(self, old: bytes, source: int, target: int, name: bytes) -> None:
        found = os.stat(old, dir_fd=source, follow_symlinks=False)
        mode = found.st_mode
        if stat.S_ISDIR(mode):
            os.mkdir(name, 0o700, dir_fd=target)
            inner, copied = os.open(old, _DIRECTORY, dir_fd=source), os.open(name, _DIRECTORY, dir_fd=target)
            try:
                self.directory(inner, copied)
            finally:
                os.close(inner)
                os.close(copied)
            return
        if stat.S_ISREG(mode):
            self._file(old, found, source, target, name)
            return
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(old, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISSOCK(mode):
            return
        else:
            os.mknod(name, mode, found.st_rdev, dir_fd=target)
            os.chmod(name, stat.S_IMODE(mode), dir_fd=target)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
        os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _file(self, old: bytes, found: os.stat_result, source: int, target: int, name: bytes) -> None:
        known = self._links.get((found.st_dev, found.st_ino))
        if known is not None:
            os.link(known[1], name, src_dir_fd=known[0], dst_dir_fd=target, follow_symlinks=False)
            return
        original = os.open(old, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
        try:
            copied = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
            try:
                copy_content(original, copied)
                copy_attributes(original, copied, marks=self._marks)
            finally:
                os.close(copied)
        finally:
            os.close(original)
        if found.st_nlink > 1 and len(self._kept) < _LINKS:
            self._links[found.st_dev, found.st_ino] = (self._keep(target), name)

    def _keep(self, fd: int) -> int:
        own = os.dup(fd)
        self._kept.append(own)
        return own

    def __del__(self) -> None:
        for fd in self._kept:
            os.close(fd)


def copy_content(source: int, target: int) -> None:
    """Everything that is in a file: by reflink or within the kernel where that works. OSError."""
    while True:
        try:
            if not os.copy_file_range(source, target, 1 << 30):
                return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            break
    while os.sendfile(target, source, None, 1 << 30):
        pass


def copy_attributes(source: int, target: int, *, marks: bool = False) -> None:
    """Owner, mode, extended attributes and times of one open file or directory to another."""
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source):
        if name.startswith("trusted.overlay.") and not marks:
            continue  # a layer's marks say nothing elsewhere
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # a file system that has no such attributes
                raise
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
