"""Connections that stop being HTTP: attach and exec.

Owns: taking a connection over from aiohttp, the head of the answer, the relay between the client's connection and the
engine's socket (back-pressure, half-close both ways, detach keys, clients that vanish). Does not own: what the bytes
mean: the engine's socket carries them as the client wants them (raw, or framed).

The relay is two protocols that feed each other's transports: no task and no copy beyond the loop's own. It ends when
the output has ended, the client has gone, or the keys were typed.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Protocol, cast

from aiohttp import web

from dockyard.edge.hangup import HangupWatch
from dockyard.edge.routing import Call
from dockyard.proto import frames
from dockyard.proto.detach import DetachMatcher

_HEAD_PATIENCE = 2.0  # seconds that a client has to read the answer's head before output follows it anyway
_FAREWELL = 10.0  # seconds that a client has to close its end after the output's end

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"


class Closable(Protocol):
    """The engine's iterators: they are closed as generators are."""

    async def aclose(self) -> None: ...


class _HeadWatch:
    """Holds output back until the client has read the head of the answer.

    docker-py reads the head through a buffer and the stream past it: what arrives together with the head is lost to it.
    The kernel knows what a unix socket's peer has not read yet (TIOCOUTQ, unix(7): SIOCOUTQ); on TCP nobody does.
    """

    def __init__(self, client: asyncio.Transport) -> None:
        peer = client.get_extra_info("socket")
        self._fd = peer.fileno() if peer is not None and peer.family == socket.AF_UNIX else -1
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + _HEAD_PATIENCE
        self._pause = 0.0001

    def has_been_read(self) -> bool:
        if self._fd < 0 or self._loop.time() > self._deadline:
            return True
        try:
            unread = int.from_bytes(fcntl.ioctl(self._fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except OSError:
            return True
        return unread == 0

    def later(self, again: Callable[[], None]) -> asyncio.TimerHandle:
        """Look again soon; more slowly each time."""
        self._pause = min(self._pause * 2, 0.01)
        return self._loop.call_later(self._pause, again)


class Relay:
    """Moves bytes between a client's transport and the engine's socket until one of them has had enough."""

    def __init__(
        self,
        client: asyncio.Transport,
        *,
        stdin: bool,
        keys: bytes | None,
        until: asyncio.Future[Any] | None = None,
        recode: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.recode = recode
        self.client = _ClientSide(self, client)
        self.engine = _EngineSide(self)
        self.detached = False
        self.stdin = stdin
        self._until = until
        self.matcher = DetachMatcher(keys) if keys and stdin else None
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._watch: HangupWatch | None = None
        self._head: _HeadWatch | None = _HeadWatch(client)
        self._held = b""
        self._ended = False  # the output, while some of it is held back
        self._holding: asyncio.TimerHandle | None = None
        self._farewell: asyncio.TimerHandle | None = None

    async def run(
        self, sock: socket.socket | None, already_read: bytes, before: AsyncIterator[bytes] | None = None
    ) -> None:
        """Relay until the end. `sock` is the engine's, given away; `already_read` came from the client earlier.

        `before`: output that goes first. Without a `sock` there is no other.
        """
        client = self.client.transport
        try:
            if sock is not None:
                client.pause_reading()  # what the client types while `before` is sent is the program's
            client.set_protocol(self.client)
            if before is not None:
                await self._send_before(before)
            if sock is not None and not self._done.done():
                await self._loop.create_unix_connection(lambda: self.engine, sock=sock)
                if already_read:
                    self.client.data_received(already_read)
                client.resume_reading()
            if sock is None:
                self.output_ended()
            await self._done
        finally:
            self._close()

    async def _send_before(self, chunks: AsyncIterator[bytes]) -> None:
        while self._head is not None and not self._head.has_been_read() and not self._done.done():
            await asyncio.sleep(0.001)
        async with aclosing(cast(Closable, chunks)):
            async for chunk in chunks:
                if self._done.done() or self.client.transport.is_closing():
                    return
                self.client.transport.write(chunk)
                await self.client.writable.wait()

    def output(self, data: bytes) -> None:
        """The program wrote: to the client, once that has read the head."""
        if self.client.transport.is_closing():
            self.finish()  # it has gone; the loop is about to tell us
            return
        if self._head is not None and not self._head.has_been_read():
            self._held += data
            if self._holding is None and self.engine.transport is not None:
                self.engine.transport.pause_reading()
                self._holding = self._head.later(self._let_go)
            return
        self._head = None
        self.client.transport.write(data)

    def _let_go(self) -> None:
        self._holding = None
        held, self._held = self._held, b""
        self.output(held)
        if self._holding is None and self.engine.transport is not None and self.client.writable.is_set():
            self.engine.transport.resume_reading()
        if self._holding is None and self._ended:
            self.output_ended()

    def input_ended(self) -> None:
        """The client closed its writing end: so does the program's stdin."""
        engine = self.engine.transport
        if engine is not None and self.stdin and not engine.is_closing():
            if self.matcher is not None:
                engine.write(self.matcher.flush())
            engine.write_eof()
        peer = self.client.transport.get_extra_info("socket")
        if self._watch is None and not self._done.done() and peer is not None and peer.family == socket.AF_UNIX:
            self._watch = HangupWatch(peer.fileno(), self.finish)
        if self._farewell is not None:
            self.finish()

    def output_ended(self) -> None:
        """No more output: say so, and let the client close first, so that no byte is lost to a reset."""
        if self._farewell is not None or self._done.done():
            return
        if self._holding is not None:
            self._ended = True
            return
        if self._until is not None and not self._until.done():
            self._until.add_done_callback(self._until_done)
            return
        client = self.client.transport
        if client.is_closing() or self.client.ended or not client.can_write_eof():
            self.finish()
            return
        client.write_eof()
        self._farewell = self._loop.call_later(_FAREWELL, self.finish)

    def _until_done(self, _: asyncio.Future[Any]) -> None:
        self.output_ended()

    @property
    def holding(self) -> bool:
        return self._holding is not None

    def detach(self) -> None:
        self.detached = True
        self.finish()

    def finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        for timer in (self._farewell, self._holding):
            if timer is not None:
                timer.cancel()
        if self.engine.transport is not None:
            self.engine.transport.abort()
        if self._until is not None:
            self._until.remove_done_callback(self._until_done)
        self.client.transport.close()


class _ClientSide(asyncio.Protocol):
    def __init__(self, relay: Relay, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.ended = False
        self.writable = asyncio.Event()
        self.writable.set()
        self._relay = relay

    def data_received(self, data: bytes) -> None:
        relay, engine = self._relay, self._relay.engine.transport
        if engine is None or not relay.stdin:
            return
        found = False
        if relay.matcher is not None:
            data, found = relay.matcher.feed(data)
        if data and not engine.is_closing():  # the program may just have ended
            engine.write(data)
        if found:
            relay.detach()

    def eof_received(self) -> bool:
        self.ended = True
        self._relay.input_ended()
        return True  # the other direction stays open

    def pause_writing(self) -> None:
        self.writable.clear()
        if self._relay.engine.transport is not None:
            self._relay.engine.transport.pause_reading()

    def resume_writing(self) -> None:
        self.writable.set()
        engine = self._relay.engine.transport
        if engine is not None and not engine.is_closing() and not self._relay.holding:
            engine.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.writable.set()
        self._relay.finish()


class _EngineSide(asyncio.Protocol):
    transport: asyncio.Transport | None = None

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        recode = self._relay.recode
        self._relay.output(data if recode is None else recode(data))

    def eof_received(self) -> bool:
        self._relay.output_ended()
        return True  # closed by the relay

    def pause_writing(self) -> None:
        self._relay.client.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._relay.client.transport.is_closing():
            self._relay.client.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.output_ended()


async def hijack(
    call: Call,
    sock: socket.socket | None,
    *,
    tty: bool,
    stdin: bool,
    keys: bytes | None,
    before: AsyncIterator[bytes] | None = None,
    until: asyncio.Future[Any] | None = None,
    recode: Callable[[bytes], bytes] | None = None,
) -> bool:
    """Turn the request's connection into a relay to `sock` (given away) and stay until it ends.

    `tty`: what the client gets has no frames. `keys`: what detaches, None for never. `before`: output that goes first.
    `until`: the stream does not end before. `recode`: what is to be made of each piece of the socket's output.
    True when the client detached.
    """
    try:
        transport, already_read = _take_over(call, multiplexed=not tty)
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    relay = Relay(transport, stdin=stdin, keys=keys, until=until, recode=recode)
    try:
        await relay.run(sock, already_read, before)
    finally:
        if relay.engine.transport is None and sock is not None:
            sock.close()
    return relay.detached


async def hijack_with_error(call: Call, message: str, *, tty: bool) -> None:
    """Answer with a stream of nothing but an error on stdout, where Docker has begun the stream by then (exec)."""
    text = message.encode() + b"\r\n"

    async def told() -> AsyncIterator[bytes]:
        yield text if tty else frames.frame(frames.STDOUT, text)

    await hijack(call, None, tty=tty, stdin=False, keys=None, before=told())


class _Releasable(Protocol):
    def release(self) -> tuple[asyncio.Transport, bytes]: ...


def _take_over(call: Call, *, multiplexed: bool) -> tuple[asyncio.Transport, bytes]:
    """Take the connection from aiohttp and write the answer's head. ConnectionResetError if the client has gone."""
    if call.request.transport is None or call.request.transport.is_closing():
        raise ConnectionResetError
    call.hijacked = call.started = True
    transport, already_read = cast(_Releasable, call.request.protocol).release()
    upgrade = "Upgrade" in call.request.headers
    kind = MULTIPLEXED_STREAM if multiplexed and upgrade and call.version >= (1, 42) else RAW_STREAM
    head = "HTTP/1.1 101 UPGRADED\r\n" if upgrade else "HTTP/1.1 200 OK\r\n"
    head += f"Content-Type: {kind}\r\n"
    if upgrade:
        head += "Connection: Upgrade\r\nUpgrade: tcp\r\n"
    for name, value in call.headers.items():
        head += f"{name}: {value}\r\n"
    transport.write(f"{head}\r\n".encode())
    return transport, already_read


def finished() -> web.StreamResponse:
    """What a handler returns after a hijack: nobody reads it."""
    return web.Response()
