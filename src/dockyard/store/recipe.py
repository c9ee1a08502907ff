"""How a layer's tar was written, without what the files contain.

Owns: a recipe directory beside each unpacked layer, from which with the layer's tree the very same tar comes out again,
byte for byte:

    tar.zst      the tar stream without the payload of tree files (headers, padding, what follows the end), compressed
    index.json   moved: [entry number, path, N] - before that entry, what lay at path gave way and is now moved/N;
                 located: {entry number: path} - where a file really lies, if its parents were symbolic links
    moved/N      files and trees that a later entry of the same archive replaced

Does not own: unpacking (`store.unpack`), where the directory lies (`store.snapshots`).
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import zstandard

from dockyard.linux import abi
from dockyard.linux.calls import openat2
from dockyard.model.errors import SystemFailure
from dockyard.proto.tarread import ByteStream, StreamError, TarReader, show
from dockyard.store.bytestream import CHUNK, write_all
from dockyard.store.copytree import copy_entry
from dockyard.store.layertree import clean
from dockyard.store.trees import remove_tree

_STREAM, _INDEX, _MOVED = "tar.zst", "index.json", "moved"
_RESOLVE = abi.RESOLVE_BENEATH | abi.RESOLVE_NO_SYMLINKS | abi.RESOLVE_NO_MAGICLINKS
_FLUSH = 1 << 18


class RecipeWriter:
    """Written while a layer is unpacked. Use in `with`; `finish()` at the end, or the directory is worthless."""

    def __init__(self, directory: str) -> None:
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._file = os.open(_STREAM, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        self._compressor = zstandard.ZstdCompressor(level=1).compressobj()
        self._parts: list[bytes] = []
        self._size = 0
        self._aside = -1
        self._moved: list[tuple[int, str, int]] = []
        self._located: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in (self._file, self._aside, self._fd):
            if fd >= 0:
                os.close(fd)

    def record(self, data: bytes) -> None:
        """Keep bytes of the stream that are not a tree file's payload."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _FLUSH:
            self._flush()

    def locate(self, number: int, path: bytes) -> None:
        """Entry `number` (from 1) lies at `path`, not where its name says."""
        self._located[number] = _text(path)

    def move_aside(self, number: int, path: bytes, parent: int, base: bytes) -> None:
        """Take what lies at `path` out of the tree before entry `number` is made."""
        if self._aside < 0:
            os.mkdir(_MOVED, 0o700, dir_fd=self._fd)
            self._aside = os.open(_MOVED, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        index = len(self._moved)
        try:
            os.rename(base, str(index), src_dir_fd=parent, dst_dir_fd=self._aside)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy_aside(base, str(index), parent)  # the tree is a btrfs subvolume
        self._moved.append((number, _text(path), index))

    def _copy_aside(self, base: bytes, index: str, parent: int) -> None:
        opened = os.open(f"/proc/self/fd/{parent}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            copy_entry(base, opened, os.fsencode(index), self._aside)
            remove_tree(opened, os.fsdecode(base))
        finally:
            os.close(opened)

    def finish(self) -> None:
        self._flush()
        write_all(self._file)(memoryview(self._compressor.flush()))
        fd = os.open(_INDEX, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            json.dump({"moved": self._moved, "located": self._located}, file)

    def _flush(self) -> None:
        data = self._compressor.compress(b"".join(self._parts))
        self._parts.clear()
        self._size = 0
        if data:
            write_all(self._file)(memoryview(data))


def rebuild(recipe: str, tree: str, write: Callable[[memoryview], object]) -> None:
    """Hand the layer's tar stream to `write`. StreamError if tree or recipe no longer fit (a damaged store)."""
    with _Rebuilder(recipe, tree) as rebuilder:
        rebuilder.run(write)


def rebuild_into(*, fds: Sequence[int], recipe: str, tree: str) -> dict[str, Any]:
    """Worker: write the layer's tar to `fds[0]`. SystemFailure if it cannot be made."""
    try:
        rebuild(recipe, tree, write_all(fds[0]))
    except (StreamError, OSError) as error:
        raise SystemFailure(f"the layer's tar cannot be made: {error}") from error
    return {}


class _Rebuilder:
    def __init__(self, recipe: str, tree: str) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._recipe = os.open(recipe, flags)
        self._tree = os.open(tree, flags)
        with os.fdopen(os.open(_INDEX, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._recipe), encoding="ascii") as file:
            index = json.load(file)
        self._moved: list[tuple[int, bytes, int]] = [(number, _bytes(path), at) for number, path, at in index["moved"]]
        self._located: dict[int, bytes] = {int(number): _bytes(path) for number, path in index["located"].items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._recipe)
        os.close(self._tree)

    def run(self, write: Callable[[memoryview], object]) -> None:
        pending: list[bytes] = []

        def flush() -> None:
            write(memoryview(b"".join(pending)))
            pending.clear()

        file = os.open(_STREAM, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._recipe)
        with os.fdopen(file, "rb") as raw:
            stream = ByteStream(_chunks(zstandard.ZstdDecompressor().stream_reader(raw)))
            reader = TarReader(stream, pending.append, bare=True, sparse=True)
            while (entry := reader.next()) is not None:
                if entry.is_tree_file and entry.size:
                    flush()
                    path = self._located.get(reader.count) or clean(entry.name)
                    self._copy(reader.count, path, entry.size, write)
            reader.finish()
            flush()

    def _copy(self, number: int, path: bytes, size: int, write: Callable[[memoryview], object]) -> None:
        try:
            fd = openat2(self._recipe if (moved := self._moved_to(number, path)) else self._tree, moved or path,
                         os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, 0, _RESOLVE)  # fmt: skip
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise StreamError(f"the layer's file {show(path)} is missing: {reason}") from error
        try:
            if os.fstat(fd).st_size != size:
                raise StreamError(f"the layer's file {show(path)} has changed")
            while size:
                data = os.read(fd, min(size, CHUNK))
                if not data:
                    raise StreamError(f"the layer's file {show(path)} has changed")
                write(memoryview(data))
                size -= len(data)
        finally:
            os.close(fd)

    def _moved_to(self, number: int, path: bytes) -> bytes | None:
        """Where in the recipe's directory the file of entry `number` lies now, if it had to give way."""
        for before, moved, index in self._moved:
            if before > number and (path == moved or path.startswith(moved + b"/")):
                return b"moved/%d" % index + path[len(moved) :]
        return None


def _chunks(reader: zstandard.ZstdDecompressionReader) -> Iterator[bytes]:
    while data := reader.read(CHUNK):
        yield data


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
