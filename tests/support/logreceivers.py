"""Receivers of logs on loopback, for tests of the shipper.

Owns: a syslog-like stream receiver that can die and come back, a Fluentd that acknowledges, a datagram socket. Each
keeps what it has got. Does not own: any assertion.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec


class StreamReceiver:
    """Accepts on a TCP port of 127.0.0.1 or a unix path, in a thread of its own. `stop` resets all connections."""

    def __init__(self, path: Path | None = None, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._path, self._tls = path, tls
        self.port = port
        self.data = bytearray()  # of all connections, in order of arrival
        self.connections = 0
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.start()

    def start(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(self._path))
        else:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            self.port = listener.getsockname()[1]
        listener.listen()
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            while data := connection.recv(65536):
                self.received(connection, data)
        except OSError:
            pass
        connection.close()

    def received(self, connection: socket.socket, data: bytes) -> None:
        self.data += data

    def stop(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()
        self._open.clear()

    def lines(self) -> list[str]:
        return bytes(self.data).decode().splitlines()


class FluentdReceiver(StreamReceiver):
    """Keeps (tag, record) of each entry; acknowledges while `acknowledge` says so."""

    def __init__(self, acknowledge: Callable[[int], bool] = lambda _count: True) -> None:
        self.entries: list[tuple[str, dict[str, Any]]] = []
        self.messages = 0
        self._acknowledge = acknowledge
        self._pending = b""
        super().__init__()

    def received(self, connection: socket.socket, data: bytes) -> None:
        self._pending += data
        try:
            tag, rows, options = msgspec.msgpack.decode(self._pending)
        except msgspec.DecodeError:
            return
        self._pending = b""
        self.messages += 1
        if not self._acknowledge(self.messages):
            connection.close()
            return
        self.entries += [(tag, record) for _, record in rows]
        if "chunk" in options:
            connection.sendall(msgspec.msgpack.encode({"ack": options["chunk"]}))


class DatagramReceiver:
    """A UDP port of 127.0.0.1, or a unix datagram socket."""

    def __init__(self, path: Path | None = None) -> None:
        self.sock = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.bind(("127.0.0.1", 0) if path is None else str(path))
        self.sock.settimeout(10)
        self.port = self.sock.getsockname()[1] if path is None else 0

    def take(self, count: int) -> list[bytes]:
        """The next datagrams; TimeoutError after ten seconds without one."""
        return [self.sock.recv(1 << 18) for _ in range(count)]

    def stop(self) -> None:
        self.sock.close()
