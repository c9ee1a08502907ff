"""Requests whose body a worker process reads out of the connection itself: images/load and images/create?fromSrc.

Owns: `BodyLender`, the part of the HTTP protocol that recognises such a request, keeps aiohttp from reading its body,
lends the connection and goes on with it afterwards. Does not own: what reads it (`store.connection`), the rest of HTTP.

Only if the body is long (or of unknown length) and the connection is not encrypted; otherwise, and if nobody asks for
the connection, the body comes through aiohttp as others do. The connection is closed after such a request.
"""

from __future__ import annotations

import os
import re
import socket
from typing import Any, cast

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from dockyard.store.connection import Connection

_WANTED = re.compile(rb"POST (?:/v[0-9.]+)?/images/(?:load[? ]|create\?[^ ]*fromSrc)")
_LONG = 1 << 20  # bytes from which it is worth it


class BodyLender(RequestHandler):
    """aiohttp's protocol with `lend` for one request at a time."""

    __slots__ = ("_held", "_lent", "_swallowing")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._held: bytes | None = None  # the beginning of a body that aiohttp has not seen
        self._lent = False
        self._swallowing = False

    def data_received(self, data: bytes) -> None:
        if self._swallowing:
            return
        if (end := self._end_of_head(data)) and self.transport is not None:
            super().data_received(data[:end])
            message, payload = self._messages[-1] if self._messages else (None, None)
            if isinstance(message, RawRequestMessage) and payload is not None and _is_long(message):
                self.transport.pause_reading()
                self._held = data[end:]
                self._messages[-1] = (message._replace(should_close=True), payload)
                return
            data = data[end:]
            if not data:
                return
        super().data_received(data)  # also of nothing: that is how aiohttp goes on with what it had put aside

    def _end_of_head(self, data: bytes) -> int:
        """Where the body of a wanted request begins in `data`; 0: it is none."""
        if self._current_request is not None or self._messages or not _WANTED.match(data):
            return 0
        transport = self.transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return 0
        return data.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0

    @property
    def holds_body(self) -> bool:
        """Whether a body is kept from aiohttp, or somebody has the connection."""
        return self._held is not None or self._lent or self._swallowing

    def lend(self, request: web.BaseRequest) -> Connection | None:
        """The connection, for somebody who reads the body and closes it then; None: it comes by aiohttp."""
        sock = cast(socket.socket | None, self.transport.get_extra_info("socket")) if self.transport else None
        if self._held is None or sock is None:
            self.let_come()
            return None
        held, self._held, self._lent = self._held, None, True
        length = request.headers.get("Content-Length")
        return Connection(os.dup(sock.fileno()), held, int(length) if length is not None else None)

    def let_come(self) -> None:
        """Let aiohttp have the body, if it was kept from it."""
        if self._held is None:
            return
        held, self._held = self._held, None
        if held:
            super().data_received(held)
        if self.transport is not None:
            self.transport.resume_reading()

    def answered(self, request: web.BaseRequest, complete: bool) -> None:
        """The request has been handled. `complete`: who borrowed the connection has read the whole body.

        If not, what the client still sends is read and dropped, so that it comes to read the answer.
        """
        self.let_come()
        if not self._lent:
            return
        self._lent = False
        if complete:
            request.content.feed_eof()
        elif self.transport is not None:
            self._swallowing = True
            self.transport.resume_reading()


def _is_long(message: RawRequestMessage) -> bool:
    length = message.headers.get("Content-Length")
    return message.chunked if length is None else length.isdecimal() and int(length) >= _LONG
