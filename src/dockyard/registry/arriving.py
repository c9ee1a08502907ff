"""A blob that is being fetched, for clients who want its bytes before all of it is kept.

Owns: `Arriving`: who listens, from the first byte on; what a listener may be behind; that the end is held back until
the whole was verified. Does not own: the fetching and the keeping (`cache`).

Nobody is waited for: a listener that is too slow gets the rest from the storage, when the blob is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from dockyard.registry.errors import RegistryError

BEHIND = 8 << 20  # bytes that a listener may be behind


class Arriving:
    """One transfer. `started` is done when upstream has answered; `size`: its bytes, None if upstream does not say."""

    def __init__(self, behind: int = BEHIND) -> None:
        self.size: int | None = None
        self.started = asyncio.Event()
        self._behind = behind
        self._passed = 0
        self._listeners: set[Listener] = set()

    def start(self, size: int | None) -> None:
        self.size = size
        self.started.set()

    async def tee(self, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same bytes, told to every listener on the way."""
        async for data in source:
            self._passed += len(data)
            for listener in self._listeners:
                listener.put(data)
            yield data

    def end(self) -> None:
        """Nothing more comes, for whatever reason."""
        self.started.set()
        for listener in self._listeners:
            listener.end()

    def listen(self) -> Listener | None:
        """None for one who comes too late."""
        if self._passed:
            return None
        listener = Listener(self._behind)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener | None) -> None:
        if listener is not None:
            self._listeners.discard(listener)


class Listener:
    """One client's bytes."""

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._wake = asyncio.Event()
        self._ended = False  # also for one that was too slow

    def put(self, data: bytes) -> None:
        if self._ended:
            return
        if self._held + len(data) > self._behind:
            self._ended = True
        else:
            self._waiting.append(data)
            self._held += len(data)
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    async def chunks(
        self, size: int, done: asyncio.Future[None], rest: Callable[[int], AsyncIterator[bytes]]
    ) -> AsyncIterator[bytes]:
        """All `size` bytes; the last of them only when `done` says that the blob is what it should be.

        `rest(start)`: the bytes from `start` out of the storage, after `done`. What `done` fails with is raised.
        """
        at, last = 0, b""
        while True:
            while self._waiting:
                data = self._waiting.popleft()
                self._held -= len(data)
                if last:
                    yield last
                at, last = at + len(data), data
            if self._ended:
                break
            self._wake.clear()
            await self._wake.wait()
        await asyncio.shield(done)
        if last:
            yield last
        async for data in rest(at):
            at += len(data)
            yield data
        if at != size:
            raise RegistryError("UNAVAILABLE", f"upstream gives {at} bytes and says {size}", status=502)
