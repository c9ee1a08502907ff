"""Read a container's log: all of it, its end, or as it grows.

Owns: reading from one file to the next, following through rotations.
Does not own: the files and their names (`files`), where to begin (`seek`), the records' meaning (`records`), being told
of growth (`follow`), writing (`writer`).

Everything that touches the disk or decodes runs in a worker thread, one chunk at a time: a client that reads slowly
holds one chunk, and the event loop never waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Final

from dockyard.store.journal import seek
from dockyard.store.journal.files import LogFile, close_all, open_all, open_newer_than
from dockyard.store.journal.follow import Watch, Watcher
from dockyard.store.journal.records import Encoder, Query

_CHUNK: Final = 512 * 1024
_LONGEST: Final = 16 << 20  # a record longer than this is damage
_LINGER: Final = 0.01  # seconds between looks while a rotation is under way


async def read_log(path: str, query: Query, *, raw: bool) -> AsyncGenerator[bytes, None]:
    """What the log has now, as chunks for a client (`raw`: without frames). A log that does not exist is empty."""
    log = _Log(path, Encoder(query, raw=raw))
    try:
        await asyncio.to_thread(log.open, query.tail)
        while not log.finished and (chunk := await asyncio.to_thread(log.next_chunk)) is not None:
            if chunk:
                yield chunk
    finally:
        log.close()


async def follow_log(
    path: str, query: Query, watcher: Watcher, ended: asyncio.Future[Any], *, raw: bool
) -> AsyncGenerator[bytes, None]:
    """As `read_log`, then what is added, until `ended` is done and all that was written before it has been read."""
    log = _Log(path, Encoder(query, raw=raw))
    watch: Watch | None = None
    try:
        await asyncio.to_thread(log.open, query.tail)
        while not log.finished:
            last_look = ended.done()
            if watch is not None:
                watch.changed.clear()
            chunk = await asyncio.to_thread(log.next_chunk)
            if chunk is not None:
                if chunk:
                    yield chunk
                continue
            if await asyncio.to_thread(log.advance):
                if watch is not None:
                    watch.close()
                    watch = None
                continue
            if last_look:
                return
            if watch is None:  # what was written before it was watched is looked for once more
                watch = watcher.watch(path)
                if watch.number >= 0 or not log.exists:
                    continue
            await _first_of(watch.wait() if log.exists else asyncio.sleep(_LINGER), ended)
    finally:
        if watch is not None:
            watch.close()
        log.close()


async def _first_of(waiting: Awaitable[None], ended: asyncio.Future[Any]) -> None:
    task = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()


class _Log:
    """The files of one log, read from oldest to newest. Methods block; one at a time, from any thread."""

    def __init__(self, path: str, encoder: Encoder) -> None:
        self._path = path
        self._encoder = encoder
        self._files: list[LogFile] = []  # oldest first; the one being read is [0]
        self._head = 0  # of files[0], once it has one
        self._at = 0  # offset in files[0]
        self._size = _CHUNK
        self._guard = threading.Lock()  # a cancelled reader closes while its last chunk is still being read

    @property
    def finished(self) -> bool:
        return self._encoder.finished

    @property
    def exists(self) -> bool:
        return bool(self._files)

    def open(self, tail: int | None) -> None:
        """Open all files and go to where the last `tail` records, or those since the wanted time, begin."""
        with self._guard:
            self._files = open_all(self._path)
            if tail is not None:
                self._go_to(seek.tail(self._files, tail))
            elif self._encoder.since is not None:
                self._go_to(seek.since(self._files, self._encoder.since))

    def close(self) -> None:
        with self._guard:
            close_all(self._files)
            self._files = []

    def next_chunk(self) -> bytes | None:
        """The next records as a client's bytes (b"" when none of them is wanted), None at the end of all files."""
        with self._guard:
            while self._files:
                records = self._read()
                if records:
                    return self._encoder.encode(records)
                if len(self._files) == 1:
                    return None
                self._go_to((1, 0))
            return None

    def advance(self) -> bool:
        """At the end of all files: whether there is more after all, because the newest was rotated or emptied."""
        with self._guard:
            if not self._files:
                self._files = open_all(self._path)
                return bool(self._files)
            held = self._files[0]
            size, identity = held.size(), held.identity()
            if size < self._at or (self._head and identity.head and identity.head != self._head):
                self._at, self._head = 0, identity.head  # emptied in place
                return True
            self._head = identity.head
            if size > self._at and b"\n" in held.read(size - self._at, self._at):
                return True
            newer = open_newer_than(self._path, identity)
            self._files += newer
            return bool(newer)

    def _go_to(self, place: tuple[int, int]) -> None:
        """To an offset in one of the files; older ones are read."""
        index, self._at = place
        close_all(self._files[:index])
        self._files = self._files[index:]
        self._head = 0

    def _read(self) -> bytes:
        """Whole records from where we are; b"" when there is none."""
        while True:
            data = self._files[0].read(self._size, self._at)
            end = data.rfind(b"\n") + 1
            if end:
                self._at += end
                self._size = _CHUNK
                return data if end == len(data) else data[:end]
            if len(data) < self._size:
                return b""  # nothing, or a record that is being written
            if self._size >= _LONGEST:
                self._at += len(data)
            else:
                self._size *= 2
