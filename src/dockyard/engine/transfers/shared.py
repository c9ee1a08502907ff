"""Work that several clients may wait for: done once, given up when nobody waits any more.

Owns: `Pool`, running work by key. Does not own: the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

from dockyard.engine.transfers.progress import Board, Listener

T = TypeVar("T")


class Work(Generic[T]):
    """One piece of work under way."""

    def __init__(self, start: Callable[[Board], Awaitable[T]]) -> None:
        self.board = Board()
        self.waiting = 0
        self.task: asyncio.Task[T] = asyncio.ensure_future(_run(start, self.board))


async def _run(start: Callable[[Board], Awaitable[T]], board: Board) -> T:
    return await start(board)


class Pool(Generic[T]):
    """Works by key. For the event loop's thread."""

    def __init__(self) -> None:
        self._works: dict[Hashable, Work[T]] = {}

    def __len__(self) -> int:
        return len(self._works)

    async def join(self, key: Hashable, start: Callable[[Board], Awaitable[T]], feed: Listener | None = None) -> T:
        """The result of the work under `key`, which begins now if it is not under way. Its messages go to `feed`.

        Whoever is cancelled leaves; when the last one has left, the work is cancelled, and has ended when this returns.
        """
        work = self._works.get(key)
        if work is None:
            work = self._works[key] = Work(start)
            work.task.add_done_callback(lambda _: self._gone(key, work))
        if feed is not None:
            work.board.listen(feed)
        work.waiting += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiting -= 1
            if feed is not None:
                work.board.leave(feed)
            if not work.waiting and not work.task.done():
                self._gone(key, work)
                work.task.cancel()
                await asyncio.gather(work.task, return_exceptions=True)

    async def close(self) -> None:
        """Cancel everything."""
        tasks: list[asyncio.Task[Any]] = [work.task for work in self._works.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _gone(self, key: Hashable, work: Work[T]) -> None:
        if self._works.get(key) is work:
            del self._works[key]
        if work.task.done() and not work.task.cancelled():
            work.task.exception()  # somebody has to look at it
