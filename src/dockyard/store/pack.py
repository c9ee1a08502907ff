"""Packing a layer: a container's upper directory becomes a tar stream.

Owns: `pack`, the blocking function that worker processes run; overlay's marks turned into whiteouts again.
Does not own: single headers (`proto.tarformat`), unpacking (`store.unpack`).

Deterministic: entries in the order of their names (a directory, what it has that is no directory, then its
directories), times in whole seconds, no access times, no names of owners. The same tree gives the same bytes and so the
same diff_id.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from dockyard.linux import abi
from dockyard.linux.calls import openat2
from dockyard.model.errors import SystemFailure
from dockyard.proto import tarformat as fmt
from dockyard.proto.tarformat import Entry, TarError
from dockyard.proto.tarread import show
from dockyard.store.bytestream import CHUNK, write_all
from dockyard.store.layertree import OPAQUE_XATTR, allowed_xattr
from dockyard.store.recipe import RecipeWriter

_RESOLVE = abi.RESOLVE_BENEATH | abi.RESOLVE_NO_SYMLINKS | abi.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def pack(*, fds: Sequence[int], tree: str, recipe: str | None = None, overlay: bool = True) -> dict[str, Any]:
    """Write the tar of `tree` to `fds[0]` (no descriptor: only hash it), its recipe into the empty directory `recipe`.

    Nothing may change the tree meanwhile. Sockets are left out. Returns what `store.unpack.apply` does. SystemFailure
    naming the file and the cause.
    """
    with ExitStack() as stack:
        root = os.open(tree, _DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root)
        writer = stack.enter_context(RecipeWriter(recipe)) if recipe is not None else None
        packer = Packer(root, fds[0] if fds else None, writer, overlay)
        try:
            packer.run()
            if writer is not None:
                writer.finish()
        except OSError as error:
            raise SystemFailure(f"packing {show(packer.at or b'/')}: {error.strerror}") from error
        except TarError as error:
            raise SystemFailure(f"packing {show(packer.at or b'/')}: {error}") from error
        return packer.outcome()


class Packer:
    """One tree on its way into a tar; what a subclass may change is `wanted` and `gone`."""

    def __init__(self, root: int, out: int | None, recipe: RecipeWriter | None, overlay: bool) -> None:
        self._root = root
        self._write = write_all(out) if out is not None else None
        self._recipe = recipe
        self._overlay = overlay
        self._links: dict[int, bytes] = {}  # inode -> the first name of a file with several
        self.hash = hashlib.sha256()
        self.tar_size = self.size = self.entries = 0
        self.at = b""  # what is being packed, for errors

    def outcome(self) -> dict[str, Any]:
        """After `run`: what `store.unpack.apply` returns of a layer."""
        found = os.fstat(self._root)
        return {
            "digest": self.hash.hexdigest(),
            "tar_size": self.tar_size,
            "size": self.size,
            "entries": self.entries,
            "root": (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid),
        }

    def run(self) -> None:
        waiting = [b""]
        while waiting:
            path = waiting.pop()
            self.at = path
            directory = openat2(self._root, path or b".", _DIRECTORY, 0, _RESOLVE)
            try:
                waiting += reversed(list(self._directory(path, directory)))
            finally:
                os.close(directory)
        self._framing(bytes(2 * fmt.BLOCK))

    def wanted(self, path: bytes) -> bool:
        """Whether what lies at `path` belongs into the tar."""
        return True

    def gone(self, path: bytes) -> list[bytes]:
        """Names of whiteouts that the directory at `path` gets."""
        return []

    def _directory(self, path: bytes, fd: int) -> Iterator[bytes]:
        """Pack a directory and what it has but directories; yields the paths of these."""
        entry = self._entry(path + b"/" if path else b"./", os.fstat(fd), fmt.DIRECTORY)
        entry.xattrs = self._xattrs(fd)
        self._header(entry)
        if self._overlay and _is_opaque(fd):
            self._header(self._entry(_join(path, fmt.OPAQUE), os.fstat(fd), fmt.FILE, size=0, mode=0o600))
        for mark in self.gone(path):
            self._header(self._entry(_join(path, mark), os.fstat(fd), fmt.FILE, size=0, mode=0o600))
        for name in sorted(os.fsencode(name) for name in os.listdir(fd)):
            self.at = _join(path, name)
            if not self.wanted(self.at):
                continue
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                yield self.at
            else:
                self._leaf(self.at, name, found, fd)

    def _leaf(self, path: bytes, name: bytes, found: os.stat_result, directory: int) -> None:
        mode = found.st_mode
        if stat.S_ISSOCK(mode):
            return
        if self._overlay and stat.S_ISCHR(mode) and found.st_rdev == 0:
            head = path[: len(path) - len(name)]
            self._header(self._entry(head + fmt.WHITEOUT + name, found, fmt.FILE, size=0, mode=0o600))
            return
        if found.st_nlink > 1:
            first = self._links.setdefault(found.st_ino, path)
            if first != path:
                entry = self._entry(path, found, fmt.HARDLINK)
                entry.link = first
                self._header(entry)
                return
        if stat.S_ISREG(mode):
            self._file(path, name, directory)
            return
        kinds = {stat.S_IFLNK: fmt.SYMLINK, stat.S_IFCHR: fmt.CHARACTER, stat.S_IFBLK: fmt.BLOCK_DEVICE}
        entry = self._entry(path, found, kinds.get(stat.S_IFMT(mode), fmt.FIFO))
        if entry.kind == fmt.SYMLINK:
            entry.link = os.readlink(name, dir_fd=directory)
        elif entry.kind != fmt.FIFO:
            entry.major, entry.minor = os.major(found.st_rdev), os.minor(found.st_rdev)
        self._header(entry)

    def _file(self, path: bytes, name: bytes, directory: int) -> None:
        fd = os.open(name, _FILE | os.O_CLOEXEC, dir_fd=directory)
        try:
            found = os.fstat(fd)
            entry = self._entry(path, found, fmt.FILE, size=found.st_size)
            entry.xattrs = self._xattrs(fd)
            if not entry.is_tree_file:
                raise TarError("a name that means a whiteout cannot be in a layer")
            self._header(entry)
            left = entry.size
            while left:
                data = os.read(fd, min(left, CHUNK))
                if not data:
                    raise TarError("it became shorter meanwhile")
                self._bytes(data)
                left -= len(data)
        finally:
            os.close(fd)
        self.size += entry.size
        self._framing(fmt.padding(entry.size))

    def _entry(
        self, name: bytes, found: os.stat_result, kind: bytes, *, size: int = 0, mode: int | None = None
    ) -> Entry:
        if len(name) > 4096:
            raise TarError("its name has more than 4096 bytes")
        seconds = found.st_mtime_ns // 1_000_000_000 * 1_000_000_000
        permissions = stat.S_IMODE(found.st_mode) if mode is None else mode
        return Entry(name, kind, permissions, found.st_uid, found.st_gid, size, seconds)

    def _xattrs(self, fd: int) -> dict[bytes, bytes] | None:
        names = [os.fsencode(name) for name in os.listxattr(fd)]
        return {name: os.getxattr(fd, name) for name in sorted(names) if allowed_xattr(name)} or None

    def _header(self, entry: Entry) -> None:
        self.entries += 1
        self._framing(fmt.make_header(entry))

    def _framing(self, data: bytes) -> None:
        """Bytes that are no file's content."""
        if self._recipe is not None:
            self._recipe.record(data)
        self._bytes(data)

    def _bytes(self, data: bytes) -> None:
        self.hash.update(data)
        self.tar_size += len(data)
        if self._write is not None:
            self._write(memoryview(data))


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE_XATTR) == b"y"
    except OSError:
        return False
