"""A container's log as a client asks for it.

Owns: which containers can be read, how long a log is followed. Does not own: the file and its records
(`store.journal`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from msgspec import Struct

from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.model.errors import InvalidArgument, NotServed
from dockyard.proto import logdrivers
from dockyard.store.journal.reader import follow_log, read_log
from dockyard.store.journal.records import Query

# A start is answered when the program runs. Clients made for slower engines read the log at once and take it that what
# a program says first is in it: that long after its start they wait.
_SETTLED = 0.1  # seconds


class LogRequest(Struct):
    """What of a log is wanted. Times in ns since the epoch, None: no limit."""

    stdout: bool = True
    stderr: bool = True
    since: int | None = None
    until: int | None = None
    timestamps: bool = False
    details: bool = False
    tail: int | None = None  # the last N records; None: all
    follow: bool = False


class LogStream(NamedTuple):
    """`chunks`: raw text when `tty`, otherwise frames (8-byte header: stream 1 or 2, three zeros, length)."""

    tty: bool
    chunks: AsyncGenerator[bytes, None]


class Logs:
    """Reads the logs of containers."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def read(self, ref: str, request: LogRequest) -> LogStream:
        """Raises InvalidArgument if neither stream is wanted, NotServed for a driver that cannot be read.

        Close the iterator (`aclose`) when the client goes away.
        """
        container = self._context.registry.get(ref)
        if not (request.stdout or request.stderr):
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        if not logdrivers.readable(container.spec.log_driver, container.spec.log_options):
            raise NotServed("configured logging driver does not support reading")
        query = Query(
            stdout=request.stdout,
            stderr=request.stderr,
            since=request.since,
            until=request.until,
            timestamps=request.timestamps,
            details=request.details,
            tail=request.tail,
        )
        tty = container.config.tty
        if not request.follow:
            return LogStream(tty, self._read(container, query))
        return LogStream(tty, self._follow(container, query))

    async def _read(self, container: Container, query: Query) -> AsyncGenerator[bytes, None]:
        """What there is, once the container runs for `_SETTLED` seconds or has ended."""
        left = _SETTLED - (self._context.clock() - container.status.started_at) / 1e9
        if container.running and 0 < left <= _SETTLED:
            ended = container.add_waiter("next-exit")
            await asyncio.wait({ended}, timeout=left)
            ended.cancel()
        async with aclosing(read_log(container.journal_path, query, raw=container.config.tty)) as source:
            async for chunk in source:
                yield chunk

    async def _follow(self, container: Container, query: Query) -> AsyncGenerator[bytes, None]:
        """Until the container ends (its log is complete then), or `until` has come."""
        ended = container.add_waiter("next-exit") if container.running else None
        timer: asyncio.TimerHandle | None = None
        raw = container.config.tty
        try:
            if ended is None:
                source = read_log(container.journal_path, query, raw=raw)
            else:
                if query.until is not None:
                    left = max(0, query.until - self._context.clock()) / 1e9
                    timer = asyncio.get_running_loop().call_later(left, ended.cancel)
                source = follow_log(container.journal_path, query, self._context.watcher, ended, raw=raw)
            async with aclosing(source):
                async for chunk in source:
                    yield chunk
        finally:
            if timer is not None:
                timer.cancel()
            if ended is not None:
                ended.cancel()
