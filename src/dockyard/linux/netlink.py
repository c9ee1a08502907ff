"""Netlink sockets: batches of requests in one send, every acknowledgement awaited, and dumps.

Owns: the wire form of messages and attributes (netlink(7)), sequence numbers, acknowledgements, multipart answers,
errors as OSError naming the request. Does not own: what the messages say (`linux.rtnetlink`, `linux.nfnetlink`).

Standard library only: it runs in every container's monitor and init.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300

NLMSG_ERROR = 2
NLMSG_DONE = 3

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_BATCH_LIMIT = 32 << 10  # bytes in one send: well below the default socket buffer
_BATCH_COUNT = 100  # acknowledgements that fit the default receive buffer
_RECEIVE = 256 << 10
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # socket(7): beyond net.core.wmem_max and rmem_max
_PER_ACKNOWLEDGEMENT = 1024  # bytes of a receive buffer


class Message(NamedTuple):
    """One request. `name` is for the error text; `flags` without REQUEST and ACK, which are added."""

    name: str
    type: int
    flags: int
    body: bytes


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded. OSError EMSGSIZE if `data` does not fit its 16-bit length: never cut short."""
    length = 4 + len(data)
    if length > 0xFFFF:
        raise OSError(errno.EMSGSIZE, f"netlink attribute {kind}: {len(data)} bytes do not fit")
    return _ATTRIBUTE.pack(length, kind) + data + _PADDING[length & 3]


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """A 32-bit attribute in host byte order."""
    return _ATTRIBUTE.pack(8, kind) + value.to_bytes(4, "little" if _LITTLE else "big")


_LITTLE = struct.pack("=H", 1) == b"\x01\x00"


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attribute type -> payload (the last of a type wins; flag bits are removed from the type)."""
    return dict(attribute_list(data, offset))


def attribute_list(data: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """Every attribute in order, for lists in which types repeat. Broken lengths end the list."""
    found: list[tuple[int, bytes]] = []
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            break
        found.append((kind & _TYPE_MASK, data[offset + 4 : offset + length]))
        offset += (length + 3) & ~3
    return found


class Netlink:
    """One socket. It stays in the network namespace in which it was made. Not for use by two threads at once."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def close(self) -> None:
        self._socket.close()

    def batch(self, messages: Sequence[Message]) -> None:
        """Send requests together and await every acknowledgement.

        The kernel carries out each of them, also those after one that failed; the first failure is raised as an
        OSError whose text names the request and, where the kernel says it, the reason.
        """
        first: OSError | None = None
        for part in _portions(messages):
            failure = self._portion(part)
            first = first or failure
        if first is not None:
            raise first

    def _portion(self, messages: Sequence[Message]) -> OSError | None:
        waiting: dict[int, str] = {}
        out: list[bytes] = []
        for message in messages:
            out.append(self.pack(message, NLM_F_ACK))
            waiting[self._sequence] = message.name
        self.send(b"".join(out))
        return self.acknowledgements(waiting)

    def pack(self, message: Message, extra: int = 0) -> bytes:
        """The bytes of a request under the next sequence number."""
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        flags = message.flags | NLM_F_REQUEST | extra
        return _HEADER.pack(16 + len(message.body), message.type, flags, self._sequence, 0) + message.body

    @property
    def sequence(self) -> int:
        """The sequence number of the request packed last."""
        return self._sequence

    def forget(self, seed: int) -> None:
        """Before a request on a socket that other processes use too: drop answers that a dead one did not fetch, and
        number requests from `seed` on."""
        self._sequence = seed & 0x7FFFFFFF
        while True:
            try:
                self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return

    def send(self, data: bytes, answers: int = 1) -> None:
        """Requests that the kernel takes as one, of any length; `answers`: acknowledgements that come at once."""
        if answers > _BATCH_COUNT:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, answers * _PER_ACKNOWLEDGEMENT)
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, len(data))
            self._socket.send(data)

    def acknowledgements(self, waiting: dict[int, str], also: str = "netlink") -> OSError | None:
        """Await one acknowledgement for each sequence number of `waiting` (number -> name); the first failure.

        An error under a number that nobody waits for ends the waiting: a batch that was refused as a whole. It is
        reported under the name `also`.
        """
        first: OSError | None = None
        while waiting:
            for kind, flags, sequence, body in self._receive():
                if kind != NLMSG_ERROR:
                    continue
                code = -struct.unpack_from("=i", body)[0]
                name = waiting.pop(sequence, None)
                if code and first is None:
                    first = OSError(code, f"{name or also}: {_reason(code, flags, body)}")
                if code and name is None:
                    return first
        return first

    def dump(self, message: Message) -> list[tuple[int, bytes]]:
        """All answers (type, body) to a dump request; asked again when the table changed in between."""
        for _ in range(10):
            answers, whole = self._dump_once(message)
            if whole:
                break
        return answers

    def _dump_once(self, message: Message) -> tuple[list[tuple[int, bytes]], bool]:
        self.send(self.pack(message, NLM_F_DUMP))
        answers: list[tuple[int, bytes]] = []
        wanted, whole = self._sequence, True
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != wanted:
                    continue
                whole = whole and not flags & NLM_F_DUMP_INTR
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    code = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if code > 0:
                        raise OSError(code, f"{message.name}: {_reason(code, flags, body)}")
                    return answers, whole
                answers.append((kind, body))

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """The messages of one datagram from the kernel: (type, flags, sequence, body)."""
        data, _, message_flags, sender = self._socket.recvmsg(_RECEIVE)
        if sender[0] != 0:
            return  # only the kernel (port 0) is believed
        if message_flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, "netlink: an answer was longer than the receive buffer")
        yield from parse(data)


class Watch:
    """A socket that hears of changes: member of multicast groups. Non-blocking, for an event loop."""

    def __init__(self, protocol: int, groups: Sequence[int]) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol
        )
        self._socket.bind((0, 0))  # a socket without a port of its own hears nothing
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[tuple[int, bytes]] | None:
        """What has been heard: (type, body). None if messages were lost (look at everything again)."""
        heard: list[tuple[int, bytes]] = []
        while True:
            try:
                data = self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return heard
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return None
                raise
            heard.extend((kind, body) for kind, _, _, body in parse(data))


def parse(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages of one datagram: (type, flags, sequence, body)."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > len(data):
            return
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _portions(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """`messages` in portions that one send carries."""
    start = size = 0
    for index, message in enumerate(messages):
        length = 16 + len(message.body)
        if index > start and (size + length > _BATCH_LIMIT or index - start >= _BATCH_COUNT):
            yield messages[start:index]
            start, size = index, 0
        size += length
    if start < len(messages):
        yield messages[start:]


def _reason(code: int, flags: int, body: bytes) -> str:
    """errno in words, with the kernel's own remark (NLMSGERR_ATTR_MSG) if there is one."""
    reason = os.strerror(code)
    if flags & _NLM_F_ACK_TLVS:
        # body: the error number, the header of the request, its payload unless capped, attributes
        payload = 0 if flags & _NLM_F_CAPPED else struct.unpack_from("=I", body, 4)[0] - 16
        remark = attributes(body, 4 + 16 + ((payload + 3) & ~3)).get(_NLMSGERR_ATTR_MSG, b"")
        if remark:
            return f"{reason} ({remark.rstrip(bytes(1)).decode(errors='replace')})"
    return reason
