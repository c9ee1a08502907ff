"""Connections to clients' ssh agents, brought by the clients themselves.

Owns: the pool: a client lays connections down for a build of its (named by a token), steps of that build take them up.
Does not own: the HTTP requests that bring them (`edge.api.build_agents`), the socket that a step sees (`sshagent`).

Nothing connects to the client: whoever asks for a build opens connections to the daemon and keeps one more open than
are in use, so that a daemon behind TCP reaches an agent as well as one on the same machine does.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Final

from dockyard.model.errors import InvalidArgument, Unavailable

_PATIENCE: Final = 10.0  # seconds until a client's next connection must be there
_SPARE: Final = 16  # connections that wait for one agent of one build
_TOKENS: Final = 1024

Key = tuple[str, str]  # token, agent


class Agents:
    """For the event loop's thread. Sockets that nobody takes are closed with their build, or with their client."""

    def __init__(self) -> None:
        self._waiting: dict[Key, deque[socket.socket]] = {}
        self._wanted: dict[Key, deque[asyncio.Future[socket.socket]]] = {}

    def offer(self, token: str, agent: str, connection: socket.socket) -> None:
        """A connection (non-blocking, given away) for a step to come. InvalidArgument if too many wait already."""
        key = token, agent
        wanted = self._wanted.get(key, deque())
        while wanted:
            future = wanted.popleft()
            if not future.done():
                future.set_result(connection)
                return
        waiting = self._waiting.get(key)
        if len(waiting or ()) >= _SPARE or (waiting is None and len(self._waiting) >= _TOKENS):
            connection.close()
            raise InvalidArgument("too many connections to ssh agents wait for builds")
        self._waiting.setdefault(key, deque()).append(connection)

    def withdraw(self, token: str, agent: str, connection: socket.socket) -> None:
        """The client has gone: its connection, unless a step has it."""
        waiting = self._waiting.get((token, agent))
        if waiting is None or connection not in waiting:
            return
        waiting.remove(connection)
        connection.close()
        if not waiting:
            del self._waiting[token, agent]

    async def take(self, token: str, agent: str) -> socket.socket:
        """A connection for a step, now its own. Unavailable if the client brings none."""
        key = token, agent
        waiting = self._waiting.get(key)
        if waiting:
            connection = waiting.popleft()
            if not waiting:
                del self._waiting[key]
            return connection
        future = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(key, deque()).append(future)
        try:
            return await asyncio.wait_for(future, _PATIENCE)
        except TimeoutError:
            raise Unavailable(f"the client's ssh agent {agent!r} is out of reach") from None
        finally:
            self._forget(key, future)

    def _forget(self, key: Key, future: asyncio.Future[socket.socket]) -> None:
        queue = self._wanted.get(key)
        if queue is not None and future in queue:
            queue.remove(future)
        if not queue:
            self._wanted.pop(key, None)

    def close(self, token: str) -> None:
        """The build is over."""
        for key in [key for key in self._waiting if key[0] == token]:
            for connection in self._waiting.pop(key):
                connection.close()
