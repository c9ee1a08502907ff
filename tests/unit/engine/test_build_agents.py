"""The pool of connections to clients' ssh agents."""

from __future__ import annotations

import asyncio
import socket

import pytest

from dockyard.engine.builds import agents
from dockyard.engine.builds.agents import Agents
from dockyard.model.errors import InvalidArgument, Unavailable

TOKEN = "0123456789abcdef"


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    return ours, theirs


def _ended(ours: socket.socket) -> bool:
    try:
        return ours.recv(1) == b""
    finally:
        ours.close()


def test_a_connection_that_waits_is_taken() -> None:
    pool = Agents()
    ours, theirs = _pair()
    pool.offer(TOKEN, "default", theirs)
    with ours, asyncio.run(pool.take(TOKEN, "default")) as taken:
        assert taken is theirs
    pool.withdraw(TOKEN, "default", theirs)  # too late, and no harm done
    pool.close(TOKEN)


def test_a_step_waits_for_a_connection() -> None:
    async def both() -> socket.socket:
        pool = Agents()
        waiting = asyncio.create_task(pool.take(TOKEN, "default"))
        await asyncio.sleep(0)
        pool.offer(TOKEN, "other", _pair()[1])
        assert not waiting.done()
        pool.offer(TOKEN, "default", theirs)
        pool.close(TOKEN)
        return await waiting

    ours, theirs = _pair()
    with ours, asyncio.run(both()) as taken:
        assert taken is theirs


def test_a_client_without_an_agent_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "_PATIENCE", 0.01)
    pool = Agents()
    with pytest.raises(Unavailable, match="ssh agent 'default' is out of reach"):
        asyncio.run(pool.take(TOKEN, "default"))
    assert pool._wanted == {}


def test_a_step_that_is_ended_waits_no_more() -> None:
    async def ended() -> None:
        waiting = asyncio.create_task(pool.take(TOKEN, "default"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    pool = Agents()
    asyncio.run(ended())
    ours, theirs = _pair()
    pool.offer(TOKEN, "default", theirs)  # not lost to the step that has gone
    pool.close(TOKEN)
    assert _ended(ours)
    assert (pool._wanted, pool._waiting) == ({}, {})


def test_withdrawn_and_left_over_connections_are_closed() -> None:
    pool = Agents()
    first, second = _pair(), _pair()
    pool.offer(TOKEN, "default", first[1])
    pool.withdraw(TOKEN, "default", first[1])
    assert _ended(first[0])
    pool.offer(TOKEN, "default", second[1])
    pool.close("another" + TOKEN)
    pool.close(TOKEN)
    assert _ended(second[0])
    assert pool._waiting == {}


def test_nobody_fills_the_pool() -> None:
    pool = Agents()
    for _ in range(16):
        pool.offer(TOKEN, "default", _pair()[1])
    ours, theirs = _pair()
    with pytest.raises(InvalidArgument, match="too many connections"):
        pool.offer(TOKEN, "default", theirs)
    assert _ended(ours)
    pool.close(TOKEN)
