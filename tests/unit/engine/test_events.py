"""Events: the ring, subscriptions, filters, slow readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dockyard.engine import events as module
from dockyard.engine.events import Event, Events, Lagged, matches
from dockyard.proto.filters import Filters


class Clock:
    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now


async def take(stream: AsyncIterator[Event], count: int) -> list[str]:
    return [(await anext(stream)).action for _ in range(count)]


def test_a_subscriber_sees_what_comes_after_it() -> None:
    async def main() -> None:
        events = Events(Clock())
        events.publish("container", "before", "id")
        stream = events.subscribe()
        events.publish("container", "start", "id")
        assert await take(stream, 1) == ["start"]

    asyncio.run(main())


def test_since_looks_back_and_until_ends() -> None:
    async def main() -> None:
        clock = Clock()
        events = Events(clock)
        for clock.now in (1_000, 2_000, 3_000):
            events.publish("container", str(clock.now), "id")
        clock.now = 10_000
        stream = events.subscribe(since=2_000, until=9_000)
        assert [event.action async for event in stream] == ["2000", "3000"]
        assert events.subscribers == 0

    asyncio.run(main())


def test_until_in_the_future_is_waited_for() -> None:
    async def main() -> None:
        import time

        events = Events(time.time_ns)
        stream = events.subscribe(until=time.time_ns() + 100_000_000)
        events.publish("container", "start", "id")
        assert [event.action async for event in stream] == ["start"]

    asyncio.run(main())


def test_times_never_repeat() -> None:
    events = Events(Clock())
    moments = [events.publish("container", "x", "id").time_ns for _ in range(5)]
    assert len(set(moments)) == 5 and moments == sorted(moments)


def test_s51_a_slow_subscriber_is_dropped_and_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG", 10)

    async def main() -> None:
        events = Events(Clock())
        slow, quick = events.subscribe(), events.subscribe()
        for number in range(30):
            events.publish("container", str(number), "id")
            await anext(quick)
        with pytest.raises(Lagged):
            await anext(slow)
        assert events.subscribers == 1

    asyncio.run(main())


def test_s51_a_cancelled_reader_is_forgotten() -> None:
    async def main() -> None:
        events = Events(Clock())
        task = asyncio.ensure_future(anext(events.subscribe()))
        await asyncio.sleep(0)
        assert events.subscribers == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert events.subscribers == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({"type": ["container"]}, True),
        ({"type": ["image"]}, False),
        ({"container": ["abc"]}, True),  # the beginning of the id
        ({"container": ["web"]}, True),
        ({"container": ["eb"]}, False),
        ({"image": ["busybox"]}, True),
        ({"image": ["busybox:1.36"]}, True),
        ({"image": ["busy"]}, False),
        ({"event": ["exec_create"]}, True),
        ({"event": ["exec_start"]}, False),
        ({"label": ["a=1"]}, True),
        ({"label": ["a=2"]}, False),
        ({"label": ["a", "zone"]}, False),
        ({"type": ["container"], "event": ["start"]}, False),
    ],
)
def test_filters(filters: dict[str, list[str]], passes: bool) -> None:
    about = {"image": "busybox:1.36", "name": "web", "a": "1"}
    event = Event("container", "exec_create: ls -l", "abcdef", about, 1)
    assert matches(event, Filters(filters)) is passes


def test_actions_are_compared_whole() -> None:
    event = Event("container", "start", "abcdef", {}, 1)
    assert matches(event, Filters({"event": ["start"]}))
    assert not matches(event, Filters({"event": ["st"]}))
