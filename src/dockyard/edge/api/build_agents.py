"""`POST /build/agent`: a client's connection to its ssh agent, laid down for a build (ours; docs/build.md).

Owns: the request that becomes a raw stream. Does not own: the pool (`engine.builds.agents`), relaying (`edge.streams`).
"""

from __future__ import annotations

import functools
import socket

import msgspec
from aiohttp import web

from dockyard.edge.routing import Call, Route
from dockyard.edge.streams import finished, hijack
from dockyard.engine.builds.request import Agent
from dockyard.model import untrusted
from dockyard.model.errors import InvalidArgument

_MAX_TOKEN = 128  # characters


def agents(call: Call) -> dict[str, Agent]:
    """`ssh=["default"]` and `session=TOKEN` of a build: agent → how a step gets a connection to it."""
    text = call.text("ssh")
    try:
        names = untrusted.decode(text, list[str]) if text else []
    except msgspec.MsgspecError:
        names = [""]
    if not all(names):
        raise InvalidArgument("error reading ssh: a JSON array of agents' names is expected")
    if not names:
        return {}
    pool, token = call.engine.builds.agents, _token(call)
    return {name: functools.partial(pool.take, token, name) for name in names}


def _token(call: Call) -> str:
    token = call.text("session")
    if not 16 <= len(token) <= _MAX_TOKEN:
        raise InvalidArgument(f"session: a secret word of 16 to {_MAX_TOKEN} characters is expected")
    return token


def release(call: Call) -> None:
    """The build is over: connections that no step has taken are closed."""
    if call.text("session"):
        call.engine.builds.agents.close(call.text("session"))


async def lay_down(call: Call) -> web.StreamResponse:
    """The connection waits until a step takes it, and ends with the step's, the build's or the client's."""
    pool, token, name = call.engine.builds.agents, _token(call), call.text("id") or "default"
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    try:
        pool.offer(token, name, theirs)
    except BaseException:
        ours.close()
        raise
    try:
        await hijack(call, ours, tty=True, stdin=True, keys=None)
    finally:
        pool.withdraw(token, name, theirs)
    return finished()


ROUTES = [Route("POST", "/build/agent", lay_down)]
