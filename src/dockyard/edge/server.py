"""The HTTP side of the daemon: from a request's bytes to a handler, from what it returns or raises to an answer.

Owns: aiohttp's server on given sockets, the version in the path, the headers of every answer, the one table of
error kind -> status, browsers kept out (S49), what happens when a client goes away. Does not own: the sockets
(`edge.listeners`), the routes (`edge.api`), hijacked connections (`edge.streams`).

A client that goes away ends a request that has begun to answer (logs, events, pull), a build, and any GET; every other
request (start, remove, ...) is carried to its end, so that nothing is left half done.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from aiohttp import StreamReader, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from dockyard import __version__
from dockyard.edge.api import wire
from dockyard.edge.bodies import BodyLender
from dockyard.edge.hangup import HangupWatch
from dockyard.edge.listeners import Listener
from dockyard.edge.routing import JSON_TYPE, Call, Route, Router
from dockyard.edge.tls import TlsGate
from dockyard.model.errors import DockyardError, ErrorKind, Forbidden, InvalidArgument, NotFound, of_host

if TYPE_CHECKING:
    from dockyard.engine import Engine

API_VERSION = (1, 50)
MIN_API_VERSION = (1, 24)
# Not announced, and answered as the oldest: skopeo, podman and buildah ask for 1.22 in `docker-daemon:`, which what
# they use of it (images in and out) has not changed since.
OLDEST_SERVED = (1, 22)

STATUS = {
    ErrorKind.INVALID: 400,
    ErrorKind.UNAUTHORIZED: 401,
    ErrorKind.FORBIDDEN: 403,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.NOT_MODIFIED: 304,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.NOT_IMPLEMENTED: 501,
    ErrorKind.SYSTEM: 500,
}

COMMON_HEADERS = {
    "Api-Version": "1.50",
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"Dockyard/{__version__} (linux)",
}

_HEAD_LIMIT = 1 << 20  # bytes of the request line and of one header: Go's limit
_VERSIONED = re.compile(r"/v([0-9]+(?:\.[0-9]+)*)(/.*)")
_EARLY_LIMIT = 1 << 18  # bytes kept of what a client sends before its connection is a stream
_BROWSER_HEADERS = ("Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode")


class _Protocol(BodyLender):
    """aiohttp's protocol, able to give its connection away (see `edge.streams`).

    aiohttp's parser knows no upgrade but websocket's: it drops what follows such a request. So what a client sends
    before the answer to `Upgrade: tcp` is kept here.
    """

    __slots__ = ("_before", "_body_left", "_early", "_hangup", "_payload", "over_tls")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self.over_tls = False
        self._before = b""  # the end of the piece before, where a head may have been cut
        self._body_left: int | None = None  # bytes of the body after which the connection is no longer HTTP
        self._early = b""
        self._hangup: HangupWatch | None = None
        self._payload: StreamReader | None = None  # of the last request that has come

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A client may have said all that it has to say and wait for the answer: `socat` and `nc -N` do so."""
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        if sock is None or sock.family != socket.AF_UNIX or not self._has_whole_request():
            return None
        self._hangup = HangupWatch(sock.fileno(), self._gone)
        if not self._messages or (len(self._messages) == 1 and self._is_idle()):
            self.close()  # after this answer
        return True

    def _has_whole_request(self) -> bool:
        """Whether the last request is whole, and not answered yet."""
        if self._payload is None or self._body_left is not None or self.holds_body:
            return False
        return self._payload.is_eof() and (bool(self._messages) or not self._is_idle())

    def _is_idle(self) -> bool:
        """Whether aiohttp waits for a request, or has just been told of one."""
        return self._waiter is not None

    def _gone(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._hangup is not None:
            self._hangup.close()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._body_left is not None:
            body, rest = data[: self._body_left], data[self._body_left :]
            self._body_left -= len(body)
            if body:
                super().data_received(body)
            self._keep(rest)
            return
        waiting = len(self._messages)
        super().data_received(data)
        if len(self._messages) > waiting:
            message, self._payload = self._messages[-1]
            if _leaves_http(message):
                self._split(data)
        self._before = data[-3:]

    def _split(self, data: bytes) -> None:
        """Set aside what of `data` lies beyond the request that asks for the upgrade."""
        message = cast(RawRequestMessage, self._messages[-1][0])
        length = message.headers.get("Content-Length", "0")
        end = (self._before + data).find(b"\r\n\r\n")
        if end < 0 or not length.isdecimal():
            return
        rest = (self._before + data)[end + 4 :]
        self._body_left = max(int(length) - len(rest), 0)
        self._keep(rest[int(length) :])

    def _keep(self, rest: bytes) -> None:
        self._early += rest
        if len(self._early) > _EARLY_LIMIT and self.transport is not None:
            self.transport.pause_reading()

    def release(self) -> tuple[asyncio.Transport, bytes]:
        """Let go of the connection: the transport and what was read of it beyond the request. aiohttp forgets it."""
        transport, early = self.transport, self._early
        assert transport is not None
        self.transport, self._early = None, b""
        transport.resume_reading()
        self.connection_lost(None)
        return transport, early

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, in JSON. Nothing of the request is logged: it may hold secrets (S50)."""
        if status >= 500 and not isinstance(exc, ConnectionError):
            self.logger.error("a connection failed: %s", type(exc).__name__, exc_info=exc)
        text = "malformed HTTP request" if status == 400 else "internal error"
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        response = _message(status, text)
        response.headers.update(COMMON_HEADERS)
        response.force_close()
        return response


def _leaves_http(message: object) -> bool:
    """Whether what follows a request is no longer aiohttp's to read; it speaks websocket itself."""
    headers = getattr(message, "headers", {})
    return bool(getattr(message, "upgrade", False)) and headers.get("Upgrade", "").lower() != "websocket"


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)

    def over_tls(self) -> RequestHandler:
        """A protocol that knows that its client speaks to a `TlsGate`."""
        protocol = cast(_Protocol, self())
        protocol.over_tls = True
        return protocol


def _is_over_tls(request: web.BaseRequest) -> bool:
    """Whether it came through a `TlsGate`: then the host has proved its name."""
    return cast(_Protocol, request.protocol).over_tls


class ApiServer:
    """Serves an engine's API. `listeners` are closed with it."""

    def __init__(self, engine: Engine, routes: Iterable[Route], log: logging.Logger) -> None:
        self._engine = engine
        self._router = Router(routes)
        self._log = log
        self._listeners: list[Listener] = []
        self._servers: list[asyncio.Server] = []
        self._running: dict[asyncio.Task[web.StreamResponse], Call] = {}
        self._protocols: _Server | None = None
        self._gates: set[TlsGate] = set()
        self._tls: ssl.SSLContext | None = None
        self._trusted_hosts = {"localhost", socket.gethostname().lower()}

    async def start(
        self, listeners: Sequence[Listener], trusted_hosts: Iterable[str] = (), tls: ssl.SSLContext | None = None
    ) -> None:
        """Begin to serve. `trusted_hosts`: names under which clients may address a TCP socket without TLS, beside
        localhost. `tls`: of sockets that are not unix sockets."""
        loop = asyncio.get_running_loop()
        self._tls = tls
        self._trusted_hosts.update(host.lower() for host in trusted_hosts)
        self._protocols = _Server(
            self._serve,
            handler_cancellation=True,
            access_log=None,
            logger=self._log,
            max_line_size=_HEAD_LIMIT,
            max_field_size=_HEAD_LIMIT,
            auto_decompress=False,
            tcp_keepalive=False,
        )
        for listener in listeners:
            self._listeners.append(listener)
            if listener.socket.family == socket.AF_UNIX:
                server = await loop.create_unix_server(self._protocols, sock=listener.socket, backlog=1024)
            else:
                protocol = self._gate if tls else self._protocols
                server = await loop.create_server(protocol, sock=listener.socket, backlog=1024)
            self._servers.append(server)

    def use_certificates(self, tls: ssl.SSLContext) -> None:
        """Of connections that begin from now on."""
        if self._tls is not None:
            self._tls = tls

    def _gate(self) -> TlsGate:
        assert self._tls is not None
        return TlsGate(self._tls, self._serve_inside, self._gates)

    async def _serve_inside(self, sock: socket.socket) -> None:
        assert self._protocols is not None
        await asyncio.get_running_loop().connect_accepted_socket(self._protocols.over_tls, sock)

    async def close(self, grace: float = 5.0) -> None:
        """Stop listening, give running requests `grace` seconds, then end them and every hijacked connection."""
        for server in self._servers:
            server.close()
        for listener in self._listeners:
            listener.close()
        waiting = [task for task, call in self._running.items() if not call.started]
        if waiting:
            await asyncio.wait(waiting, timeout=grace)
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(list(self._running), timeout=grace)
        if self._protocols is not None:
            await self._protocols.shutdown(1.0)
        for gate in list(self._gates):
            gate.abort()

    # --- one request ---

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            call = self._accept(request)
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
        except DockyardError as error:
            return self._finish(request, self._error(error))
        if request.method in ("GET", "HEAD"):
            response = await self._answer(call)
        else:
            response = await self._carry(call)
            cast(_Protocol, request.protocol).answered(request, call.body_read)
        return self._finish(request, response)

    async def _carry(self, call: Call) -> web.StreamResponse:
        """Run a handler to its end even if the client goes away, unless it has begun to answer (or is a build)."""
        task = asyncio.create_task(self._answer(call), name=f"{call.route.method} {call.route.path}")
        self._running[task] = call
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if (call.started or call.ends_with_client) and not call.hijacked:
                task.cancel()
            raise

    def _ended(self, task: asyncio.Task[web.StreamResponse]) -> None:
        del self._running[task]
        if not task.cancelled():
            task.exception()  # seen here if the client went away meanwhile

    async def _answer(self, call: Call) -> web.StreamResponse:
        try:
            return await call.route.handler(call)
        except DockyardError as error:
            return self._error(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if isinstance(error, ConnectionError) and _has_gone(call):
                raise
            if isinstance(error, OSError) and (refused := of_host(error)) is not None and not call.started:
                self._log.error("%s %s failed", call.route.method, call.route.path, exc_info=error)
                return self._error(refused)
            if isinstance(error, ValueError) and str(error).startswith("embedded null") and not call.started:
                return self._error(InvalidArgument("invalid value: a NUL character in a path"))  # Python names no more
            if call.started:
                self._log.exception("%s %s failed while answering", call.route.method, call.route.path)
                raise ConnectionResetError from error
            self._log.exception("%s %s failed", call.route.method, call.route.path)
            return _message(500, f"internal error: {type(error).__name__}")
        finally:
            call.end()

    def _accept(self, request: web.BaseRequest) -> Call:
        self._keep_browsers_out(request)
        path, version = request.path, API_VERSION
        versioned = _VERSIONED.fullmatch(path)
        if versioned:
            path = versioned[2]
        found = self._router.match(request.method, path)
        if found is None and request.method == "HEAD":
            found = self._router.match("GET", path) if path == "/_ping" else None
        if found is None:
            raise NotFound("page not found")
        if versioned:
            version = check_version(versioned[1])
        route, parameters = found
        self._log.debug("%s %s", request.method, path)
        return Call(request, self._engine, version, route, parameters, COMMON_HEADERS)

    def _keep_browsers_out(self, request: web.BaseRequest) -> None:
        """S49: on TCP, a page that a browser shows must not reach the API, also not by rebinding a name."""
        transport, over_tls = request.transport, _is_over_tls(request)
        if transport is None or not (over_tls or isinstance(transport.get_extra_info("sockname"), tuple)):
            return
        if any(name in request.headers for name in _BROWSER_HEADERS) and not self._is_own_websocket(request):
            raise Forbidden("requests from browsers are refused")
        if not over_tls and not self._is_trusted(request.headers.get("Host", "")):
            raise Forbidden("requests under this host name are refused")

    def _is_own_websocket(self, request: web.BaseRequest) -> bool:
        """Websocket libraries send an `Origin`, too: the host that they ask, where no page of ours exists."""
        headers = request.headers
        host = headers.get("Host", "")
        own = headers.get("Origin", "") in (f"http://{host}", f"https://{host}")
        own = own and (_is_over_tls(request) or self._is_trusted(host))
        asks = headers.get("Upgrade", "").lower() == "websocket" and request.path.endswith("/attach/ws")
        return own and asks and not any(name.lower().startswith("sec-fetch-") for name in headers)

    def _is_trusted(self, host: str) -> bool:
        name = host.rpartition(":")[0] if re.search(r":[0-9]*\Z", host) else host
        if name.lower().rstrip(".") in self._trusted_hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    # --- answers ---

    def _finish(self, request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
        if not response.prepared:
            response.headers.update(COMMON_HEADERS)
            if request.headers.get("Upgrade"):
                response.force_close()  # the parser takes what follows for another protocol
        return response

    def _error(self, error: DockyardError) -> web.Response:
        status = STATUS[error.kind]
        if status == 304:
            return web.Response(status=304)
        if status == 500:
            self._log.error("%s", error.message)
        return _message(status, error.message)


def _has_gone(call: Call) -> bool:
    """The client. If it has not, it was another connection that broke."""
    transport = call.request.transport
    return transport is None or transport.is_closing() or call.hijacked


def _message(status: int, message: str) -> web.Response:
    return web.Response(body=wire.encode({"message": message}) + b"\n", status=status, content_type=JSON_TYPE)


def check_version(text: str) -> tuple[int, int]:
    """The API version that a path is answered in. InvalidArgument in Docker's words when it is out of range."""
    numbers = [int(part[:9]) for part in text.split(".")]
    version = (numbers[0], numbers[1] if len(numbers) > 1 else 0)
    if (*version, *numbers[2:]) > API_VERSION:
        raise InvalidArgument(
            f"client version {text} is too new. Maximum supported API version is {_dotted(API_VERSION)}"
        )
    if version < OLDEST_SERVED:
        raise InvalidArgument(
            f"client version {text} is too old. Minimum supported API version is {_dotted(MIN_API_VERSION)}, "
            "please upgrade your client to a newer version"
        )
    return max(version, MIN_API_VERSION)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
