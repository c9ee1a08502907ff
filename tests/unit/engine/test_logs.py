"""When a log is read: at once, or, of a container that has only just started, a moment later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dockyard.engine import logs
from dockyard.engine.context import Context

NOW = 1_000_000_000_000


class Young:
    """A container that runs for `age` seconds."""

    def __init__(self, age: float, running: bool = True) -> None:
        self.status = SimpleNamespace(started_at=NOW - int(age * 1e9))
        self.running = running
        self.spec = SimpleNamespace(log_driver="json-file", log_options={})
        self.config = SimpleNamespace(tty=False)
        self.journal_path = Path("/nowhere")
        self.ended: asyncio.Future[None] | None = None

    def add_waiter(self, condition: str) -> asyncio.Future[None]:
        self.ended = asyncio.get_running_loop().create_future()
        return self.ended


@pytest.fixture(autouse=True)
def one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read_log(*_: Any, **__: Any) -> AsyncGenerator[bytes, None]:
        yield b"record"

    monkeypatch.setattr(logs, "read_log", read_log)
    monkeypatch.setattr(logs, "_SETTLED", 30.0)


def read(container: Young, *, ends: bool = False) -> bytes:
    """What a reader gets within half a second."""

    async def main() -> bytes:
        context = SimpleNamespace(registry=SimpleNamespace(get=lambda _: container), clock=lambda: NOW)
        stream = logs.Logs(cast(Context, context)).read("c", logs.LogRequest())

        async def rest() -> bytes:
            return b"".join([chunk async for chunk in stream.chunks])

        reading = asyncio.create_task(rest())
        await asyncio.sleep(0.01)
        if ends and container.ended is not None:
            container.ended.set_result(None)
        return await asyncio.wait_for(reading, 0.5)

    return asyncio.run(main())


def test_a_container_that_has_only_just_started_gets_time_for_its_first_output() -> None:
    with pytest.raises(TimeoutError):
        read(Young(0.001))


def test_its_end_ends_the_wait() -> None:
    assert read(Young(0.001), ends=True) == b"record"


@pytest.mark.parametrize("container", [Young(31), Young(0.001, running=False), Young(-5)])
def test_all_others_are_read_at_once(container: Young) -> None:
    """Also after the clock was set back."""
    assert read(container) == b"record"
