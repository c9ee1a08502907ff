"""A stand-in for the Engine API: answers as it is told to and keeps what it was asked.

Owns: `FakeApi`, a small HTTP/1.1 server on a unix socket. Does not own: what the answers are.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


class FakeApi:
    """Answers every request but `_ping` with what `answer(method, path, body)` returns, raw."""

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self.api_version = "1.50"
        self.asked: list[tuple[str, str, bytes]] = []
        self.answer: Callable[[str, str, bytes], bytes] = lambda *_: reply({})
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            while line := file.readline():
                method, path, _ = line.decode().split(" ", 2)
                body = _body(file, _headers(file))
                if path == "/_ping":
                    head = f"Api-Version: {self.api_version}\r\nOstype: linux\r\nContent-Length: 0"
                    connection.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
                    continue
                self.asked.append((method, path, body))
                answer = self.answer(method, path, body)
                connection.sendall(answer)
                if b"Content-Length" not in answer and b"chunked" not in answer:
                    return

    def close(self) -> None:
        self._listener.close()
        self._path.unlink()


def _headers(file: BinaryIO) -> dict[str, str]:
    headers: dict[str, str] = {}
    while header := file.readline().strip():
        name, _, text = header.decode().partition(":")
        headers[name.lower()] = text.strip()
    return headers


def _body(file: BinaryIO, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(file.readline(), 16):
            body += file.read(size)
            file.readline()
        file.readline()
        return body
    return file.read(int(headers.get("content-length", 0)))


def reply(value: Any, status: str = "200 OK") -> bytes:
    """A JSON answer."""
    body = json.dumps(value).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
