"""A build context: a tar on its way into a spool.

Owns: the worker function `receive`, telling a tar from a Dockerfile by itself, `exclude` (.dockerignore for a
checkout). Does not own: what a context looks like on disk (`store.builds.spool`), where it lies and how long.

Owners are not kept: a context's files belong to root, as every builder has it. Devices are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.proto import tarformat as fmt
from dockyard.proto.dockerignore import Ignore
from dockyard.proto.tarformat import Entry, TarError
from dockyard.proto.tarread import ByteStream, StreamError, TarReader, show
from dockyard.store.builds.spool import SpoolWriter
from dockyard.store.bytestream import Source
from dockyard.store.unpack import free_space

_WHAT = "build context"


def receive(
    *, fds: Sequence[int], directory: str, offset: int | None = None, length: int | None = None,
    epoch: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Worker: take the tar in `fds[0]` (compressed or not) into the empty `directory` as a spool.

    `epoch`: seconds; nothing is younger. Returns {"files", "size", "single"}. A body that is no tar but text of at most
    1 MiB is taken for a Dockerfile (`single`), as Docker does. InvalidArgument or SystemFailure naming the entry
    and the cause.
    """
    where = ""
    writer = SpoolWriter(directory, None if epoch is None else epoch * 1_000_000_000)
    try:
        with Source(fds[0], offset=offset, length=length, limit=free_space(directory), hash_out=False) as source:
            first, chunks = _peek(iter(source))
            single = not _looks_like_tar(first)
            if single:
                _single(writer, b"".join(_bounded(chunks)))
            else:
                reader = TarReader(ByteStream(chunks))
                while (entry := reader.next()) is not None:
                    where = f"entry {show(entry.name)}: "
                    writer.add(entry, reader.payload)
                where = ""
                reader.finish()
        writer.finish()
    except (TarError, StreamError) as error:
        raise InvalidArgument(f"{_WHAT}: {where}{error}") from error
    except OSError as error:
        raise SystemFailure(f"{_WHAT}: {where}{error.strerror}") from error
    finally:
        writer.close()
    return {"files": len(writer.items), "size": writer.size, "single": single}


def exclude(*, fds: Sequence[int], root: str, patterns: str) -> dict[str, Any]:
    """Worker: delete from the directory `root` what `patterns` (a .dockerignore) exclude."""
    ignore = Ignore.parse(patterns)
    removed = 0
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for directory, directories, names, at in os.fwalk(".", topdown=False, follow_symlinks=False, dir_fd=top):
            base = directory.removeprefix("./").removeprefix(".")
            for name in (*names, *directories):
                if not ignore.excluded(f"{base}/{name}" if base else name):
                    continue
                try:
                    os.rmdir(name, dir_fd=at) if name in directories else os.unlink(name, dir_fd=at)
                    removed += 1
                except OSError:
                    continue  # a directory that keeps something, or a link to one
    finally:
        os.close(top)
    return {"removed": removed}


def _single(writer: SpoolWriter, text: bytes) -> None:
    """A context of nothing but a Dockerfile."""
    writer.add(Entry(b"Dockerfile", size=len(text)), lambda write: write(memoryview(text)))


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
