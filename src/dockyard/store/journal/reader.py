"""Read a container's log: all of it, its end, or as it grows.

Owns: finding the rotated files, the place of the last N records, following through rotations.
Does not own: the records' meaning (`records`), being told of growth (`follow`), writing (`writer`).

Everything that touches the disk or decodes runs in a worker thread, one chunk at a time: a client that reads slowly
holds one chunk, and the event loop never waits.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Final

from dockyard.store.journal.follow import Watch, Watcher
from dockyard.store.journal.records import Encoder, Query

_CHUNK: Final = 512 * 1024
_LONGEST: Final = 16 << 20  # a record longer than this is damage
_BLOCK: Final = 64 * 1024  # step of the search for the last records
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
        self._files: list[int] = []  # descriptors, oldest first; the one being read is [0]
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
        """Open all files and go to where the last `tail` records begin."""
        with self._guard:
            self._files = _open_all(self._path)
            if tail is not None:
                self._seek_tail(tail)

    def close(self) -> None:
        with self._guard:
            for fd in self._files:
                os.close(fd)
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
                os.close(self._files.pop(0))
                self._at = 0
            return None

    def advance(self) -> bool:
        """At the end of all files: whether there is more after all, because the newest was rotated or emptied."""
        with self._guard:
            if not self._files:
                self._files = _open_all(self._path)
                return bool(self._files)
            status = os.fstat(self._files[0])
            if status.st_size < self._at:
                self._at = 0  # emptied in place
                return True
            if status.st_size > self._at and self._ends_in_record(status.st_size):
                return True
            newer = _open_newer_than(self._path, status.st_ino)
            self._files += newer
            return bool(newer)

    def _ends_in_record(self, size: int) -> bool:
        return b"\n" in os.pread(self._files[0], size - self._at, self._at)

    def _read(self) -> bytes:
        """Whole records from where we are; b"" when there is none."""
        while True:
            data = os.pread(self._files[0], self._size, self._at)
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

    def _seek_tail(self, tail: int) -> None:
        wanted = tail
        for index in range(len(self._files) - 1, -1, -1):
            fd = self._files[index]
            size = os.fstat(fd).st_size
            at, found = _find_tail(fd, size, wanted)
            if found >= wanted or index == 0:
                for older in self._files[:index]:
                    os.close(older)
                self._files = self._files[index:]
                self._at = at
                return
            wanted -= found


def _find_tail(fd: int, size: int, wanted: int) -> tuple[int, int]:
    """Where the last `wanted` records of a file begin, and how many there are from there."""
    end = _end_of_records(fd, size)
    if wanted <= 0 or end == 0:
        return end, 0
    found, position = 0, end - 1  # the newline at the very end belongs to the last record
    while position > 0:
        start = max(0, position - _BLOCK)
        block = os.pread(fd, position - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            found += 1
            if found == wanted:
                return start + at + 1, found
        position = start
    return 0, found + 1


def _end_of_records(fd: int, size: int) -> int:
    """Behind the last newline: what follows is a record that is being written."""
    while size > 0:
        start = max(0, size - _BLOCK)
        at = os.pread(fd, size - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        size = start
    return 0


def _names(path: str) -> list[str]:
    """The log's files, oldest first."""
    directory, base = os.path.split(path)
    numbers = []
    try:
        for name in os.listdir(directory):
            head, _, number = name.rpartition(".")
            if head == base and number.isdigit():
                numbers.append(int(number))
    except FileNotFoundError:
        return []
    return [f"{path}.{number}" for number in sorted(numbers, reverse=True)] + [path]


def _open_all(path: str) -> list[int]:
    """All files, oldest first, each once even if a rotation comes between."""
    files: list[int] = []
    seen: set[int] = set()
    for name in _names(path):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        inode = os.fstat(fd).st_ino
        if inode in seen:
            os.close(fd)
            continue
        seen.add(inode)
        files.append(fd)
    return files


def _open_newer_than(path: str, inode: int) -> list[int]:
    """The files behind the one with this inode number; all of them when it is gone."""
    files = _open_all(path)
    inodes = [os.fstat(fd).st_ino for fd in files]
    if inode in inodes:
        cut = inodes.index(inode) + 1
        for fd in files[:cut]:
            os.close(fd)
        files = files[cut:]
    return files
