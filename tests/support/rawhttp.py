"""HTTP over a unix socket in the fewest steps, so that a test sees the bytes and a bench measures the engine.

Owns: `Connection` (keep-alive, request by request), `Response`, `Hijacked` (a connection that became a stream).
Does not own: retries, redirects, anything clever.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

Dialer = Callable[[], socket.socket]


@dataclass(frozen=True)
class Response:
    """One answer, read to its end. `headers` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The text of an error body (`{"message": …}`), or the body as text."""
        try:
            return str(self.json()["message"])
        except (ValueError, KeyError, TypeError):
            return self.body.decode(errors="replace")

    def lines(self) -> list[Any]:
        """The values of a stream of JSON objects."""
        decoder, text, values, at = json.JSONDecoder(), self.body.decode(), [], 0
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            value, at = decoder.raw_decode(text, at)
            values.append(value)
        return values


def unix_dialer(path: str, timeout: float = 60.0) -> Dialer:
    """Connects to a unix socket; every read then fails after `timeout` seconds, so that no test hangs."""

    def dial() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            raise
        return sock

    return dial


def target(path: str, query: dict[str, Any] | None = None) -> str:
    """Request target: booleans as 1/0, dicts and lists as JSON (that is how `filters` travels)."""
    if not query:
        return path
    values = {}
    for name, value in query.items():
        if isinstance(value, bool):
            value = int(value)
        elif isinstance(value, (dict, list)):
            value = json.dumps(value)
        values[name] = value
    return f"{path}?{urlencode(values, quote_via=quote)}"


class Connection:
    """One keep-alive connection. Not for several threads. A closed connection is opened again by the next request."""

    def __init__(self, dial: Dialer) -> None:
        self._dial = dial
        self._sock: socket.socket | None = None
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock, self._buffer = None, b""

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Response:
        """`body` travels as JSON, `raw` as it is. Raises OSError when the connection breaks or times out."""
        self.send_head(method, target(path, query), body, headers, raw)
        status, answer = self._read_head()
        while status == 100:
            status, answer = self._read_head()
        content = b"" if method == "HEAD" or status in (204, 304) else self._read_body(answer)
        if answer.get("connection", "").lower() == "close":
            self.close()
        return Response(status, answer, content)

    def get(self, path: str, **query: Any) -> Response:
        return self.request("GET", path, query=query)

    def post(self, path: str, body: Any = None, **query: Any) -> Response:
        return self.request("POST", path, body, query)

    def delete(self, path: str, **query: Any) -> Response:
        return self.request("DELETE", path, query=query)

    def stream(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, Any] | None = None,
        raw: bytes | None = None,
    ) -> Iterator[bytes]:
        """The body of an endless answer piece by piece (chunked or until close); the connection is spent after it."""
        self.send_head(method, target(path, query), body, None, raw)
        status, answer = self._read_head()
        if status != 200:
            raise AssertionError(f"{method} {path}: {status} {self._read_body(answer)[:500]!r}")
        try:
            if answer.get("transfer-encoding", "").lower() == "chunked":
                yield from self._chunks()
            else:
                while piece := self._buffer or self._receive():
                    self._buffer = b""
                    yield piece
        finally:
            self.close()

    def hijack(
        self, path: str, body: Any = None, query: dict[str, Any] | None = None, upgrade: bool = True
    ) -> Hijacked:
        """POST and take the connection over as a raw stream (attach, exec start)."""
        extra = {"Connection": "Upgrade", "Upgrade": "tcp"} if upgrade else {}
        self.send_head("POST", target(path, query), body, extra, None)
        status, answer = self._read_head()
        if status not in (101, 200):
            raise AssertionError(f"POST {path}: {status} {self._read_body(answer)[:500]!r}")
        assert self._sock is not None
        taken = Hijacked(self._sock, self._buffer, status, answer)
        self._sock, self._buffer = None, b""
        return taken

    def send_head(self, method: str, where: str, body: Any, headers: dict[str, str] | None, raw: bytes | None) -> None:
        content = raw
        lines = [f"{method} {where} HTTP/1.1", "Host: docker"]
        if body is not None:
            content = json.dumps(body).encode()
            lines.append("Content-Type: application/json")
        if content is not None or method == "POST":
            lines.append(f"Content-Length: {len(content or b'')}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        message = ("\r\n".join(lines) + "\r\n\r\n").encode() + (content or b"")
        if self._sock is None:
            self._sock = self._dial()
        self._sock.sendall(message)

    def _receive(self) -> bytes:
        assert self._sock is not None
        return self._sock.recv(1 << 16)

    def _more(self) -> None:
        data = self._receive()
        if not data:
            self.close()
            raise ConnectionResetError("the server closed the connection in the middle of an answer")
        self._buffer += data

    def _read_head(self) -> tuple[int, dict[str, str]]:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._more()
        head, self._buffer = self._buffer[:end].decode("latin-1"), self._buffer[end + 4 :]
        first, *rest = head.split("\r\n")
        headers = {}
        for line in rest:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(first.split(" ", 2)[1]), headers

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return b"".join(self._chunks())
        if "content-length" in headers:
            length = int(headers["content-length"])
            while len(self._buffer) < length:
                self._more()
            body, self._buffer = self._buffer[:length], self._buffer[length:]
            return body
        pieces = [self._buffer]
        while piece := self._receive():
            pieces.append(piece)
        self.close()
        return b"".join(pieces)

    def _chunks(self) -> Iterator[bytes]:
        while True:
            while (end := self._buffer.find(b"\r\n")) < 0:
                self._more()
            size = int(self._buffer[:end].split(b";")[0], 16)
            while len(self._buffer) < end + 2 + size + 2:
                self._more()
            piece = self._buffer[end + 2 : end + 2 + size]
            self._buffer = self._buffer[end + 2 + size + 2 :]
            if not size:
                return
            yield piece


class Hijacked:
    """A raw stream in both directions, after a 101 or 200 head."""

    def __init__(self, sock: socket.socket, rest: bytes, status: int, headers: dict[str, str]) -> None:
        self.sock, self.status, self.headers = sock, status, headers
        self._rest = rest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def close_write(self) -> None:
        """Half-close: the program sees the end of its input, we go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def read(self) -> bytes:
        """What is there now or comes next; b"" at the end."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        return self.sock.recv(1 << 16)

    def read_all(self) -> bytes:
        pieces = []
        while piece := self.read():
            pieces.append(piece)
        return b"".join(pieces)

    def read_until(self, text: bytes) -> bytes:
        seen = b""
        while text not in seen:
            piece = self.read()
            if not piece:
                raise AssertionError(f"the stream ended before {text!r}: {seen!r}")
            seen += piece
        return seen


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """The (stream, payload) pairs of a multiplexed stream; the stream must end on a frame's end."""
    found, at = [], 0
    while at < len(data):
        if len(data) - at < 8:
            raise AssertionError(f"a frame header is cut short: {data[at:]!r}")
        stream, size = struct.unpack_from(">BxxxI", data, at)
        if stream > 3 or len(data) - at - 8 < size:
            raise AssertionError(f"not a frame at {at}: {data[at : at + 40]!r}")
        found.append((stream, data[at + 8 : at + 8 + size]))
        at += 8 + size
    return found


def demultiplex(data: bytes) -> tuple[bytes, bytes]:
    """(stdout, stderr) of a multiplexed stream."""
    found = frames(data)
    return b"".join(p for s, p in found if s == 1), b"".join(p for s, p in found if s == 2)
