"""A container's streams over a websocket (RFC 6455), as `GET /containers/{id}/attach/ws` has them.

Owns: the relay between a websocket and the engine's socket: back-pressure both ways, detach keys, clients that vanish.
Does not own: the handshake and the messages' framing (aiohttp), what the bytes mean.

A websocket has no half-close: the client's end is the end of both directions, and stdin ends with it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import cast

from aiohttp import WSMsgType, web

from dockyard.edge.routing import Call
from dockyard.edge.streams import Closable
from dockyard.model.errors import InvalidArgument
from dockyard.proto.detach import DetachMatcher
from dockyard.proto.frames import FrameReader

_CHUNK = 32768
_PING = 30.0  # s; a client that does not answer within half of it has gone
_LARGEST = 4 << 20  # bytes of one message from a client


def check(call: Call) -> None:
    """InvalidArgument if the request is no websocket's handshake."""
    if call.request.headers.get("Upgrade", "").lower() != "websocket":
        raise InvalidArgument("this endpoint speaks websocket only: the request has no Upgrade: websocket")


async def relay(
    call: Call,
    sock: socket.socket | None,
    *,
    framed: bool,
    stdin: bool,
    keys: bytes | None,
    before: AsyncIterator[bytes] | None,
    detached: Callable[[], None],
) -> web.StreamResponse:
    """Answer the handshake and relay to `sock` (given away) until one side ends.

    `framed`: what comes from `sock` and `before` is in frames, to be taken out of them. `keys`: what detaches, None for
    never; `detached` is called then. `before`: output that goes first. Without a `sock` there is no other.
    """
    peer = web.WebSocketResponse(
        heartbeat=_PING, max_msg_size=_LARGEST, compress=False, protocols=_offered(call.request)
    )
    peer.headers.update(call.headers)
    call.started = True
    try:
        await peer.prepare(call.request)
        writer = asyncio.create_task(_write(peer, sock, before, framed))
        reader = asyncio.create_task(_read(peer, sock if stdin else None, DetachMatcher(keys) if keys else None))
        try:
            await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and not reader.cancelled() and reader.exception() is None and reader.result():
                detached()
        finally:
            for task in (writer, reader):
                task.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)
        await peer.close()
    except web.HTTPException as error:
        raise InvalidArgument(f"websocket: {error.text}") from None
    finally:
        if sock is not None:
            sock.close()
    return peer


def _offered(request: web.BaseRequest) -> list[str]:
    """The subprotocols that the client names. The first is agreed to, as with Docker, which gives it no meaning: a
    client that has named one gives up when none comes back (browsers and node's `ws` do)."""
    named = request.headers.get("Sec-WebSocket-Protocol", "")
    return [each.strip() for each in named.split(",") if each.strip()]


async def _write(
    peer: web.WebSocketResponse, sock: socket.socket | None, before: AsyncIterator[bytes] | None, framed: bool
) -> None:
    """Output to the client, to its end."""
    frames = FrameReader() if framed else None

    async def send(data: bytes) -> None:
        out = b"".join(part for _, part in frames.feed(data)) if frames is not None else data
        if out:
            await peer.send_bytes(out)

    if before is not None:
        async with aclosing(cast(Closable, before)):
            async for chunk in before:
                await send(chunk)
    if sock is None:
        return
    loop = asyncio.get_running_loop()
    while part := await loop.sock_recv(sock, _CHUNK):
        await send(part)


async def _read(peer: web.WebSocketResponse, sock: socket.socket | None, matcher: DetachMatcher | None) -> bool:
    """Input from the client, until it leaves; whether it did so by its detach keys. Without `sock` it is dropped."""
    loop = asyncio.get_running_loop()
    async for message in peer:
        if message.type is WSMsgType.TEXT:
            data = message.data.encode("utf-8", "surrogateescape")
        elif message.type is WSMsgType.BINARY:
            data = message.data
        else:
            break
        if sock is None:
            continue
        found = False
        if matcher is not None:
            data, found = matcher.feed(data)
        if data:
            await loop.sock_sendall(sock, data)
        if found:
            return True
    return False
