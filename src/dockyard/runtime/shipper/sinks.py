"""Receivers of logs: one connection each.

Owns: connecting, what "sent" means for each transport, the drivers' mapping onto `proto.logformats`. Does not own: what
to send, when to try again (`shipping`).

`send` returns when a batch has arrived as far as the transport can tell: a datagram has been taken by the kernel, a
stream's bytes are acknowledged by the other side's kernel, Fluentd has acknowledged them itself. A stream's receiver
may still die with bytes unread, so what was sent within the last `doubt` seconds before a connection broke is sent
again.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import fcntl
import os
import secrets
import socket
import ssl
import struct
import termios
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from dockyard.proto import logdrivers, logformats
from dockyard.proto.logdrivers import Address
from dockyard.proto.logformats import Entry, Source
from dockyard.runtime.channel import seal

JOURNAL: Final = "/run/systemd/journal/socket"
SYSLOG: Final = ("/dev/log", "/var/run/syslog", "/var/run/log")
_PATIENCE: Final = 10.0  # seconds: to connect, and for an answer
_STALLED: Final = 30.0  # seconds that a receiver may take for one batch
_SETTLE: Final = 0.005  # seconds between looks at what is not acknowledged yet
_DOUBT: Final = 2.0
_BURST: Final = 64  # datagrams at once


class Sink(Protocol):
    """A connected receiver."""

    doubt: float  # seconds until what was sent is believed to have been read

    async def send(self, entries: Sequence[Entry]) -> None:
        """OSError (TimeoutError) if it cannot be known whether they have arrived."""

    def broken(self) -> bool:
        """Whether the other side has ended the connection."""

    async def close(self) -> None: ...


class Stream:
    """A TCP, TLS or unix stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer
        writer.transport.set_write_buffer_limits(0)  # drain waits for all

    @classmethod
    async def connect(cls, address: Address, context: ssl.SSLContext | None = None) -> Stream:
        """OSError, TimeoutError."""
        async with asyncio.timeout(_PATIENCE):
            if address.kind == "unix":
                return cls(*await asyncio.open_unix_connection(address.host))
            return cls(*await asyncio.open_connection(address.host, address.port, ssl=context))

    async def write(self, data: bytes) -> None:
        """Returns when the other side's kernel has it all. OSError, TimeoutError."""
        async with asyncio.timeout(_STALLED):
            self._writer.write(data)
            await self._writer.drain()
            sock = self._writer.get_extra_info("socket")
            while _unacknowledged(sock.fileno()):
                if self.broken():
                    raise ConnectionResetError(errno.ECONNRESET, "the receiver has ended the connection")
                await asyncio.sleep(_SETTLE)
            if self.broken():
                raise ConnectionResetError(errno.ECONNRESET, "the receiver has ended the connection")

    def broken(self) -> bool:
        return self.reader.at_eof() or self.reader.exception() is not None or self._writer.transport.is_closing()

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()


def _unacknowledged(fd: int) -> int:
    """SIOCOUTQ, tcp(7), unix(7): bytes that the other side has not acknowledged."""
    if fd < 0:
        raise ConnectionResetError(errno.ECONNRESET, "the connection is closed")
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0])


class Datagrams:
    """A connected datagram socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._count = 0

    @classmethod
    async def connect(cls, address: Address) -> Datagrams:
        """OSError, TimeoutError."""
        loop = asyncio.get_running_loop()
        if address.kind == "unixgram":
            family, target = socket.AF_UNIX, address.host
        else:
            async with asyncio.timeout(_PATIENCE):
                found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
            family, target = found[0][0], found[0][4]  # type: ignore[assignment]
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.connect(target)
        except OSError:
            sock.close()
            raise
        return cls(sock)

    async def write(self, message: bytes) -> None:
        """One datagram. OSError; TimeoutError if the receiver does not read."""
        try:
            self._sock.send(message)
        except BlockingIOError:
            async with asyncio.timeout(_STALLED):
                await asyncio.get_running_loop().sock_sendall(self._sock, message)
        self._count += 1
        if self._count % _BURST == 0:
            await asyncio.sleep(0)

    async def write_descriptor(self, message: bytes) -> None:
        """A datagram that is too big, in a sealed memfd instead."""
        fd = seal(message, "dockyard-log")
        try:
            self._sock.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))])
        finally:
            os.close(fd)

    def check(self) -> None:
        """OSError if the receiver's host has said that nobody listens."""
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))

    def close(self) -> None:
        self._sock.close()


class _StreamSink:
    """What the sinks over streams have in common."""

    doubt = _DOUBT

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def broken(self) -> bool:
        return self._stream.broken()

    async def close(self) -> None:
        await self._stream.close()


class _DatagramSink:
    """What the sinks over datagrams have in common."""

    doubt = 0.0

    def __init__(self, datagrams: Datagrams) -> None:
        self._datagrams = datagrams

    def broken(self) -> bool:
        return False

    async def close(self) -> None:
        self._datagrams.close()


class _SyslogForm:
    """Docker's syslog messages of one container."""

    def __init__(self, source: Source, hostname: str) -> None:
        options = source.options
        self._form = options.get("syslog-format", "")
        self._facility = logdrivers.facility(options.get("syslog-facility", ""))
        self._tag, self._hostname, self._pid = source.tag, hostname, os.getpid()

    def message(self, entry: Entry) -> bytes:
        return logformats.syslog(entry, self._form, self._facility, self._tag, self._hostname, self._pid)


class SyslogStream(_StreamSink):
    def __init__(self, stream: Stream, form: _SyslogForm, *, counted: bool) -> None:
        super().__init__(stream)
        self._form, self._counted = form, counted

    async def send(self, entries: Sequence[Entry]) -> None:
        messages = [self._form.message(entry) for entry in entries]
        await self._stream.write(b"".join(map(logformats.octet_counted, messages) if self._counted else messages))


class SyslogDatagrams(_DatagramSink):
    def __init__(self, datagrams: Datagrams, form: _SyslogForm) -> None:
        super().__init__(datagrams)
        self._form = form

    async def send(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            await self._datagrams.write(self._form.message(entry))
        self._datagrams.check()


class GelfStream(_StreamSink):
    def __init__(self, stream: Stream, source: Source, hostname: str) -> None:
        super().__init__(stream)
        self._source, self._hostname = source, hostname

    async def send(self, entries: Sequence[Entry]) -> None:
        messages = [logformats.gelf(entry, self._source, self._hostname) for entry in entries]
        await self._stream.write(b"".join(message + b"\0" for message in messages if message))


class GelfDatagrams(_DatagramSink):
    def __init__(self, datagrams: Datagrams, source: Source, hostname: str) -> None:
        super().__init__(datagrams)
        self._source, self._hostname = source, hostname
        self._kind = source.options.get("gelf-compression-type", "gzip")
        self._level = int(source.options.get("gelf-compression-level", "1"))

    async def send(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            message = logformats.gelf(entry, self._source, self._hostname)
            if not message:
                continue
            for part in logformats.gelf_datagrams(message, self._kind, self._level, secrets.token_bytes(8)):
                await self._datagrams.write(part)
        self._datagrams.check()


class Journal(_DatagramSink):
    def __init__(self, datagrams: Datagrams, source: Source) -> None:
        super().__init__(datagrams)
        self._fields = logformats.journal_fields(source)

    async def send(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            message = logformats.journal(entry, self._fields)
            try:
                await self._datagrams.write(message)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                await self._datagrams.write_descriptor(message)


class Fluentd(_StreamSink):
    """Acknowledged by the receiver itself, unless it does not do that (or is not to)."""

    def __init__(self, stream: Stream, source: Source) -> None:
        super().__init__(stream)
        options = source.options
        self._source = source
        self._wanted = "fluentd-request-ack" not in options or logdrivers.flag(options, "fluentd-request-ack")
        self._required = "fluentd-request-ack" in options and self._wanted
        self._precise = logdrivers.flag(options, "fluentd-sub-second-precision")
        self._unpacker = msgspec.msgpack.Decoder(dict[str, Any])
        self._answered = False

    async def send(self, entries: Sequence[Entry]) -> None:
        chunk = base64.b64encode(secrets.token_bytes(12)).decode() if self._wanted else ""
        await self._stream.write(logformats.fluentd(entries, self._source, chunk, precise=self._precise))
        if not chunk:
            return
        try:
            async with asyncio.timeout(_PATIENCE if self._required or self._answered else 2.0):
                acknowledged = await self._answer()
        except TimeoutError:
            if self._required or self._answered:
                raise
            self._wanted = False  # it does not speak of what it has got
            return
        if acknowledged != chunk:
            raise OSError(errno.EPROTO, "the receiver has acknowledged something else")
        self._answered, self.doubt = True, 0.0

    async def _answer(self) -> str:
        data = b""
        while True:
            part = await self._stream.reader.read(4096)
            if not part:
                raise ConnectionResetError(errno.ECONNRESET, "the receiver has ended the connection")
            data += part
            try:
                return str(self._unpacker.decode(data).get("ack"))
            except msgspec.ValidationError:
                raise OSError(errno.EPROTO, "what the receiver answers is no acknowledgement") from None
            except msgspec.DecodeError:
                if len(data) > 4096:
                    raise OSError(errno.EPROTO, "what the receiver answers is no acknowledgement") from None


# --- choosing one ---


async def connect(source: Source, *, journal: str = JOURNAL, local_syslog: Sequence[str] = SYSLOG) -> Sink:
    """A connection to a container's receiver. OSError (TimeoutError, ssl.SSLError); DockyardError for options that
    cannot be."""
    hostname = socket.gethostname()
    options = source.options
    if source.driver == "syslog":
        return await _syslog(source, hostname, local_syslog)
    if source.driver == "journald":
        return Journal(await Datagrams.connect(Address("unixgram", journal)), source)
    if source.driver == "gelf":
        address = logdrivers.gelf_address(options)
        if address.kind == "udp":
            return GelfDatagrams(await Datagrams.connect(address), source, hostname)
        return GelfStream(await Stream.connect(address), source, hostname)
    if source.driver == "fluentd":
        address = logdrivers.fluentd_address(options)
        context = ssl.create_default_context() if address.kind == "tls" else None
        return Fluentd(await Stream.connect(address, context), source)
    raise OSError(errno.EPROTONOSUPPORT, f"this shipper does not know the log driver {source.driver}")


async def _syslog(source: Source, hostname: str, local: Sequence[str]) -> Sink:
    form = _SyslogForm(source, hostname)
    address = logdrivers.syslog_address(source.options)
    if address is None:
        path = next((path for path in local if os.path.exists(path)), local[0])
        try:
            return SyslogDatagrams(await Datagrams.connect(Address("unixgram", path)), form)
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
        return SyslogStream(await Stream.connect(Address("unix", path)), form, counted=False)
    if address.kind in ("udp", "unixgram"):
        return SyslogDatagrams(await Datagrams.connect(address), form)
    context = _tls(source.options) if address.kind == "tls" else None
    counted = context is not None and source.options.get("syslog-format", "").startswith("rfc5424")
    return SyslogStream(await Stream.connect(address, context), form, counted=counted)


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("syslog-tls-ca-cert") or None)
    if options.get("syslog-tls-skip-verify"):  # as Docker: whatever its value
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = options.get("syslog-tls-cert"), options.get("syslog-tls-key")
    if certificate and key:
        context.load_cert_chain(certificate, key)
    return context
