"""Blobs by digest.

Owns: blobs/sha256/HEX, and the one way in: written to a temporary file, hashed meanwhile, fsynced, renamed. What lies
under its digest is what the digest says. Does not own: which blobs are wanted (the rows of images and layers).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.model.oci import check_digest, sha256
from dockyard.store.bytestream import CHUNK
from dockyard.store.inline import Call
from dockyard.store.layout import Layout, sync_directory


class Content:
    """The content store. Blocking work happens in threads or worker processes."""

    def __init__(self, layout: Layout, call: Call) -> None:
        self._layout = layout
        self._call = call

    def path(self, digest: str) -> Path:
        """Where the blob lies. InvalidArgument for what is no digest."""
        return self._layout.blobs / "sha256" / check_digest(digest).partition(":")[2]

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        """Bytes. SystemFailure if the blob is missing."""
        try:
            return self.path(digest).stat().st_size
        except OSError as error:
            raise SystemFailure(f"blob {digest}: {error.strerror}") from error

    def read(self, digest: str) -> bytes:
        """A small blob, verified again. SystemFailure if it is missing or damaged."""
        try:
            data = self.path(digest).read_bytes()
        except OSError as error:
            raise SystemFailure(f"blob {digest}: {error.strerror}") from error
        if sha256(data) != digest:
            raise SystemFailure(f"blob {digest}: damaged on disk")
        return data

    async def put(self, data: bytes) -> str:
        """Keep some bytes; returns their digest when they are on disk."""
        digest = sha256(data)
        await asyncio.to_thread(self._put, data, digest)
        return digest

    async def ingest(self, fd: int, offset: int, length: int, digest: str, what: str) -> None:
        """Keep a region of a file as the blob `digest`. InvalidArgument naming `what` if it is not that.

        Not forced to disk: it is a layer's, and the layer's row says until a syncfs that its files may not be there.
        """
        if self.has(digest):
            return
        arguments = {
            "offset": offset, "length": length, "digest": digest, "what": what,
            "temporary": str(self._temporary()), "target": str(self.path(digest)),
        }  # fmt: skip
        await self._call("dockyard.store.content:copy_region", arguments, [fd])

    def adopt(self, path: Path, digest: str) -> None:
        """Take over a file that a worker has verified, on the same file system. Not forced to disk: whoever refers to
        it does so in a row that says as much (`store.remote.layers`)."""
        try:
            os.rename(path, self.path(digest))
        except OSError as error:
            raise SystemFailure(f"blob {digest}: {error.strerror}") from error

    def remove(self, digest: str) -> None:
        """Forget a blob. Missing is fine."""
        self.path(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """All blobs that are there."""
        for name in os.listdir(self._layout.blobs / "sha256"):
            yield f"sha256:{name}"

    def sweep(self, wanted: set[str]) -> list[str]:
        """Remove the blobs that nothing refers to (what a crash left); returns them."""
        orphans = [digest for digest in self.digests() if digest not in wanted]
        for digest in orphans:
            (self._layout.blobs / "sha256" / digest.partition(":")[2]).unlink(missing_ok=True)
        return orphans

    def _temporary(self) -> Path:
        return self._layout.ingest / f"blob-{secrets.token_hex(8)}"

    def _put(self, data: bytes, digest: str) -> None:
        target = self.path(digest)
        if target.exists():
            return
        temporary = self._temporary()
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.rename(temporary, target)
            sync_directory(target.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise SystemFailure(f"blob {digest}: {error.strerror}") from error


def copy_region(
    *, fds: Sequence[int], offset: int, length: int, digest: str, what: str, temporary: str, target: str
) -> dict[str, Any]:
    """Worker: copy `length` bytes from `offset` of `fds[0]` to `target` if their digest is `digest`."""
    hasher = hashlib.sha256()
    try:
        with open(temporary, "xb", buffering=0, opener=lambda p, f: os.open(p, f | os.O_CLOEXEC, 0o600)) as file:
            left = length
            while left:
                data = os.pread(fds[0], min(CHUNK, left), offset)
                if not data:
                    raise InvalidArgument(f"{what}: truncated")
                hasher.update(data)
                view = memoryview(data)
                while view:
                    view = view[file.write(view) or 0 :]
                offset += len(data)
                left -= len(data)
            found = f"sha256:{hasher.hexdigest()}"
            if found != digest:
                raise InvalidArgument(f"{what}: its digest is {found}, not {digest}")
        os.rename(temporary, target)
    except OSError as error:
        raise SystemFailure(f"{what}: {error.strerror}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return {"size": length}
