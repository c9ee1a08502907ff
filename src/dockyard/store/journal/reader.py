"""Read a container's log: all of it, its end, or as it grows.

Owns: what a client gets, and when. Does not own: going through the files (`tape`), where to begin (`seek`), the
records' meaning (`records`), being told of growth (`follow`), writing (`writer`).

Everything that touches the disk or decodes runs in a worker thread, one chunk at a time: a client that reads slowly
holds one chunk, and the event loop never waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Final

from dockyard.store.journal import seek
from dockyard.store.journal.follow import Watch, Watcher
from dockyard.store.journal.records import Encoder, Query
from dockyard.store.journal.tape import Tape

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
    """One log as a client's bytes. Methods block; one at a time, from any thread."""

    def __init__(self, path: str, encoder: Encoder) -> None:
        self._tape = Tape(path)
        self._encoder = encoder
        self._guard = threading.Lock()  # a cancelled reader closes while its last chunk is still being read

    @property
    def finished(self) -> bool:
        return self._encoder.finished

    @property
    def exists(self) -> bool:
        return self._tape.exists

    def open(self, tail: int | None) -> None:
        """Open all files and go to where the last `tail` records, or those since the wanted time, begin."""
        with self._guard:
            self._tape.open()
            if tail is not None:
                self._tape.go_to(*seek.tail(self._tape.files, tail))
            elif self._encoder.since is not None:
                self._tape.go_to(*seek.since(self._tape.files, self._encoder.since))

    def close(self) -> None:
        with self._guard:
            self._tape.close()

    def next_chunk(self) -> bytes | None:
        """The next records as a client's bytes (b"" when none of them is wanted), None at the end of all files."""
        with self._guard:
            records = self._tape.read()
            return self._encoder.encode(records) if records else None

    def advance(self) -> bool:
        """At the end of all files: whether there is more after all."""
        with self._guard:
            return self._tape.advance()
