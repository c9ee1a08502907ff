"""D-Bus as far as asking systemd needs it: method calls, their answers, signals; little-endian only.

Owns: marshalling values by their signatures, the greeting, one blocking connection. Does not own: what systemd is asked
for (`runtime.cgroups.systemd`). Standard library only: it is used where a container is made.

Source: D-Bus Specification 0.43 ("Message Protocol", "Authentication Protocol").
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

CALL: Final = 1
RETURN: Final = 2
ERROR: Final = 3
SIGNAL: Final = 4

_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SENDER, _SIGNATURE = range(1, 9)
_FIELDS = {_PATH: "o", _INTERFACE: "s", _MEMBER: "s", _DESTINATION: "s", _SIGNATURE: "g"}
_FIXED = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "b": "I", "x": "q", "t": "Q", "d": "d"}
_ALIGNMENT = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "i": 4, "u": 4, "b": 4, "s": 4, "o": 4, "a": 4}
_MAX_MESSAGE = 1 << 27  # bytes, the specification's limit


class Message(NamedTuple):
    """What came. `fields` by the codes of the specification."""

    kind: int
    serial: int
    fields: dict[int, Any]
    body: list[Any]

    @property
    def member(self) -> str:
        return str(self.fields.get(_MEMBER, ""))


class DbusError(OSError):
    """The other side answered with an error. `name` is D-Bus's, such as org.freedesktop.DBus.Error.AccessDenied."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(errno.EPROTO, text or name)
        self.name = name


def single(signature: str) -> tuple[str, str]:
    """The first complete type of a signature, and the rest."""
    if signature[0] == "a":
        inner, rest = single(signature[1:])
        return f"a{inner}", rest
    if signature[0] not in "({":
        return signature[0], signature[1:]
    depth = 0
    for index, letter in enumerate(signature):
        depth += (letter in "({") - (letter in ")}")
        if depth == 0:
            return signature[: index + 1], signature[index + 1 :]
    raise ValueError(f"signature {signature!r} is not complete")


def marshal(signature: str, values: Sequence[Any], out: bytearray | None = None) -> bytearray:
    """The values of a signature, appended to `out`. A variant is a pair (signature, value)."""
    out = bytearray() if out is None else out
    for value in values:
        kind, signature = single(signature)
        _put(kind, value, out)
    return out


def _pad(out: bytearray, kind: str) -> None:
    out.extend(bytes(-len(out) % _ALIGNMENT.get(kind[0], 8)))


def _put(kind: str, value: Any, out: bytearray) -> None:
    _pad(out, kind)
    if kind in _FIXED:
        out += struct.pack("<" + _FIXED[kind], value)
    elif kind in "so":
        text = str(value).encode()
        out += struct.pack("<I", len(text)) + text + b"\0"
    elif kind == "g":
        out += struct.pack("<B", len(value)) + value.encode() + b"\0"
    elif kind == "v":
        _put("g", value[0], out)
        _put(value[0], value[1], out)
    elif kind[0] == "a":
        start = len(out)
        out += bytes(4)
        _pad(out, kind[1])
        first = len(out)
        for item in value:
            _put(kind[1:], item, out)
        struct.pack_into("<I", out, start, len(out) - first)
    else:
        marshal(kind[1:-1], value, out)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def values(self, signature: str) -> list[Any]:
        found = []
        while signature:
            kind, signature = single(signature)
            found.append(self.value(kind))
        return found

    def align(self, kind: str) -> None:
        self.at += -self.at % _ALIGNMENT.get(kind[0], 8)

    def value(self, kind: str) -> Any:
        self.align(kind)
        if kind in _FIXED:
            (number,) = struct.unpack_from("<" + _FIXED[kind], self._data, self.at)
            self.at += struct.calcsize(_FIXED[kind])
            return bool(number) if kind == "b" else number
        if kind in "sog":
            size = self.value("y" if kind == "g" else "u")
            self.at += size + 1
            return self._data[self.at - size - 1 : self.at - 1].decode("utf-8", "replace")
        if kind == "v":
            return self.value(single(self.value("g"))[0])
        if kind[0] == "a":
            size = self.value("u")
            self.align(kind[1])
            end, found = self.at + size, []
            while self.at < end:
                found.append(self.value(kind[1:]))
            return found
        return tuple(self.values(kind[1:-1]))


class Connection:
    """A connection to a bus or (`private`) straight to a service. Use as a context manager."""

    def __init__(self, path: str, *, private: bool, timeout: float) -> None:
        """`path`: of its unix socket; `timeout`: s that each answer may take. OSError."""
        self._serial = 0
        self._private = private
        self._signals: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._greet()
            if not private:
                self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _greet(self) -> None:
        """EXTERNAL: the other side asks the kernel who we are.

        BEGIN goes out with the rest and nothing behind it until the answer is there: systemd does not look for a
        message that it has read in one go with BEGIN, until another byte comes.
        """
        self._socket.sendall(b"\0AUTH EXTERNAL %s\r\nBEGIN\r\n" % str(os.geteuid()).encode().hex().encode())
        answer = b""
        while not answer.endswith(b"\r\n"):
            answer += self._receive(1)
            if len(answer) > 1024:
                raise OSError(errno.EPROTO, "no D-Bus service answers")
        if not answer.startswith(b"OK "):
            raise OSError(errno.EACCES, "the D-Bus service refuses us")

    def _receive(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = self._socket.recv(size - len(found))
            if not part:
                raise OSError(errno.ECONNRESET, "the D-Bus service has closed the connection")
            found += part
        return found

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *arguments: Any
    ) -> list[Any]:
        """Call a method and wait for what it returns. DbusError; OSError (TimeoutError) if no answer comes."""
        self._serial += 1
        fields: list[tuple[int, str]] = [(_PATH, path), (_INTERFACE, interface), (_MEMBER, member)]
        if not self._private:
            fields.append((_DESTINATION, destination))
        if signature:
            fields.append((_SIGNATURE, signature))
        body = marshal(signature, arguments)
        coded = [(code, (_FIELDS[code], value)) for code, value in fields]
        head = marshal("yyyyuua(yv)", [ord("l"), CALL, 0, 1, len(body), self._serial, coded])
        _pad(head, "(")
        self._socket.sendall(bytes(head + body))
        while True:
            message = self._next()
            if message.kind == SIGNAL:
                self._signals.append(message)
            elif message.fields.get(_REPLY_SERIAL) == self._serial:
                if message.kind == ERROR:
                    text = message.body[0] if message.body and isinstance(message.body[0], str) else ""
                    raise DbusError(str(message.fields.get(_ERROR_NAME, "")), text)
                return message.body

    def signal(self) -> Message:
        """The next signal, also one that came while an answer was waited for."""
        while not self._signals:
            message = self._next()
            if message.kind == SIGNAL:
                self._signals.append(message)
        return self._signals.pop(0)

    def _next(self) -> Message:
        head = self._receive(16)
        order, kind, _flags, _version, size, serial, fields = struct.unpack("<cBBBIII", head)
        if order != b"l" or fields + size > _MAX_MESSAGE:
            raise OSError(errno.EPROTO, "the D-Bus service speaks with another byte order")
        rest = self._receive(fields + -fields % 8 + size)
        reader = _Reader(head[12:16] + bytes(4) + rest[:fields])  # an array's items begin at a multiple of 8
        reader.at = 8
        found = {}
        while reader.at < fields + 8:
            code, value = reader.value("(yv)")
            found[code] = value
        body = _Reader(rest[fields + -fields % 8 :]).values(str(found.get(_SIGNATURE, "")))
        return Message(kind, serial, found, body)
