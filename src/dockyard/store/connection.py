"""A body that a worker reads out of the client's connection itself.

Owns: `Connection` (the daemon's side: what a worker needs to know) and `Body` (the worker's: its bytes). An archive
is copied two times less on its way than through the event loop and a pipe. Does not own: taking the connection from the
HTTP server (`edge.bodies`), the coding (`proto.chunked`).
"""

from __future__ import annotations

import base64
import os
import socket
from typing import Any, NamedTuple

from dockyard.proto.chunked import ChunkError, Dechunker
from dockyard.proto.tarread import StreamError
from dockyard.store.bytestream import RawInput

_PIECE = 1 << 18
_LAST = b"0\r\n\r\n"


class Connection(NamedTuple):
    """`fd`: the socket, closed by who lends it. `head`: what of the body was read already. `length`: the body's; None:
    it is chunked."""

    fd: int
    head: bytes
    length: int | None

    def arguments(self) -> dict[str, Any]:
        """For a worker function's `body`, beside the descriptor."""
        return {"head": base64.b64encode(self.head).decode(), "length": self.length}

    def stop(self) -> None:
        """Let a worker that reads it come to an end."""
        with socket.socket(fileno=os.dup(self.fd)) as sock:
            try:
                sock.shutdown(socket.SHUT_RD)
            except OSError:
                pass  # the client has gone already

    def close(self) -> None:
        os.close(self.fd)


class Body(RawInput):
    """The bytes of a `Connection`: `fd` and its `arguments()`. StreamError if the client goes before the end."""

    def __init__(self, fd: int, arguments: dict[str, Any]) -> None:
        super().__init__(fd)
        self._socket = fd
        self._head: bytes = base64.b64decode(arguments["head"])
        self._coming: int | None = arguments["length"]
        self._chunked = Dechunker() if self._coming is None else None

    def _read_some(self, size: int) -> bytes:
        if self._chunked is not None:
            return self._dechunked(self._chunked, size)
        assert self._coming is not None
        if not self._coming:
            return b""
        data = self._receive(min(self._coming, size))
        if not data:
            raise StreamError("unexpected end: the client has gone")
        self._coming -= len(data)
        return data

    def _dechunked(self, coding: Dechunker, size: int) -> bytes:
        """Some of the body: never more than was read for it."""
        while not coding.ended:
            data = self._receive(size)
            if not data:
                raise StreamError("unexpected end: the client has gone")
            try:
                if parts := coding.feed(data):
                    return b"".join(parts)
            except ChunkError as error:
                raise StreamError(str(error)) from None
        return b""

    def _receive(self, size: int) -> bytes:
        """Up to `size` of the next bytes as they were sent, b"" at the end.

        A socket gives what is there, which may be a few pages: they are collected, as each piece costs the threads
        behind a wake-up. Nobody waits for the rest but who has sent part of it already.
        """
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        parts: list[bytes] = []
        size = min(size, _PIECE)
        while size and (data := self._receive_some(size)):
            parts.append(data)
            size -= len(data)
            if self._chunked is not None and data.endswith(_LAST):
                break  # the end, most likely: nothing comes behind it
        return b"".join(parts)

    def _receive_some(self, size: int) -> bytes:
        while True:
            self._wait()
            try:
                return os.read(self._socket, size)
            except BlockingIOError:  # somebody else's wake-up
                continue
            except ConnectionError:
                return b""
