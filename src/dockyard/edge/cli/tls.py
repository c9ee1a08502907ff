"""TLS to a daemon on TCP.

Owns: the context made of the `--tls…` files, errors that name the file, and `TlsSocket`, which can close its own half.
ssl.SSLSocket cannot: its unwrap reads on for the peer's close_notify and loses what the daemon is still sending. So
the records go through memory here. Imported only when TLS is used (ssl costs time to import). Does not own: which
files (`host`).
"""

from __future__ import annotations

import socket
import ssl

from dockyard.edge.cli.errors import CliError, NotReachable
from dockyard.edge.cli.host import Host

_CHUNK = 65536


class TlsSocket:
    """The part of a socket's interface that the client uses, with TLS below. BlockingIOError when it would block."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._unsent = b""  # records made but not yet taken by the kernel
        self._ready = b""  # decrypted before anybody asked

    def handshake(self) -> None:
        while True:
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill():
                    raise ConnectionResetError("the daemon closed the connection") from None
            else:
                self._flush()
                return

    def recv(self, size: int) -> bytes:
        """Decrypted bytes; b"" at the end of the daemon's half."""
        if self._ready:
            data, self._ready = self._ready[:size], self._ready[size:]
            return data
        while True:
            try:
                return self._ssl.read(size)
            except ssl.SSLWantReadError:
                if not self._fill():
                    return b""
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def send(self, data: bytes) -> int:
        """Takes at most one record's worth; nothing is taken while an earlier record is not out."""
        self._flush()
        taken = self._ssl.write(data[:16384])
        try:
            self._flush()
        except BlockingIOError:
            pass
        return taken

    def sendall(self, data: bytes) -> None:
        while data:
            data = data[self.send(data) :]
        self._flush()

    def close_write(self) -> None:
        """Sends close_notify and leaves reading possible. OpenSSL then looks for the peer's close_notify and drops
        records in its way, so what has been received is taken out first."""
        try:
            while data := self._ssl.read(_CHUNK):
                self._ready += data
        except ssl.SSLError:
            pass  # nothing more for now, or the daemon has closed its half
        try:
            self._ssl.unwrap()
        except ssl.SSLError:
            pass  # "want read": ours is out, the peer's has not come, and that is what is wanted
        self._sock.setblocking(True)
        self._flush()
        self._sock.setblocking(False)

    def pending(self) -> int:
        """Bytes that have been received and that poll(2) does not see."""
        return len(self._ready) + self._ssl.pending() + self._incoming.pending

    def fileno(self) -> int:
        return self._sock.fileno()

    def setblocking(self, blocking: bool) -> None:
        self._sock.setblocking(blocking)

    def close(self) -> None:
        self._sock.close()

    def _fill(self) -> bool:
        data = self._sock.recv(_CHUNK)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return bool(data)

    def _flush(self) -> None:
        self._unsent += self._outgoing.read()
        while self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]


def wrap(sock: socket.socket, host: Host) -> TlsSocket:
    """The socket with TLS on it. CliError for files that do not load, NotReachable for a failed handshake."""
    assert host.tls is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not host.tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if host.tls.ca:
            context.load_verify_locations(host.tls.ca)
        elif host.tls.verify:
            context.load_default_certs()
        if host.tls.cert or host.tls.key:
            context.load_cert_chain(host.tls.cert, host.tls.key or None)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(file for file in (host.tls.ca, host.tls.cert, host.tls.key) if file)
        raise CliError(f"could not read the TLS files {files}: {error}") from None
    tls = TlsSocket(sock, context, host.name)
    try:
        tls.handshake()
    except (OSError, ssl.SSLError) as error:
        raise NotReachable(f"TLS with the daemon at {host.text} failed: {error}") from None
    return tls
