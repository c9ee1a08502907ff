"""A build context: a tar becomes a directory and the digests of its files.

Owns: the worker functions `receive` (unpack, hashing each file meanwhile) and `exclude` (.dockerignore). Does not own:
where contexts lie and how long (`store.builds.places`), which files a step takes (`store.builds.selecting`).

Owners are not kept: a context's files belong to root, as every builder has it. Devices are refused. Names are handled
as those of a layer: nothing leaves the directory (`store.layertree`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec

from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.proto import tarformat as fmt
from dockyard.proto.dockerignore import Ignore
from dockyard.proto.tarformat import Entry, TarError
from dockyard.proto.tarread import ByteStream, StreamError, TarReader, show
from dockyard.store.bytestream import Source, write_all
from dockyard.store.layertree import LayerTree, clean
from dockyard.store.trees import remove_tree
from dockyard.store.unpack import free_space

_WHAT = "build context"


def receive(
    *, fds: Sequence[int], root: str, index: str, offset: int | None = None, length: int | None = None,
    epoch: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Worker: unpack the tar in `fds[0]` (compressed or not) into the empty directory `root`.

    `index`: a file that is made, {path: sha256 in hex} of every regular file. `epoch`: seconds; nothing is younger.
    Returns {"files", "size", "tar": whether it was one}. A body that is no tar but text of at most 1 MiB is taken for a
    Dockerfile, as Docker does. InvalidArgument or SystemFailure naming the entry and the cause.
    """
    with ExitStack() as stack:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        source = Source(fds[0], offset=offset, length=length, limit=free_space(root), hash_out=False)
        receiver = _Receiver(fd, epoch)
        stack.callback(receiver.tree.close)
        try:
            chunks = iter(stack.enter_context(source))
            first, chunks = _peek(chunks)
            is_tar = _looks_like_tar(first)
            if is_tar:
                receiver.run(chunks)
            else:
                receiver.single(b"".join(_bounded(chunks)))
        except (TarError, StreamError) as error:
            raise InvalidArgument(f"{_WHAT}: {receiver.where}{error}") from error
        except OSError as error:
            raise SystemFailure(f"{_WHAT}: {receiver.where}{error.strerror}") from error
        write_index(index, receiver.digests)
        return {"files": len(receiver.digests), "size": receiver.size, "tar": is_tar}


def write_index(path: str, digests: dict[str, str]) -> None:
    """Keep {path: digest}; the names may be any bytes, so they are kept with their surrogates escaped."""
    with open(path, "xb") as file:
        file.write(msgspec.json.encode({os.fsencode(name).hex(): value for name, value in digests.items()}))


def read_index(path: str) -> dict[str, str]:
    """What `write_index` kept."""
    with open(path, "rb") as file:
        raw = msgspec.json.decode(file.read(), type=dict[str, str])
    return {os.fsdecode(bytes.fromhex(name)): value for name, value in raw.items()}


def exclude(*, fds: Sequence[int], root: str, patterns: str, keep: Sequence[str] = ()) -> dict[str, Any]:
    """Worker: delete from the context `root` what `patterns` (a .dockerignore) exclude, but the paths in `keep`."""
    ignore = Ignore.parse(patterns)
    removed = 0
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for directory, directories, names, at in os.fwalk(".", topdown=False, follow_symlinks=False, dir_fd=top):
            base = directory.removeprefix("./").removeprefix(".")
            for name in (*names, *directories):
                path = f"{base}/{name}" if base else name
                if path in keep or not ignore.excluded(path):
                    continue
                try:
                    os.rmdir(name, dir_fd=at) if name in directories else os.unlink(name, dir_fd=at)
                    removed += 1
                except OSError:
                    continue  # a directory that keeps something
    finally:
        os.close(top)
    return {"removed": removed}


def _peek(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first block's worth of bytes (less at the end), and everything."""
    kept = b""
    for chunk in chunks:
        kept += chunk
        if len(kept) >= fmt.BLOCK:
            break

    def whole() -> Iterator[bytes]:
        yield kept
        yield from chunks

    return kept, whole()


def _looks_like_tar(first: bytes) -> bool:
    if len(first) < fmt.BLOCK:
        return not first.strip(b"\0")  # nothing at all is an empty archive
    if first[: fmt.BLOCK] == fmt.ZERO_BLOCK or first[257:262] == b"ustar":
        return True
    try:
        fmt.parse_header(first[: fmt.BLOCK])
    except TarError:
        return False
    return True


def _bounded(chunks: Iterator[bytes], limit: int = 1 << 20) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limit or b"\0" in chunk:
            raise TarError("it is neither a tar archive nor a Dockerfile")
        yield chunk


class _Receiver:
    def __init__(self, root: int, epoch: int | None) -> None:
        self.tree = LayerTree(root, _take_away, overlay=True)
        self.digests: dict[str, str] = {}
        self.size = 0
        self.where = ""
        self._latest = epoch * 1_000_000_000 if epoch is not None else None

    def run(self, chunks: Iterator[bytes]) -> None:
        reader = TarReader(ByteStream(chunks))
        while (entry := reader.next()) is not None:
            self.where = f"entry {show(entry.name)}: "
            entry.uid = entry.gid = 0
            if self._latest is not None:
                entry.mtime_ns = min(entry.mtime_ns, self._latest)
            self._make(entry, reader)
        self.where = ""
        reader.finish()
        self.tree.finish()

    def single(self, text: bytes) -> None:
        """A context of nothing but a Dockerfile."""
        entry = Entry(b"Dockerfile", size=len(text))
        fd, _ = self.tree.file(entry, b"Dockerfile")
        with os.fdopen(fd, "wb") as file:
            file.write(text)
        self.digests["Dockerfile"] = hashlib.sha256(text).hexdigest()

    def _make(self, entry: Entry, reader: TarReader) -> None:
        path = clean(entry.name)
        kind = entry.kind
        if kind == fmt.FILE:
            self._file(entry, path, reader)
        elif kind == fmt.DIRECTORY:
            if path:
                self.tree.directory(entry, path)
        elif kind == fmt.SYMLINK:
            self.tree.symlink(entry, path)
            self._forget(path)
        elif kind == fmt.HARDLINK:
            self.tree.hardlink(entry, path)
            target = os.fsdecode(clean(entry.link))
            if target in self.digests:
                self.digests[os.fsdecode(path)] = self.digests[target]
            else:
                self._forget(path)  # a copy is hashed when it is needed
        elif kind == fmt.FIFO:
            self.tree.special(entry, path)
            self._forget(path)
        else:
            raise TarError("devices cannot be in a build context")

    def _file(self, entry: Entry, path: bytes, reader: TarReader) -> None:
        fd, real = self.tree.file(entry, path)
        hasher = hashlib.sha256()
        try:
            if entry.size:
                write = write_all(fd)

                def both(view: memoryview) -> None:
                    hasher.update(view)
                    write(view)

                reader.payload(both)
                self.size += entry.size
            self.tree.seal(entry, fd)
        finally:
            os.close(fd)
        if entry.xattrs:
            self._forget(real)  # they are part of the digest: hashed when it is needed
        else:
            self.digests[os.fsdecode(real)] = hasher.hexdigest()

    def _forget(self, path: bytes) -> None:
        self.digests.pop(os.fsdecode(path), None)


def _take_away(path: bytes, parent: int, base: bytes) -> None:
    opened = os.open(f"/proc/self/fd/{parent}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(opened, os.fsdecode(base))
    finally:
        os.close(opened)
