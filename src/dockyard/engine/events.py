"""What happens in the engine, told to whoever listens.

Owns: `Event`, the ring of recent events, subscriptions with their filters. Does not own: Docker's JSON of an event
(`edge.api`), nor who publishes what.

A subscriber that does not keep up is dropped, not buffered without bound: its iteration ends with `Lagged`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, NamedTuple

from dockyard.model.errors import SystemFailure
from dockyard.proto.filters import Filters

RING: Final = 4096  # events kept for `since`
BACKLOG: Final = 4096  # events that a subscriber may be behind
_FUZZY_ACTIONS: Final = frozenset({"health_status", "exec_create", "exec_start"})
_ACTOR_KEYS: Final = ("container", "plugin", "volume", "network", "daemon", "node", "service", "secret", "config")

FILTER_KEYS: Final = frozenset({*_ACTOR_KEYS, "type", "event", "image", "label", "scope"})


class Event(NamedTuple):
    """One event. `action` as Docker spells it ("start", "exec_create: ls"); `time_ns` is the wall clock's."""

    type: str  # container, image, network, volume, daemon, …
    action: str
    actor_id: str
    attributes: Mapping[str, str]
    time_ns: int
    scope: str = "local"


class Lagged(SystemFailure):
    """This subscriber fell too far behind and was dropped."""


class Events:
    """Publishes events and serves subscriptions. One per engine; for the event loop's thread only."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock`: wall clock in ns since the epoch."""
        self._clock = clock
        self._ring: deque[Event] = deque(maxlen=RING)
        self._subscribers: set[_Subscriber] = set()
        self._last = 0
        self.published = 0  # ever

    def publish(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str] | None = None) -> Event:
        """Tell everybody; never waits. Times never run backwards and are never equal, so that `since` is exact."""
        self._last = max(self._clock(), self._last + 1)
        event = Event(type, action, actor_id, attributes or {}, self._last)
        self._ring.append(event)
        self.published += 1
        for subscriber in list(self._subscribers):
            subscriber.offer(event)
        return event

    def subscribe(
        self, since: int | None = None, until: int | None = None, filters: Filters | None = None
    ) -> AsyncIterator[Event]:
        """Events from now on, after those of the ring that are not older than `since` (ns).

        Ends at `until` (ns; one in the past: what the ring has, then the end). The subscription begins with this call,
        not with the first iteration, and ends when the iterator is closed. Raises Lagged when the reader is too slow.
        """
        subscriber = _Subscriber(filters or Filters())
        if since is not None or until is not None:
            for event in self._ring:
                if (since is None or event.time_ns >= since) and (until is None or event.time_ns <= until):
                    subscriber.offer(event)
        self._subscribers.add(subscriber)
        return _Subscription(self, subscriber, until)

    @property
    def subscribers(self) -> int:
        return len(self._subscribers)

    def close(self) -> None:
        """End every subscription."""
        for subscriber in list(self._subscribers):
            subscriber.end()

    # For _Subscription.
    def _drop(self, subscriber: _Subscriber) -> None:
        self._subscribers.discard(subscriber)

    def _now(self) -> int:
        return self._clock()


class _Subscriber:
    """The queue of one subscription."""

    __slots__ = ("ended", "filters", "lagged", "queue", "wakeup")

    def __init__(self, filters: Filters) -> None:
        self.filters = filters
        self.queue: deque[Event] = deque()
        self.wakeup: asyncio.Future[None] | None = None
        self.lagged = False
        self.ended = False

    def offer(self, event: Event) -> None:
        if self.lagged or not matches(event, self.filters):
            return
        if len(self.queue) >= BACKLOG:
            self.lagged = True
            self.queue.clear()
        else:
            self.queue.append(event)
        self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self.wakeup is not None and not self.wakeup.done():
            self.wakeup.set_result(None)


class _Subscription(AsyncIterator[Event]):
    """Iteration over one subscriber's queue. `aclose` (or the end) takes it off the list."""

    def __init__(self, events: Events, subscriber: _Subscriber, until: int | None) -> None:
        self._events = events
        self._subscriber = subscriber
        self._until = until

    def __aiter__(self) -> _Subscription:
        return self

    async def __anext__(self) -> Event:
        subscriber = self._subscriber
        try:
            while not subscriber.queue:
                if subscriber.lagged:
                    raise Lagged("events: the client does not keep up")
                if subscriber.ended or not await self._wait():
                    raise StopAsyncIteration
        except BaseException:
            self._events._drop(subscriber)
            raise
        event = subscriber.queue.popleft()
        if self._until is not None and event.time_ns > self._until:
            self._events._drop(subscriber)
            raise StopAsyncIteration
        return event

    async def _wait(self) -> bool:
        """Wait for the next event; False when `until` has come."""
        timeout = None
        if self._until is not None:
            timeout = (self._until - self._events._now()) / 1e9
            if timeout <= 0:
                return False
        self._subscriber.wakeup = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(self._subscriber.wakeup, timeout)
        except TimeoutError:
            return False
        finally:
            self._subscriber.wakeup = None
        return True

    async def aclose(self) -> None:
        self._events._drop(self._subscriber)


def matches(event: Event, filters: Filters) -> bool:
    """Whether an event passes: as Docker, names and ids by their beginning, images and labels exactly."""
    if not filters:
        return True
    if not filters.exact("type", event.type) or not filters.exact("scope", event.scope):
        return False
    wanted = filters.get("event")
    if any(action in _FUZZY_ACTIONS for action in wanted):
        if not filters.prefix("event", event.action):
            return False
    elif not filters.exact("event", event.action):
        return False
    name = event.attributes.get("name", "")
    if not all(filters.prefix(key, event.actor_id, name) for key in _ACTOR_KEYS):
        return False
    return _matches_image(event, filters) and filters.labels(event.attributes)


def _matches_image(event: Event, filters: Filters) -> bool:
    name = event.attributes.get("name" if event.type == "image" else "image", "")
    head, separator, tag = name.rpartition(":")
    untagged = head if separator and "/" not in tag else name
    return filters.exact("image", event.actor_id, name, untagged)
