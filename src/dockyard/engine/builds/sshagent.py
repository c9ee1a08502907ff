"""`RUN --mount=type=ssh`: a socket in the step's container that leads to the client's agent.

Owns: the listening socket and passing bytes on. Does not own: how the client's agent is reached (the request brings a
function that connects).
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Final

from dockyard.engine.builds.request import Agent
from dockyard.model.errors import SystemFailure

_AT_ONCE: Final = 64  # connections of one step
_CHUNK: Final = 65536


async def serve(path: str, agent: Agent, stack: AsyncExitStack) -> None:
    """Listen at `path` until `stack` ends."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stack.enter_context(listener)
    try:
        listener.bind(path)
    except OSError as error:
        raise SystemFailure(f"ssh agent: {error.strerror}") from error
    listener.listen(16)
    listener.setblocking(False)
    task = asyncio.ensure_future(_accept(listener, agent))

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)


async def _accept(listener: socket.socket, agent: Agent) -> None:
    loop = asyncio.get_running_loop()
    passing: set[asyncio.Task[None]] = set()
    try:
        while True:
            connection, _ = await loop.sock_accept(listener)
            if len(passing) >= _AT_ONCE:
                connection.close()
                continue
            task = loop.create_task(_pass_on(connection, agent))
            passing.add(task)
            task.add_done_callback(passing.discard)
    finally:
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)


async def _pass_on(connection: socket.socket, agent: Agent) -> None:
    with connection:
        try:
            other = await agent()
        except Exception:  # the client's agent is out of reach: the program sees a closed socket
            return
        with other:
            ways = [asyncio.ensure_future(_copy(connection, other)), asyncio.ensure_future(_copy(other, connection))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)


async def _copy(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(target, data)
