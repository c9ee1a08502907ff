"""Unpacking a layer: a tar stream becomes a directory tree and the recipe of its tar.

Owns: `apply`, the blocking function that worker processes run, and what each kind of entry becomes.
Does not own: how a name becomes a place (`store.layertree`), which layer is unpacked where (`store.snapshots`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from dockyard.model.errors import NO_SPACE, DockyardError, InvalidArgument, SystemFailure
from dockyard.proto import tarformat as fmt
from dockyard.proto.tarformat import Entry, Sparse, TarError
from dockyard.proto.tarread import ByteStream, StreamError, TarReader, show
from dockyard.store.bytestream import CHUNK, Source, write_all
from dockyard.store.connection import Body
from dockyard.store.layertree import LayerTree, clean
from dockyard.store.recipe import RecipeWriter

RESERVE = 64 << 20  # bytes of the file system that an archive is not allowed to take


def apply(
    *,
    fds: Sequence[int],
    root: str,
    recipe: str,
    what: str,
    overlay: bool = True,
    offset: int | None = None,
    length: int | None = None,
    limit: int | None = None,
    need_end: bool = False,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Unpack the tar in `fds[0]` (a pipe, or a region of a file; compressed or not) into the empty directory `root`.

    `recipe`: an empty directory on the same file system. `what` names the archive in errors ("layer sha256:…").
    `limit`: bytes that it may have when decompressed; by default what the file system has free. `need_end`: refuse an
    archive without an end marker. `body`: `fds[0]` is a connection, see `store.connection`. Returns {"digest": hex of
    the uncompressed tar, "tar_size", "size": bytes of files, "entries", "root": [mode, uid, gid] or None}. Raises
    InvalidArgument or SystemFailure naming archive, entry and cause; the directories are then the caller's to throw
    away.
    """
    most = free_space(root) if limit is None else limit

    def source() -> Source:
        raw = Body(fds[0], body) if body is not None else None
        return Source(fds[0], offset=offset, length=length, limit=most, raw=raw)

    return apply_source(source, root, recipe, what, overlay, need_end)


def apply_source(
    make_source: Callable[[], Source], root: str, recipe: str, what: str, overlay: bool, need_end: bool
) -> dict[str, Any]:
    """As `apply`, from a source that the caller makes (it is entered and left here)."""
    with ExitStack() as stack:
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root_fd)
        try:
            source = stack.enter_context(make_source())
            unpacker = _Unpacker(root_fd, stack.enter_context(RecipeWriter(recipe)), source, overlay)
            stack.callback(unpacker.tree.close)
            unpacker.run(need_end)
        except (_EntryError, TarError, StreamError, OSError) as error:
            raise _explain(what, error) from error
        return {
            "digest": source.digest,
            "tar_size": source.size,
            "size": unpacker.size,
            "entries": unpacker.reader.count,
            "root": unpacker.tree.root_attributes,
        }


class _EntryError(ValueError):
    """A failure at one entry; `__cause__` is the failure itself."""

    def __init__(self, entry: Entry, cause: Exception) -> None:
        super().__init__(f"entry {show(entry.name)}: {_cause(cause)}")
        self.__cause__ = cause


def _explain(what: str, error: Exception) -> DockyardError:
    inner = error.__cause__ if isinstance(error, _EntryError) else error
    if isinstance(inner, OSError) and not _is_archives_fault(inner):
        return SystemFailure(f"{what}: {_cause(error)}")
    return InvalidArgument(f"{what}: {_cause(error)}")


def _is_archives_fault(error: OSError) -> bool:
    return error.errno in _ARCHIVES_FAULT


_ARCHIVES_FAULT = frozenset(
    {
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.EINVAL,
        errno.EMLINK,
        errno.ENOENT,
        errno.ERANGE,
        errno.E2BIG,
    }
)


def _cause(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def free_space(root: str) -> int:
    """Bytes that an archive may take of the file system of `root`."""
    return _room(os.statvfs(root))


def free_space_of(fd: int) -> int:
    """As `free_space`, for an open file or directory."""
    return _room(os.fstatvfs(fd))


def _room(state: os.statvfs_result) -> int:
    return max(state.f_bavail * state.f_frsize - RESERVE, 0)


class _Unpacker:
    def __init__(self, root: int, recipe: RecipeWriter, source: Source, overlay: bool) -> None:
        self._recipe = recipe
        self._inodes = os.fstatvfs(root).f_favail or None  # some file systems do not count them
        self.reader = TarReader(ByteStream(iter(source)), recipe.record, sparse=True)
        self.tree = LayerTree(root, self._displaced, overlay=overlay)
        self.size = 0

    def run(self, need_end: bool) -> None:
        reader = self.reader
        while (entry := reader.next()) is not None:
            try:
                self._make(entry)
            except (TarError, StreamError, OSError) as error:
                raise _EntryError(entry, error) from error
            if self._inodes is not None and reader.count > self._inodes:
                raise OSError(errno.ENOSPC, f"{NO_SPACE}: there are more than {self._inodes} entries")
        if need_end and not reader.ended:
            raise StreamError("unexpected end: the archive is truncated")
        reader.finish()
        self.tree.finish()
        self._recipe.finish()

    def _make(self, entry: Entry) -> None:
        path = clean(entry.name)
        base = path.rpartition(b"/")[2]
        if base.startswith(fmt.WHITEOUT):
            self._whiteout(path, base)
            return
        kind = entry.kind
        if kind == fmt.FILE:
            self._file(entry, path)
        elif kind == fmt.DIRECTORY:
            self.tree.directory(entry, path)
        elif kind == fmt.SYMLINK:
            self.tree.symlink(entry, path)
        elif kind == fmt.HARDLINK:
            self.tree.hardlink(entry, path)
        elif kind in (fmt.CHARACTER, fmt.BLOCK_DEVICE, fmt.FIFO):
            self.tree.special(entry, path)
        else:
            raise TarError(f"entries of type {kind!r} are not supported")

    def _file(self, entry: Entry, path: bytes) -> None:
        fd, real = self.tree.file(entry, path)
        try:
            if entry.sparse is not None:
                self._pieces(entry.sparse, fd)
            elif entry.size:
                self.reader.payload(write_all(fd))
                self.size += entry.size
            self.tree.seal(entry, fd)
        finally:
            os.close(fd)
        if real != path:
            self._recipe.locate(self.reader.count, real)

    def _pieces(self, sparse: Sparse, fd: int) -> None:
        """A file with holes. Its payload is no other file's, so the recipe has it as well."""
        if sparse.size > free_space_of(fd):  # nobody can copy it
            raise StreamError(f"a sparse file of {sparse.size} bytes: more than the file system has room for")
        write = write_all(fd)
        for offset, length in sparse.pieces:
            os.lseek(fd, offset, os.SEEK_SET)
            while length:
                data = self.reader.some(min(length, CHUNK))
                self._recipe.record(data)
                write(memoryview(data))
                length -= len(data)
        os.ftruncate(fd, sparse.size)
        self.size += sparse.size

    def _whiteout(self, path: bytes, base: bytes) -> None:
        directory = path[: -len(base) - 1] if len(path) > len(base) else b""
        if base == fmt.OPAQUE:
            self.tree.opaque(directory)
        elif not base.startswith(fmt.WHITEOUT + fmt.WHITEOUT):  # .wh..wh.plnk, .wh..wh.aufs: aufs's own, not content
            hidden = base[len(fmt.WHITEOUT) :]
            self.tree.whiteout(directory + b"/" + hidden if directory else hidden)

    def _displaced(self, path: bytes, parent: int, base: bytes) -> None:
        self._recipe.move_aside(self.reader.count, path, parent, base)
