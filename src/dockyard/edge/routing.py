"""What a route is, how a path finds it, and what its handler is given.

Owns: `Route`, `Router`, `Call` (one request: query values with Docker's ideas of truth, typed bodies, answers,
streams) and the two kinds of stream that an answer can be. Does not own: sockets, versions, errors -> statuses
(`edge.server`), and hijacked connections (`edge.streams`).

A handler is `async def name(call: Call) -> web.StreamResponse`. It decodes, calls the engine, encodes; errors of the
engine pass through it untouched.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec
from aiohttp import web

from dockyard.edge.api import wire
from dockyard.edge.bodies import BodyLender
from dockyard.model.errors import DockyardError, InvalidArgument, of_host
from dockyard.proto.filters import Filters
from dockyard.store.connection import Connection

if TYPE_CHECKING:
    from dockyard.engine import Engine

T = TypeVar("T")

JSON_TYPE = "application/json"
_AT_A_TIME = 100  # values of a list that are encoded before anybody else gets a turn
BODY_LIMIT = 16 << 20  # bytes of a JSON body; archives are streamed and have none
_FALSE = frozenset({"", "0", "no", "false", "none"})


@dataclass(frozen=True, slots=True)
class Route:
    """`path` as in the API's description, without the version: `/containers/{id}/json`.

    A name that may contain slashes is written `{name:.+}`. `since`: the first API version that has it.
    """

    method: str
    path: str
    handler: Callable[[Call], Awaitable[web.StreamResponse]]
    since: tuple[int, int] = (1, 24)


class Router:
    """Finds the route for a method and a path (without its version). Literal paths win over patterns."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._literal: dict[tuple[str, str], Route] = {}
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Route]]] = {}
        for route in routes:
            if "{" not in route.path:
                self._literal[route.method, route.path] = route
                continue
            bucket = self._patterns.setdefault((route.method, _first_segment(route.path)), [])
            bucket.append((_compile(route.path), route))
        for bucket in self._patterns.values():
            bucket.sort(key=lambda entry: _specificity(entry[1].path))

    def match(self, method: str, path: str) -> tuple[Route, Mapping[str, str]] | None:
        """The route and the values of its path's names, or None."""
        route = self._literal.get((method, path))
        if route is not None:
            return route, {}
        for pattern, candidate in self._patterns.get((method, _first_segment(path)), ()):
            found = pattern.fullmatch(path)
            if found:
                return candidate, found.groupdict()
        return None


def _first_segment(path: str) -> str:
    return path[1:].partition("/")[0]


def _specificity(path: str) -> tuple[int, int]:
    """Sorts patterns: those with a literal end first, then the ones with more literal segments."""
    segments = path[1:].split("/")
    return ("{" in segments[-1], -sum("{" not in segment for segment in segments))


def _compile(path: str) -> re.Pattern[str]:
    pattern = ""
    for part in re.split(r"(\{[^}]+\})", path):
        if part.startswith("{"):
            name, _, rule = part[1:-1].partition(":")
            pattern += f"(?P<{name}>{rule or '[^/]+'})"
        else:
            pattern += re.escape(part)
    return re.compile(pattern)


class Call:
    """One request, as its handler sees it."""

    __slots__ = (
        "_parameters",
        "body_read",
        "ends_with_client",
        "engine",
        "headers",
        "hijacked",
        "lent",
        "request",
        "route",
        "started",
        "version",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        engine: Engine,
        version: tuple[int, int],
        route: Route,
        parameters: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> None:
        self.request = request
        self.engine = engine
        self.route = route
        self.version = version  # of the API, as the client asked for it: (1, 50)
        self.started = False  # the head of the answer is on its way: from now on the request ends with its client
        self.ends_with_client = False  # set by a handler whose work is for nothing when nobody waits for it
        self.lent: Connection | None = None  # see `incoming`
        self.body_read = False  # whoever took the body with `incoming` has read it to its end
        self.hijacked = False  # the connection is no longer HTTP
        self._parameters = parameters
        self.headers = headers  # of every answer

    # --- path and query ---

    def path(self, name: str) -> str:
        """A part of the path by its name in the route, percent-decoded."""
        return self._parameters[name]

    def has(self, name: str) -> bool:
        return name in self.request.query

    def text(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return self.request.query.get(name, default)

    def texts(self, name: str) -> list[str]:
        """All values of a repeated query parameter."""
        return self.request.query.getall(name, [])

    def flag(self, name: str, default: bool = False) -> bool:
        """A yes/no parameter: "", 0, no, false and none are false, anything else is true; absent is `default`."""
        value = self.request.query.get(name)
        return default if value is None else value.strip().lower() not in _FALSE

    def integer(self, name: str, default: int | None = None) -> int | None:
        """A whole number; absent or "" is `default`. InvalidArgument naming the parameter otherwise."""
        value = self.request.query.get(name, "").strip()
        if not value:
            return default
        try:
            if "_" in value:
                raise ValueError
            return int(value)
        except ValueError:
            raise InvalidArgument(f'invalid value "{value}" for parameter {name}: not a whole number') from None

    def filters(self, allowed: Collection[str] | None = None) -> Filters:
        """The `filters` parameter. InvalidArgument `invalid filter 'x'` for a key outside `allowed`."""
        return Filters.parse(self.request.query.get("filters", ""), allowed)

    # --- body ---

    async def body(self, target: type[T]) -> T:
        """The JSON body as `target` (a snake_case struct or one renamed by `wire.docker_name`).

        InvalidArgument in Docker's words for an empty, malformed or wrongly typed body, or another content type.
        """
        self._expect_json()
        return wire.decode(await self._read(), target)

    async def optional_body(self, target: type[T]) -> T | None:
        """As `body`, but None when there is no body at all, or null."""
        data = await self.document()
        return wire.decode(data, target) if data is not None else None

    async def document(self) -> bytes | None:
        """The JSON body as it was sent; None when there is none, or null. InvalidArgument for other content types."""
        data = await self._read() if self.request.can_read_body else b""
        if data.strip() in (b"", b"null"):
            return None
        self._expect_json()
        return data

    async def _read(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in self.request.content.iter_any():
            size += len(part)
            if size > BODY_LIMIT:
                raise InvalidArgument(f"request body is larger than {BODY_LIMIT} bytes")
            parts.append(part)
        return b"".join(parts)

    def _expect_json(self) -> None:
        given = self.request.headers.get("Content-Type", "")
        if given.partition(";")[0].strip().lower() == JSON_TYPE or (not given and not self.request.can_read_body):
            return
        raise InvalidArgument(f"unsupported Content-Type header ({given}): must be 'application/json'")

    def incoming(self) -> AsyncIterator[bytes] | Connection:
        """As `chunks`, or the connection itself for a worker that reads the body out of it: see `edge.bodies`.

        The handler sets `body_read` when that has happened.
        """
        protocol = self.request.protocol
        self.lent = protocol.lend(self.request) if isinstance(protocol, BodyLender) else None
        return self.chunks() if self.lent is None else self.lent

    def end(self) -> None:
        """The handler has ended: what it was lent goes back."""
        if self.lent is not None:
            self.lent.close()
            self.lent = None

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives (archives to load, import, build), pieces of any size; back-pressure is kept."""
        if isinstance(self.request.protocol, BodyLender):
            self.request.protocol.let_come()
        return self.request.content.iter_any()

    # --- answers ---

    def json(self, value: Any, status: int = 200) -> web.Response:
        """An answer of JSON: wire structs, dicts, lists, plain values (see `wire.outgoing` for model structs)."""
        return web.Response(body=wire.encode(value) + b"\n", status=status, content_type=JSON_TYPE)

    async def encoded(self, values: Iterable[Any]) -> list[msgspec.Raw]:
        """A long list for `json`: other requests are served while it is made, and `values` may be a generator. What is
        told of ten thousand containers takes a fifth of a second."""
        done: list[msgspec.Raw] = []
        for value in values:
            done.append(msgspec.Raw(wire.encode(value)))
            if not len(done) % _AT_A_TIME:
                await asyncio.sleep(0)
        return done

    def empty(self, status: int = 204) -> web.Response:
        return web.Response(status=status)

    async def stream(
        self, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        """An answer of bytes that follow; its head is sent at once. `write` waits for a slow client."""
        given = {**self.headers, **(headers or {}), "Content-Type": content_type}
        response = web.StreamResponse(status=status, headers=given)
        if self.request.version >= (1, 1):
            response.enable_chunked_encoding()
        self.started = True
        await response.prepare(self.request)
        return response

    def progress(self) -> JsonStream:
        """An answer of JSON documents one after another: pull, load, push, import, build, events."""
        return JsonStream(self)


class JsonStream:
    """A stream of JSON documents whose head is sent with the first of them.

    An error before the first document therefore still gets its own status; one after it is told in the stream, as
    clients of Docker expect it. Use as `async with call.progress() as out: await out.send({...})`, then
    `return out.response`.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._response: web.StreamResponse | None = None

    @property
    def response(self) -> web.StreamResponse:
        """What the handler returns. Only after the `async with`."""
        assert self._response is not None
        return self._response

    @property
    def opened(self) -> bool:
        """Whether the head has been sent: an error's status can no longer be told by it."""
        return self._response is not None

    async def open(self) -> web.StreamResponse:
        """Send the head now, if it has not been sent."""
        if self._response is None:
            self._response = await self._call.stream(JSON_TYPE)
        return self._response

    async def send(self, document: Any) -> None:
        response = await self.open()
        await response.write(wire.encode(document) + b"\r\n")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            await self.open()
            return False
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            error = of_host(error) or error
        if self._response is None or not isinstance(error, DockyardError):
            return False
        await self.send({"errorDetail": {"message": error.message}, "error": error.message})
        return True
