"""Copying and measuring directory trees that somebody else filled.

Owns: the worker functions `copy` (for vfs: everything of a tree, hard links kept, nothing followed) and `usage`.
Does not own: overlay's marks (vfs has none).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dockyard.linux import abi
from dockyard.linux.calls import openat2
from dockyard.linux.walking import walk
from dockyard.model.errors import SystemFailure

_LINKS = 4096  # hard-linked files that are kept so; descriptors are not for free
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = abi.RESOLVE_BENEATH | abi.RESOLVE_NO_SYMLINKS | abi.RESOLVE_NO_MAGICLINKS
_FICLONE = 0x40049409  # ioctl_ficlone(2)
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM})


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
    for directory in walk(path):
        for name in directory.names:
            try:
                found = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
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
        """What a directory has, and its attributes, into an empty one. One after another, without recursion: a
        container may have nested its directories deep. What vanishes meanwhile is left out."""
        waiting, made = [b""], []
        while waiting:
            path = waiting.pop()
            made.append(path)
            with _opened(source, path) as inner, _opened(target, path) as copied:
                for name in sorted(os.fsencode(name) for name in os.listdir(inner)):
                    try:
                        if self._alone(name, inner, copied, name):
                            waiting.append(path + b"/" + name if path else name)
                    except FileNotFoundError:
                        continue
        for path in reversed(made):  # at the end, for every child changes its directory's time
            with _opened(source, path) as inner, _opened(target, path) as copied:
                copy_attributes(inner, copied, marks=self._marks)

    def entry(self, old: bytes, source: int, target: int, name: bytes) -> None:
        """One entry, with everything beneath it."""
        if not self._alone(old, source, target, name):
            return
        with _opened(source, old) as inner, _opened(target, name) as copied:
            self.directory(inner, copied)

    def _alone(self, old: bytes, source: int, target: int, name: bytes) -> bool:
        """One entry; whether it is a directory, of which only the name is made."""
        found = os.stat(old, dir_fd=source, follow_symlinks=False)
        mode = found.st_mode
        if stat.S_ISDIR(mode):
            os.mkdir(name, 0o700, dir_fd=target)
            return True
        if stat.S_ISREG(mode):
            self._file(old, found, source, target, name)
            return False
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(old, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISSOCK(mode):
            return False
        else:
            os.mknod(name, mode, found.st_rdev, dir_fd=target)
            os.chmod(name, stat.S_IMODE(mode), dir_fd=target)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
        os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)
        return False

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


@contextmanager
def _opened(top: int, path: bytes) -> Iterator[int]:
    fd = openat2(top, path or b".", _DIRECTORY, 0, _BENEATH)
    try:
        yield fd
    finally:
        os.close(fd)


def copy_content(source: int, target: int) -> None:
    """Everything that is in a file, into an empty one: blocks shared where the file system can (btrfs, xfs), else its
    data within the kernel, and its holes left as holes. OSError."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    size = os.fstat(source).st_size
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole follows
                raise
            break
        at = _copy_range(source, target, at, os.lseek(source, at, os.SEEK_HOLE))
    os.ftruncate(target, size)


def _copy_range(source: int, target: int, at: int, end: int) -> int:
    """Copy the bytes from `at` to `end`, or to where the file ends by now; returns `end`."""
    while at < end:
        try:
            copied = os.copy_file_range(source, target, min(end - at, 1 << 30), at, at)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            os.lseek(target, at, os.SEEK_SET)
            copied = os.sendfile(target, source, at, min(end - at, 1 << 30))
        if not copied:
            break
        at += copied
    return end


def copy_attributes(source: int, target: int, *, marks: bool = False) -> None:
    """Owner, mode, extended attributes and times of one open file or directory to another. Its SELinux label is that of
    where it lies."""
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source):
        if name == "security.selinux" or (name.startswith("trusted.overlay.") and not marks):
            continue  # a layer's marks say nothing elsewhere
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # a file system that has no such attributes
                raise
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
