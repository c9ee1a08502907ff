"""What the registry asks of a storage backend.

Owns: the Protocol that every backend keeps (one suite tests them all: tests/unit/registry/test_backends.py). Promises:
a key is seen whole or not at all; what a call has written is seen by every process that asks after it has returned.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, Protocol

CHUNK = 1 << 20  # bytes that are moved at once


class Entry(NamedTuple):
    """An object: name (in its folder) or whole key, bytes, when it was written last (seconds of the store's clock)."""

    name: str
    size: int
    modified: float


class Listing(NamedTuple):
    """One level below a prefix, both sorted by name."""

    folders: list[str]
    files: list[Entry]

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.files]


class Missing(Exception):
    """No such key."""


class Backend(Protocol):
    """Keys are `/`-separated, of names that `registry.names` makes. `tick`: seconds between two readings of the store's
    clock that differ."""

    @property
    def tick(self) -> float: ...

    async def read(self, key: str) -> bytes:
        """A small object. Missing."""

    async def write(self, key: str, content: bytes, durable: bool = True) -> None:
        """Make or replace. `durable`: on disk when this returns, also after a power loss."""

    async def sync(self, keys: list[str]) -> None:
        """What `write(durable=False)` and `finish` left to do for these keys."""

    async def delete(self, *keys: str) -> None:
        """Missing ones are fine."""

    async def delete_if(self, key: str, content: bytes) -> bool:
        """Delete a small object (or make it empty) if it still has this content; what another process writes meanwhile
        is not lost. False if it has another, or is missing."""

    async def stat(self, key: str) -> Entry | None: ...

    async def below(self, prefix: str) -> Listing:
        """One level; empty for a prefix that is not there."""

    def walk(self, prefix: str) -> AsyncIterator[Entry]:
        """Every object below a prefix, by whole key, in no order."""

    async def copy(self, source: str, target: str) -> None:
        """The same bytes under another key, written now. Missing."""

    def stream(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        """Bytes of an object. Missing before the first one."""

    async def open(self, key: str) -> int | None:
        """A descriptor to send from, where the backend has files. Missing; None: use `stream`."""

    async def now(self) -> float:
        """The store's clock."""

    # Uploads: bytes that grow at the end and become an object as a whole.

    async def begin(self, upload: str, state: bytes) -> None:
        """Make an upload of no bytes below the key `upload`."""

    async def state(self, upload: str) -> tuple[bytes, int]:
        """What `begin` was given, and how many bytes there are. Missing."""

    async def append(self, upload: str, offset: int | None, source: AsyncIterator[bytes], hasher: Any) -> int:
        """Take bytes in; returns the new size. `hasher` (or None) sees each of them, in order.

        If `source` fails, what has come so far may stay. Missing, Busy, WrongOffset if there are not `offset` bytes."""

    async def finish(
        self, upload: str, digest: str, known: tuple[int, str] | None, target: Callable[[int], str] | None
    ) -> int:
        """Compare the upload with its digest and, with a `target` (size → key), move it there; returns its size.

        `known`: size and digest of what a hasher saw here. Missing, Busy, WrongDigest (the upload stays)."""

    async def discard(self, upload: str) -> None:
        """Forget an upload."""

    async def close(self) -> None: ...
