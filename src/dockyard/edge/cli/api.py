"""The Engine API as the commands use it.

Owns: paths with the negotiated version, queries, JSON bodies, turning error answers into `ApiError`, and one kept
connection for requests one after another. Does not own: sockets and HTTP (`http`).
"""

from __future__ import annotations

import json

from dockyard.edge.cli.errors import ApiError, CliError
from dockyard.edge.cli.host import Host
from dockyard.edge.cli.http import Connection, Response, connect
from dockyard.edge.cli.versions import API_NEWEST, API_OLDEST

TYPE_CHECKING = False  # typing's own constant, without the 6 ms that importing typing takes (docs/cli.md)
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    # True → "1"; False and None are left out; dict → JSON; a list repeats the name; everything else str()
    Query = Mapping[str, Any]


class Hijacked:
    """A raw stream. `multiplexed`: stdout and stderr come in frames; None: the daemon is too old to say."""

    def __init__(self, connection: Connection, multiplexed: bool | None) -> None:
        self.connection = connection
        self.multiplexed = multiplexed


_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def quote(text: str, keep: bytes = b"") -> str:
    """Percent-encodes everything but letters, digits, `-._~` and `keep`."""
    return "".join(chr(b) if b in _SAFE or b in keep else f"%{b:02X}" for b in text.encode("utf-8", "surrogateescape"))


def _query(values: Query | None) -> str:
    pairs = []
    for name, value in (values or {}).items():
        if value is None or value is False:
            continue
        if isinstance(value, dict):
            value = json.dumps(value)
        for each in value if isinstance(value, list) else [value]:
            pairs.append(f"{name}={quote('1' if each is True else str(each))}")
    return "?" + "&".join(pairs) if pairs else ""


def version_key(version: str) -> tuple[int, ...]:
    """`1.41` → (1, 41), for comparing."""
    return tuple(int(part) for part in version.split("."))


class Api:
    """The daemon at `host`."""

    def __init__(self, host: Host, environment: Mapping[str, str]) -> None:
        self.host = host
        self._lease = environment.get("DOCKYARD_LEASE", "")  # what is made belongs to it
        self._asked = environment.get("DOCKYARD_API_VERSION") or environment.get("DOCKER_API_VERSION") or ""
        self._version = self._asked.removeprefix("v")
        if self._version and not all(part.isdecimal() for part in self._version.split(".", 1)):
            raise CliError(f"DOCKYARD_API_VERSION or DOCKER_API_VERSION: {self._asked!r} is no version such as 1.44")
        self._kept: Connection | None = None
        self.server = ""  # how the daemon calls itself, once it has been asked for its version

    @property
    def version(self) -> str:
        """The API version spoken: the newest that both sides know."""
        if not self._version:
            connection = self._kept or connect(self.host)
            response = connection.request("HEAD", "/_ping")
            if response.status >= 400:
                connection.close()
                connection = connect(self.host)
                response = connection.request("GET", "/_ping")
                if response.status >= 400:
                    raise api_error(response)
            response.read()
            self._kept = None if _closes(response) else connection
            self.server = response.headers.get("server", "")
            theirs = response.headers.get("api-version") or API_OLDEST
            self._version = min(theirs, API_NEWEST, key=version_key)
        return self._version

    def at_least(self, version: str) -> bool:
        return version_key(self.version) >= version_key(version)

    # -- requests ---------------------------------------------------------------------------------------------------

    def send(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        *,
        raw: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> Response:
        """A request whose answer the caller reads. `body`: JSON; `raw`: bytes. ApiError for 4xx and 5xx."""
        target = f"/v{self.version}{path}{_query(query)}"
        connection = connect(self.host) if fresh or self._kept is None else self._kept
        if not fresh:
            self._kept = None
        head = dict(headers or {})
        if self._lease and path.endswith("/create"):
            head["X-Dockyard-Lease"] = self._lease
        if body is not None:
            raw = json.dumps(body).encode()
            head["Content-Type"] = "application/json"
        elif raw is not None:
            head.setdefault("Content-Type", "application/x-tar")
        response = connection.request(method, target, head, raw)
        if response.status >= 400:
            raise api_error(response)
        return response

    def call(self, method: str, path: str, query: Query | None = None, body: Any = None) -> bytes:
        """A request answered in one piece; its connection is kept for the next."""
        response = self.send(method, path, query, body)
        data = response.read()
        if not _closes(response):
            self._kept = response.connection
        return data

    def get(self, path: str, query: Query | None = None) -> Any:
        return decode(self.call("GET", path, query))

    def post(self, path: str, query: Query | None = None, body: Any = None) -> Any:
        data = self.call("POST", path, query, body)
        return decode(data) if data.strip() else None

    def delete(self, path: str, query: Query | None = None) -> Any:
        data = self.call("DELETE", path, query)
        return decode(data) if data.strip() else None

    def stream(self, method: str, path: str, query: Query | None = None, **more: Any) -> Iterator[dict[str, Any]]:
        """An answer of many JSON values, one after another."""
        return json_values(self.send(method, path, query, fresh=True, **more).chunks())

    def hijack(self, path: str, query: Query | None = None, body: Any = None) -> Hijacked:
        """A request that turns its connection into a raw stream."""
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        response = self.send("POST", path, query, body, headers=headers, fresh=True)
        kind = response.headers.get("content-type", "")
        framed = {"application/vnd.docker.multiplexed-stream": True}.get(kind)
        return Hijacked(response.connection, framed if self.at_least("1.42") else None)


def _closes(response: Response) -> bool:
    return response.headers.get("connection", "").lower() == "close"


def api_error(response: Response) -> CliError:
    """What the daemon said, whatever form it has."""
    data = response.read()
    try:
        message = json.loads(data)["message"]
    except (ValueError, KeyError, TypeError):
        message = data.decode("utf-8", "replace").strip()[:500]
    return ApiError(response.status, str(message) or f"{response.status} {response.reason}")


def decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise CliError(f"the daemon's answer is not JSON: {data[:100]!r}") from None


def json_values(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """JSON values out of pieces of text that may end anywhere."""
    decoder = json.JSONDecoder()
    from codecs import getincrementaldecoder

    utf8 = getincrementaldecoder("utf-8")("replace")
    text = ""
    for chunk in chunks:
        text += utf8.decode(chunk)
        while text := text.lstrip():
            try:
                value, end = decoder.raw_decode(text)
            except ValueError:
                break
            yield value
            text = text[end:]


def container_path(name: str) -> str:
    """`/containers/NAME`. CliError for a name that cannot be one (an empty one would mean another endpoint)."""
    if not name.strip():
        raise CliError("invalid container name or ID: value is empty")
    return f"/containers/{quote(name)}"
