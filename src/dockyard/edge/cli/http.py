"""HTTP/1.1 over one blocking socket, as much of it as the Engine API needs.

Owns: connecting (unix, TCP, TLS), requests with a body of bytes or chunks, responses by length, chunks or end of
stream, and the hijack (`101` or `200` with a raw stream behind). Small on purpose: http.client brings the email package
and 16 ms. Does not own: what is asked (`api`).
"""

from __future__ import annotations

import _socket  # the C half of socket: the Python half takes 3 ms to import, and only TCP needs it
import errno

from dockyard.edge.cli.errors import CliError, NotReachable
from dockyard.edge.cli.host import Host

TYPE_CHECKING = False  # typing's own constant, without the 6 ms that importing typing takes (docs/cli.md)
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dockyard.edge.cli.tls import TlsSocket

_CHUNK = 65536


class Response:
    """Status, headers (lower case) and the body, which is read once: `read()` or `chunks()`."""

    def __init__(
        self, connection: Connection, status: int, reason: str, headers: dict[str, str], bodyless: bool
    ) -> None:
        self.connection = connection
        self.status = status
        self.reason = reason
        self.headers = headers
        self._bodyless = bodyless or status in (204, 304) or status < 200

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes. CliError when the daemon breaks off in the middle."""
        if self._bodyless:
            return iter(())
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return self._chunked()
        length = self.headers.get("content-length")
        return self._until_end() if length is None else self._sized(int(length))

    def _sized(self, left: int) -> Iterator[bytes]:
        while left:
            data = self.connection.some(left)
            left -= len(data)
            yield data

    def _chunked(self) -> Iterator[bytes]:
        while size := int(self.connection.line().split(b";")[0], 16):
            yield from self._sized(size)
            self.connection.line()
        while self.connection.line():
            pass

    def _until_end(self) -> Iterator[bytes]:
        while data := self.connection.some(_CHUNK, at_end=b""):
            yield data


class Connection:
    """One socket and what has been read from it but not used."""

    def __init__(self, sock: _socket.socket | TlsSocket, host: Host) -> None:
        self.sock = sock
        self.host = host
        self.buffer = b""

    def close(self) -> None:
        self.sock.close()

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> Response:
        """Sends a request and reads the head of the answer."""
        self.send(method, target, headers, body)
        return self.response(method == "HEAD")

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> None:
        name = "dockyard" if self.host.path else f"{self.host.name}:{self.host.port}"
        head = [f"{method} {target} HTTP/1.1", f"Host: {name}", "User-Agent: Dockyard-Client"]
        head += [f"{key}: {value}" for key, value in (headers or {}).items()]
        if isinstance(body, bytes):
            head.append(f"Content-Length: {len(body)}")
        elif body is not None:
            head.append("Transfer-Encoding: chunked")
        elif method == "POST":
            head.append("Content-Length: 0")
        data = "\r\n".join([*head, "", ""]).encode()
        try:
            self.sock.sendall(data + body if isinstance(body, bytes) else data)
            if body is not None and not isinstance(body, bytes):
                self._send_chunks(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon has answered without reading everything: the answer says why
        except OSError as error:
            raise CliError(f"sending to {self.host.text}: {error.strerror or error}") from None

    def _send_chunks(self, body: Iterable[bytes]) -> None:
        for data in body:
            if data:
                self.sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))
        self.sock.sendall(b"0\r\n\r\n")

    def response(self, bodyless: bool = False) -> Response:
        while True:
            nothing = _NO_ANSWER_SSH if self.host.command else _NO_ANSWER
            version, _, rest = self.line(nothing).decode("latin-1").partition(" ")
            status, _, reason = rest.partition(" ")
            if not version.startswith("HTTP/1.") or not status.isdecimal():
                raise CliError(f"{self.host.text} does not speak HTTP" + _tls_hint(self.host))
            headers: dict[str, str] = {}
            while line := self.line():
                name, _, text = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = text.strip()
            if status != "100":
                return Response(self, int(status), reason, headers, bodyless)

    def line(self, on_end: str = "") -> bytes:
        """The next line without its end."""
        while (end := self.buffer.find(b"\n")) < 0:
            self.buffer += self._receive(on_end)
        line, self.buffer = self.buffer[:end], self.buffer[end + 1 :]
        return line.rstrip(b"\r")

    def some(self, limit: int, at_end: bytes | None = None) -> bytes:
        """At least one byte, at most `limit`; at the end of the stream `at_end`, or CliError."""
        if not self.buffer:
            self.buffer = self._receive("", at_end)
        data, self.buffer = self.buffer[:limit], self.buffer[limit:]
        return data

    def _receive(self, on_end: str, at_end: bytes | None = None) -> bytes:
        try:
            data = self.sock.recv(_CHUNK)
        except ConnectionResetError:
            data = b""
        except OSError as error:
            raise CliError(f"reading from {self.host.text}: {error.strerror or error}") from None
        if data or at_end is not None:
            return data
        raise CliError(
            (on_end or "the daemon at {} closed the connection in the middle of its answer").format(self.host.text)
        )


_NO_ANSWER = "the daemon at {} closed the connection without an answer"
_NO_ANSWER_SSH = (
    "no answer through {} (what ssh had to say is above): it has to get in without a question, "
    "and the command dockyard has to be in the PATH there"
)


def _tls_hint(host: Host) -> str:
    return " (does it want TLS? Give --tlsverify)" if not host.path and host.tls is None else ""


def connect(host: Host) -> Connection:
    """A fresh connection. NotReachable with one useful sentence where there is no daemon."""
    try:
        if host.path:
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
            sock.connect(host.path)
            return Connection(sock, host)
        if host.command:
            from dockyard.edge.cli import ssh

            return Connection(ssh.connect(host), host)
        return Connection(_tcp(host), host)
    except OSError as error:
        raise _unreachable(host, error) from None


def _tcp(host: Host) -> _socket.socket | TlsSocket:
    import socket

    sock = socket.create_connection((host.name, host.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if host.tls is None:
        return sock
    from dockyard.edge.cli.tls import wrap

    return wrap(sock, host)


def _unreachable(host: Host, error: OSError) -> NotReachable:
    at = f"the daemon at {host.text}" + (f" ({host.origin})" if host.origin else "")
    if host.path and error.errno in (errno.EACCES, errno.EPERM):
        return NotReachable(
            f"permission denied while connecting to {at}: "
            f"run as root or as a member of the group that owns the socket (ls -l {host.path})"
        )
    start = "start it with `systemctl start dockyard` or `dockyardd`, or name another with -H or DOCKYARD_HOST"
    there = "is it running, and does it listen there? -H or DOCKYARD_HOST name another"
    what = error.strerror or str(error)
    return NotReachable(f"cannot connect to {at} ({what}): {start if host.path else there}")
