"""What a pull or push tells while it goes on.

Owns: `Message`, `Board` (what was said so far, and who listens), `Feed` (one listener's messages; a slow listener gets
the newest of each kind instead of a queue that grows). Does not own: Docker's JSON (`edge.api`).
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple, Protocol

_STEP = 0.1  # seconds between two messages about the same bytes


class Message(NamedTuple):
    """`id`: the layer (12 digits), "" for all of it. `current` and `total` in bytes while something moves."""

    status: str
    id: str = ""
    current: int | None = None
    total: int | None = None
    aux: dict[str, Any] | None = None


class Listener(Protocol):
    def put(self, message: Message) -> None: ...


class Feed:
    """Messages for one listener, an async iterator that ends with `close()`."""

    def __init__(self) -> None:
        self._waiting: list[Message] = []
        self._moving: dict[str, int] = {}  # id -> place in `_waiting` of a message that a newer one may replace
        self._wake = asyncio.Event()
        self._closed = False

    def put(self, message: Message) -> None:
        place = self._moving.get(message.id)
        if message.current is not None and place is not None and self._waiting[place].status == message.status:
            self._waiting[place] = message
            return
        if message.current is not None:
            self._moving[message.id] = len(self._waiting)
        else:
            self._moving.pop(message.id, None)
        self._waiting.append(message)
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> Message:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        message = self._waiting.pop(0)
        self._moving = {key: place - 1 for key, place in self._moving.items() if place}
        return message


class Board:
    """Everything that one transfer tells. Who listens later is told at once how things stand."""

    def __init__(self) -> None:
        self._feeds: set[Listener] = set()
        self._said: list[Message] = []  # headings and ends, in order
        self._latest: dict[str, Message] = {}  # by id
        self._moved: dict[str, float] = {}

    def say(self, status: str, id: str = "", aux: dict[str, Any] | None = None) -> None:
        """Something happened."""
        self.put(Message(status, id, aux=aux))

    def move(self, status: str, id: str, current: int, total: int) -> None:
        """Bytes moved; told a few times a second."""
        now = time.monotonic()
        if current < total and now - self._moved.get(id, 0.0) < _STEP:
            return
        self._moved[id] = now
        self.put(Message(status, id, current, total))

    def put(self, message: Message) -> None:
        """Pass on what another board says."""
        if message.id:
            self._latest[message.id] = message
        else:
            self._said.append(message)
        for feed in self._feeds:
            feed.put(message)

    def listen(self, feed: Listener) -> None:
        for message in [*self._said[:1], *self._latest.values(), *self._said[1:]]:
            feed.put(message)
        self._feeds.add(feed)

    def leave(self, feed: Listener) -> None:
        self._feeds.discard(feed)
