"""The streams of a container over HTTP: attach and logs.

Owns: decoding these requests, choosing the form of the stream. Does not own: relaying (`edge.streams`,
`edge.websockets`), the bytes.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import cast

from aiohttp import web

from dockyard.edge import streams, websockets
from dockyard.edge.routing import Call, Route
from dockyard.engine.logs import LogRequest
from dockyard.model.errors import InvalidArgument
from dockyard.proto.detach import parse_keys
from dockyard.proto.times import parse_moment


async def attach(call: Call) -> web.StreamResponse:
    """Hijacks the connection. With `logs`, what was written so far comes first; without `stream`, nothing else."""
    keys = parse_keys(call.text("detachKeys"))
    containers = call.engine.containers
    container = containers.get(call.path("id"))
    tty, follow = container.config.tty, call.flag("stream")
    stdin, stdout, stderr = (call.flag(name) for name in ("stdin", "stdout", "stderr"))
    before = None
    if call.flag("logs") and (stdout or stderr):
        before = call.engine.logs.read(container.id, LogRequest(stdout=stdout, stderr=stderr)).chunks
    sock = None
    if follow:
        sock = await containers.attach(container.id, stdin=stdin, stdout=stdout, stderr=stderr)
    detached = await streams.hijack(
        call, sock, tty=tty, stdin=stdin and follow, keys=keys if tty else None, before=before
    )
    if detached:
        containers.detached(container.id)
    return streams.finished()


async def attach_websocket(call: Call) -> web.StreamResponse:
    """As `attach`, over a websocket: binary messages, output as it was written, stdout and stderr together."""
    keys = parse_keys(call.text("detachKeys"))
    containers = call.engine.containers
    container = containers.get(call.path("id"))
    tty = container.config.tty
    stdin, stdout, stderr = (call.flag(name) for name in ("stdin", "stdout", "stderr"))
    websockets.check(call)
    before = None
    if call.flag("logs") and (stdout or stderr):
        before = call.engine.logs.read(container.id, LogRequest(stdout=stdout, stderr=stderr)).chunks
    sock = None
    if call.flag("stream"):
        sock = await containers.attach(container.id, stdin=stdin, stdout=stdout, stderr=stderr)
    return await websockets.relay(
        call,
        sock,
        framed=not tty,
        stdin=stdin,
        keys=keys if tty else None,
        before=before,
        detached=lambda: containers.detached(container.id),
    )


async def logs(call: Call) -> web.StreamResponse:
    """A stream that ends with the log, or with the client when it follows."""
    wants_stdout, wants_stderr = call.flag("stdout"), call.flag("stderr")
    if not wants_stdout and not wants_stderr:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    request = LogRequest(
        stdout=wants_stdout,
        stderr=wants_stderr,
        since=moment(call, "since"),
        until=moment(call, "until"),
        timestamps=call.flag("timestamps"),
        details=call.flag("details"),
        tail=_tail(call.text("tail")),
        follow=call.flag("follow"),
    )
    log = call.engine.logs.read(call.path("id"), request)
    multiplexed = not log.tty and call.version >= (1, 42)
    async with aclosing(cast(streams.Closable, log.chunks)):
        response = await call.stream(streams.MULTIPLEXED_STREAM if multiplexed else streams.RAW_STREAM)
        async for chunk in log.chunks:
            await response.write(chunk)
    return response


def moment(call: Call, name: str) -> int | None:
    """A moment in the query, in ns; absent, "" and "0" are None. InvalidArgument naming the parameter."""
    text = call.text(name)
    if text in ("", "0"):
        return None
    try:
        return parse_moment(text, time.time_ns())
    except ValueError as error:
        raise InvalidArgument(f'invalid value for "{name}": {error}') from None


def _tail(text: str) -> int | None:
    """`tail`: a number of lines; anything else is all of them, as in Docker."""
    return int(text) if text.isascii() and text.isdigit() else None


ROUTES = [
    Route("POST", "/containers/{id}/attach", attach),
    Route("GET", "/containers/{id}/attach/ws", attach_websocket),
    Route("GET", "/containers/{id}/logs", logs),
]
