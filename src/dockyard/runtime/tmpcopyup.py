"""The mount option `tmpcopyup`: a tmpfs begins with what the directory beneath it holds.

Owns: copying a tree from one descriptor to another, by names that nothing can lead astray (no link is followed).
Does not own: mounting (`runtime.rootfs`). Runs in the container's first process; standard library only. Source: OCI
runtime-spec 1.2, config.md, "Linux mount options".
"""

from __future__ import annotations

import os
import stat

OPTION = "tmpcopyup"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20


def copy(source: int, target: int) -> None:
    """What the directory `source` holds to `target`, whose own owner and mode stay; descriptors, also of O_PATH."""
    below, above = (os.open(".", _DIRECTORY, dir_fd=fd) for fd in (source, target))
    try:
        _copy_directory(below, above)
    finally:
        os.close(below)
        os.close(above)


def _copy_directory(source: int, target: int) -> None:
    for name in os.listdir(source):
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFSOCK:
            continue
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            below, above = (os.open(name, _DIRECTORY, dir_fd=fd) for fd in (source, target))
            try:
                _copy_directory(below, above)
                os.fchown(above, found.st_uid, found.st_gid)
                os.fchmod(above, stat.S_IMODE(found.st_mode))
                os.utime(above, ns=(found.st_atime_ns, found.st_mtime_ns))
            finally:
                os.close(below)
                os.close(above)
            continue
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif kind == stat.S_IFREG:
            _copy_file(source, target, name)
        else:
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
            os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: str) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            while os.sendfile(writing, reading, None, _CHUNK):
                pass
        finally:
            os.close(writing)
    finally:
        os.close(reading)
