"""TLS on the sockets that the API is served on.

Owns: the context made of the daemon's `--tls…` files, and `TlsGate`: one client's connection, with TLS towards the
client and, behind it, a plain socket on which HTTP is served as on any other. Does not own: who may connect
(`edge.listeners`), what is spoken (`edge.server`).

asyncio's own TLS drops a connection when the peer says close_notify, and with it the answer to a client that has sent
its whole standard input (`docker run -i`). Here a close_notify is what it says, the end of one direction (RFC 8446,
6.1), and is handed on as one. And because what lies behind is a socket, it can be lent to workers and containers like
any other.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, cast

from dockyard.model.errors import InvalidArgument

HANDSHAKE_SECONDS: Final = 10.0
LINGER_SECONDS: Final = 5.0  # how long what a client still sends is read and dropped, so that it sees our last words
_CHUNK: Final = 1 << 18  # bytes
_HANDSHAKE_RECORD: Final = 0x16  # the first byte of TLS; HTTP begins with a letter
# In the words of Go's server: clients look for them.
_NOT_HTTPS: Final = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"

log = logging.getLogger("dockyard.api")

Serve = Callable[[socket.socket], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files. `ca`: who signs clients' certificates; without it clients need none."""

    cert: str
    key: str
    ca: str = ""


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 or newer. InvalidArgument naming the files that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.cert, files.key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument(f"could not load X509 key pair {files.cert}, {files.key}: {_reason(error)}") from error
    if files.ca:
        try:
            context.load_verify_locations(files.ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument(f"could not load CA certificate {files.ca}: {_reason(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: OSError) -> str:
    return error.reason if isinstance(error, ssl.SSLError) and error.reason else error.strerror or str(error)


class TlsGate(asyncio.Protocol):
    """The client's side. Once the handshake is over, `serve` is given the socket on which its plain bytes come."""

    def __init__(self, context: ssl.SSLContext, serve: Serve, open_gates: set[TlsGate]) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._serve, self._gates = serve, open_gates
        self._loop = asyncio.get_running_loop()
        self._client: asyncio.Transport | None = None
        self._inside: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._begun = self._shaken = self._ended = self._ending = False

    # --- the client's connection ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._client = cast(asyncio.Transport, transport)
        self._gates.add(self)
        self._timer = self._loop.call_later(HANDSHAKE_SECONDS, self._client.abort)

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        if not self._begun:
            self._begun = True
            if data[0] != _HANDSHAKE_RECORD:
                self._refuse(_NOT_HTTPS if data[:1].isupper() else b"", "no TLS")
                return
        self._incoming.write(data)
        if not self._shaken:
            self._shake_hands()
        elif self._inside is not None:
            self._let_in()

    def eof_received(self) -> bool:
        """The end without close_notify; as without TLS, what is spoken has to tell whether that was all."""
        if self._ending or not self._shaken:
            return False
        self._ended = True
        if self._inside is not None:
            self._let_in()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._gates.discard(self)
        self._stop_timer()
        if self._opening is not None:
            self._opening.cancel()
        if self._inside is not None:
            self._inside.abort()

    def pause_writing(self) -> None:
        if self._inside is not None:
            self._inside.pause_reading()

    def resume_writing(self) -> None:
        if self._inside is not None:
            self._inside.resume_reading()

    def abort(self) -> None:
        """Drop the connection now."""
        if self._client is not None:
            self._client.abort()

    # --- TLS ---

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send_records()
        except ssl.SSLError as error:
            self._refuse(self._outgoing.read(), error.reason or str(error))
        else:
            self._send_records()
            self._shaken = True
            self._stop_timer()
            assert self._client is not None
            self._client.pause_reading()
            self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            ours, theirs = socket.socketpair()
            for sock in (ours, theirs):
                sock.setblocking(False)
            self._inside, _ = await self._loop.create_unix_connection(lambda: _Inside(self), sock=ours)
            await self._serve(theirs)
        except OSError as error:
            log.warning("a TLS connection is refused: %s", error.strerror)
            self.abort()
            return
        self.resume_client()
        self._let_in()

    def _let_in(self) -> None:
        """What has come, decrypted; the end of it, if it was said."""
        assert self._inside is not None
        if self._inside.is_closing():
            return
        try:
            while data := self._tls.read(_CHUNK):
                self._inside.write(data)
        except ssl.SSLWantReadError:
            self._send_records()  # what TLS itself has to say: key updates
            if not self._ended:
                return
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLError as error:
            log.debug("a TLS connection broke: %s", error.reason)
            self.abort()
            return
        self._inside.write_eof()

    def let_out(self, data: bytes) -> None:
        """A piece of the answer."""
        try:
            self._tls.write(data)
        except ssl.SSLError:
            self.abort()
        else:
            self._send_records()

    def end(self) -> None:
        """The answer is over: say so, and drop what still comes for a while, so that the client reads all of it."""
        if self._ending or self._client is None or self._client.is_closing():
            return
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # ours is out; the peer's need not have come
        self._close_with(self._outgoing.read())

    def pause_client(self) -> None:
        if self._client is not None and not self._ending:
            self._client.pause_reading()

    def resume_client(self) -> None:
        if self._client is not None and not self._ending:
            self._client.resume_reading()

    def _refuse(self, last: bytes, reason: str) -> None:
        assert self._client is not None
        log.info("TLS handshake with %s failed: %s", self._client.get_extra_info("peername"), reason)
        self._close_with(last)

    def _close_with(self, last: bytes) -> None:
        assert self._client is not None
        self._ending = True
        self._stop_timer()
        self._client.resume_reading()
        if last:
            self._client.write(last)
        if self._ended:
            self._client.close()
            return
        self._client.write_eof()
        self._timer = self._loop.call_later(LINGER_SECONDS, self._client.abort)

    def _send_records(self) -> None:
        if self._outgoing.pending and self._client is not None:
            self._client.write(self._outgoing.read())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Inside(asyncio.Protocol):
    """The gate's end of the plain socket."""

    def __init__(self, gate: TlsGate) -> None:
        self._gate = gate

    def data_received(self, data: bytes) -> None:
        self._gate.let_out(data)

    def eof_received(self) -> bool:
        self._gate.end()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._gate.end()

    def pause_writing(self) -> None:
        self._gate.pause_client()

    def resume_writing(self) -> None:
        self._gate.resume_client()
