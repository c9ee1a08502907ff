"""Reading out of a container: what lies at a path, as a tar; the whole file system as a tar.

Owns: the worker functions `look` (what a path is), `read` (`docker cp` out), `export`, and the tar of a tree that
somebody hostile goes on changing. Does not own: which tree (`store.roots`), layers (`store.pack`).

Nothing is followed and nothing opened that is no regular file or directory: what was looked at is what is read, by
descriptor (S20, S25). A file that shrinks is filled up with zeros, one that vanishes is left out; directories that lie
on file systems of the kernel's own are empty.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Sequence
from typing import Any, Final

from dockyard.linux import abi
from dockyard.linux.calls import openat2
from dockyard.model.errors import InvalidArgument, NotFound, SystemFailure
from dockyard.proto import tarformat as fmt
from dockyard.proto.tarformat import Entry
from dockyard.proto.tarread import show
from dockyard.store import roots
from dockyard.store.layertree import allowed_xattr

_PIPE: Final = 1 << 20  # bytes
_BUFFER: Final = 1 << 18  # bytes gathered before they are written
_SMALL: Final = 1 << 16  # bytes; what is larger goes into the pipe without being copied
_BENEATH: Final = abi.RESOLVE_BENEATH | abi.RESOLVE_NO_SYMLINKS | abi.RESOLVE_NO_MAGICLINKS
_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
_KINDS: Final = {
    stat.S_IFREG: fmt.FILE, stat.S_IFDIR: fmt.DIRECTORY, stat.S_IFLNK: fmt.SYMLINK, stat.S_IFCHR: fmt.CHARACTER,
    stat.S_IFBLK: fmt.BLOCK_DEVICE, stat.S_IFIFO: fmt.FIFO,
}  # fmt: skip


def look(*, fds: Sequence[int], place: dict[str, Any], path: str) -> dict[str, Any]:
    """Worker: what lies at `path`: {"name", "size", "mode" (of stat(2)), "mtime_ns", "link_target"}. See `_opened`."""
    with roots.standing(place) as root:
        where = roots.absolute(os.fsencode(path))
        fd = _opened(root, where, path)
        try:
            return _description(root, fd, where)
        finally:
            os.close(fd)


def read(*, fds: Sequence[int], place: dict[str, Any], path: str) -> dict[str, Any]:
    """Worker: write what `look` returns as a line of JSON to the pipe `fds[0]`, then the tar of what lies at `path`.

    NotFound "no such file" and InvalidArgument "not a directory" before anything is written. SystemFailure.
    """
    with roots.standing(place) as root:
        where = roots.absolute(os.fsencode(path))
        fd = _opened(root, where, path)
        try:
            found = _description(root, fd, where)
            out = _Out(fds[0])
            out.add(json.dumps(found).encode() + b"\n")
            # As Docker names the entries: by the last component, "." for what ends so, nothing for the root.
            name = where.rstrip(b"/").rpartition(b"/")[2]
            return _write(_TreeTar(fd, out), name)
        finally:
            os.close(fd)


def export(*, fds: Sequence[int], place: dict[str, Any]) -> dict[str, Any]:
    """Worker: write the tar of the whole file system to the pipe `fds[0]`; mount points are empty. SystemFailure."""
    with roots.standing(place, mounted=False) as root:
        return _write(_TreeTar(root, _Out(fds[0])), None)


def _write(tree: _TreeTar, name: bytes | None) -> dict[str, Any]:
    try:
        tree.run(name)
    except BrokenPipeError:
        return {"complete": False}  # the client has gone
    except OSError as error:
        raise SystemFailure(f"reading {show(tree.at or b'/')}: {error.strerror}") from error
    return {"complete": True}


def _opened(root: int, where: bytes, shown: str) -> int:
    """What lies there (O_PATH). NotFound; InvalidArgument if a component is no directory."""
    try:
        fd = roots.open_entry(root, where)
    except NotADirectoryError:
        raise InvalidArgument(f"{shown}: not a directory") from None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG):
            raise NotFound(f"{shown}: {(error.strerror or '').lower()}") from None
        raise SystemFailure(f"{shown}: {error.strerror}") from error
    if roots.is_kernels_own(fd):
        os.close(fd)
        raise NotFound(f"{shown}: on a file system of the kernel")
    return fd


def _description(root: int, fd: int, where: bytes) -> dict[str, Any]:
    found = os.fstat(fd)
    target = roots.link_target(root, where) if stat.S_ISLNK(found.st_mode) else b""
    return {
        "name": os.fsdecode(where.rstrip(b"/").rpartition(b"/")[2] or b"/"),
        "size": found.st_size,
        "mode": found.st_mode,
        "mtime_ns": found.st_mtime_ns,
        "link_target": os.fsdecode(target),
    }


class _Out:
    """A pipe, written in large pieces."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._parts: list[bytes] = []
        self._size = 0
        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)
        except OSError:
            pass  # beyond the user's allowance

    def add(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        view = memoryview(b"".join(self._parts))
        self._parts.clear()
        self._size = 0
        while view:
            view = view[os.write(self.fd, view) :]

    def file(self, fd: int, size: int) -> None:
        """`size` bytes of the file `fd` from its beginning; zeros for what it no longer has."""
        left = size
        if size > _SMALL:
            self.flush()
            while left and (sent := os.sendfile(self.fd, fd, size - left, min(left, 1 << 30))):
                left -= sent
        else:
            while left and (data := os.pread(fd, left, size - left)):
                self.add(data)
                left -= len(data)
        while left:
            piece = min(left, _BUFFER)
            self.add(bytes(piece))
            left -= piece


class _TreeTar:
    """The tar of what one descriptor (O_PATH) names, directories with everything beneath."""

    def __init__(self, top: int, out: _Out) -> None:
        self._top = top
        self._out = out
        self._links: dict[tuple[int, int], bytes] = {}  # device, inode -> the first name of a file with several
        self.at = b""  # what is being read, for errors

    def run(self, name: bytes | None) -> None:
        """`name`: of the topmost entry; None leaves out that one and begins its children's names without it."""
        self.at = name or b""
        found = os.fstat(self._top)
        if stat.S_ISDIR(found.st_mode):
            self._tree(name, found)
        else:
            self._entry(name or b"", self._top, found)
        self._out.add(bytes(2 * fmt.BLOCK))
        self._out.flush()

    def _tree(self, name: bytes | None, found: os.stat_result) -> None:
        prefix = b"" if name is None else name + b"/"
        waiting = [(b"", found.st_dev)]
        while waiting:
            path, device = waiting.pop()
            try:
                fd = openat2(self._top, path or b".", _DIRECTORY, 0, _BENEATH)
            except OSError as error:
                if error.errno in _GONE and path:
                    continue
                raise
            try:
                self.at = prefix + path
                found = os.fstat(fd)
                if path or name is not None:
                    self._header(self._made(prefix + path + b"/" if path else prefix, found, fd))
                if found.st_dev == device or not roots.is_kernels_own(fd):
                    inner = self._children(prefix, path, fd)
                    waiting += [(below, found.st_dev) for below in reversed(inner)]
            finally:
                os.close(fd)

    def _children(self, prefix: bytes, path: bytes, directory: int) -> list[bytes]:
        """Write what the directory has; returns the paths of the directories in it."""
        inner = []
        for name in sorted(os.fsencode(name) for name in os.listdir(directory)):
            below = path + b"/" + name if path else name
            self.at = prefix + below
            try:
                fd = os.open(name, _PATH, dir_fd=directory)
            except OSError as error:
                if error.errno in _GONE:
                    continue
                raise
            try:
                found = os.fstat(fd)
                if stat.S_ISDIR(found.st_mode):
                    inner.append(below)
                else:
                    self._entry(self.at, fd, found)
            finally:
                os.close(fd)
        return inner

    def _entry(self, name: bytes, fd: int, found: os.stat_result) -> None:
        """Anything but a directory, by its descriptor (O_PATH). Sockets are left out."""
        if stat.S_ISSOCK(found.st_mode):
            return
        if found.st_nlink > 1:
            first = self._links.setdefault((found.st_dev, found.st_ino), name)
            if first != name:
                entry = self._made(name, found)
                entry.kind, entry.link = fmt.HARDLINK, first
                self._header(entry)
                return
        entry = self._made(name, found)
        if entry.kind == fmt.SYMLINK:
            entry.link = os.readlink(b"", dir_fd=fd)
        elif entry.kind in (fmt.CHARACTER, fmt.BLOCK_DEVICE):
            entry.major, entry.minor = os.major(found.st_rdev), os.minor(found.st_rdev)
        elif entry.kind == fmt.FILE:
            self._file(entry, fd)
            return
        self._header(entry)

    def _file(self, entry: Entry, path: int) -> None:
        fd = roots.reopen(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            entry.size = os.fstat(fd).st_size
            entry.xattrs = _xattrs(fd)
            self._header(entry)
            self._out.file(fd, entry.size)
            self._out.add(fmt.padding(entry.size))
        finally:
            os.close(fd)

    def _made(self, name: bytes, found: os.stat_result, directory: int | None = None) -> Entry:
        kind = _KINDS[stat.S_IFMT(found.st_mode)]
        seconds = found.st_mtime_ns // 1_000_000_000 * 1_000_000_000
        entry = Entry(name, kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, 0, seconds)
        if directory is not None:
            entry.xattrs = _xattrs(directory)
        return entry

    def _header(self, entry: Entry) -> None:
        self._out.add(fmt.make_header(entry))


def _xattrs(fd: int) -> dict[bytes, bytes] | None:
    try:
        names = [os.fsencode(name) for name in os.listxattr(fd)]
        return {name: os.getxattr(fd, name) for name in sorted(names) if allowed_xattr(name)} or None
    except OSError:
        return None  # a file system without them, or one went away in between
