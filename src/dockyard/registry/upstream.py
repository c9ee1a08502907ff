"""Another registry, read for the pull-through cache.

Owns: requests to it, its bearer tokens, and where its credentials may go (S38): to the registry itself and to a token
server of its own domain, or one that the configuration names; never along a redirect to another host. Addresses that
answers lead to may not be loopback, link-local or private unless the registry's own address is (S39).
Does not own: what is kept (`cache`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import msgspec
from yarl import URL

from dockyard.model import untrusted
from dockyard.model.errors import InvalidArgument
from dockyard.registry.backend import CHUNK
from dockyard.registry.documents import KNOWN, MAX_MANIFEST
from dockyard.registry.errors import RegistryError

_PARAMETER = re.compile(r'([a-zA-Z_]+)="([^"]*)"')
_REDIRECTS = 5
_TOKEN_LIFE = 60.0  # seconds, where the token server does not say
_LARGEST_TOKEN = 1 << 20


class Fetched(NamedTuple):
    content: bytes
    media_type: str


class Upstream:
    """One registry. Made in a running loop."""

    def __init__(self, url: str, username: str, password: str, realms: list[str], ca: str = "") -> None:
        self._url = URL(url.rstrip("/"))
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise InvalidArgument(f"proxy.url: {url!r} is no http or https address")
        self._credentials = aiohttp.BasicAuth(username, password) if username else None
        self._realms = set(realms)
        self._ssl: Any = ssl.create_default_context(cafile=ca) if ca else True
        self._tokens: dict[str, tuple[str, float]] = {}  # scope → token, when it ends
        self._basic = False
        self._inward: bool | None = None  # is the registry itself at an internal address?
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
        self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)

    async def close(self) -> None:
        await self._session.close()

    async def digest(self, repository: str, reference: str) -> str | None:
        """What a tag stands for there; "" if it does not say, None if there is none."""
        async with self._get(repository, f"manifests/{reference}", method="HEAD") as answer:
            if answer.status == 404:
                return None
            _expect(answer)
            return str(answer.headers.get("Docker-Content-Digest", ""))

    async def manifest(self, repository: str, reference: str) -> Fetched | None:
        """None if there is none."""
        async with self._get(repository, f"manifests/{reference}") as answer:
            if answer.status == 404:
                return None
            _expect(answer)
            return Fetched(await _bounded(answer, MAX_MANIFEST), answer.headers.get("Content-Type", ""))

    async def size(self, repository: str, digest: str) -> int | None:
        """Of a blob; None if upstream does not say. BLOB_UNKNOWN."""
        async with self._get(repository, f"blobs/{digest}", method="HEAD") as answer:
            if answer.status == 404:
                raise RegistryError("BLOB_UNKNOWN", detail={"digest": digest})
            _expect(answer)
            return answer.content_length

    async def blob(self, repository: str, digest: str, started: Callable[[int | None], None]) -> AsyncIterator[bytes]:
        """Its bytes as they come, not verified; `started` is told how many upstream says they are. BLOB_UNKNOWN."""
        async with self._get(repository, f"blobs/{digest}") as answer:
            if answer.status == 404:
                raise RegistryError("BLOB_UNKNOWN", detail={"digest": digest})
            _expect(answer)
            started(answer.content_length)
            async for data in answer.content.iter_chunked(CHUNK):
                yield data

    @asynccontextmanager
    async def _get(self, repository: str, path: str, method: str = "GET") -> AsyncIterator[aiohttp.ClientResponse]:
        scope = f"repository:{repository}:pull"
        url = self._url / "v2" / repository / path
        answer = await self._request(method, url, scope)
        if answer.status == 401:
            challenge = answer.headers.get("WWW-Authenticate", "")
            answer.release()
            await self._answer_challenge(challenge, scope)
            answer = await self._request(method, url, scope)
        try:
            yield answer
        finally:
            answer.close()

    async def _request(self, method: str, url: URL, scope: str) -> aiohttp.ClientResponse:
        """Follows redirects itself: other hosts see no credentials."""
        for _ in range(_REDIRECTS):
            headers = {"Accept": ", ".join(sorted(KNOWN))}
            if url.origin() == self._url.origin():
                headers |= self._authorization(scope)
            else:
                await self._check_address(url)
            answer = await self._session.request(method, url, headers=headers, allow_redirects=False, ssl=self._ssl)
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            target = url.join(URL(answer.headers.get("Location", "")))
            answer.release()
            if target.scheme not in ("http", "https") or (self._url.scheme == "https" and target.scheme != "https"):
                raise _failed(f"redirected to {target.scheme or 'nowhere'}")
            url = target
        raise _failed("too many redirects")

    def _authorization(self, scope: str) -> dict[str, str]:
        token, ends = self._tokens.get(scope, ("", 0.0))
        if token and time.monotonic() < ends:
            return {"Authorization": f"Bearer {token}"}
        if self._basic and self._credentials is not None:
            return {"Authorization": self._credentials.encode()}
        return {}

    async def _answer_challenge(self, challenge: str, scope: str) -> None:
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic":
            self._basic = True
            return
        values = dict(_PARAMETER.findall(rest))
        if kind.lower() != "bearer" or not values.get("realm"):
            raise _failed("asks for an authorization that is not known here")
        realm = URL(values["realm"])
        self._check_realm(realm)
        query = {"service": values.get("service", ""), "scope": scope}
        async with self._session.get(
            realm.update_query({key: value for key, value in query.items() if value}),
            auth=self._credentials,
            allow_redirects=False,
            ssl=self._ssl,
        ) as answer:
            if answer.status != 200:
                raise _failed(f"its token server answers {answer.status}")
            content = await _bounded(answer, _LARGEST_TOKEN)
        try:
            document = untrusted.decode(content, dict[str, Any])
        except msgspec.MsgspecError:
            raise _failed("its token server's answer is no token document") from None
        token = document.get("token") or document.get("access_token")
        life = document.get("expires_in")
        if not isinstance(token, str):
            raise _failed("its token server gives no token")
        seconds = float(life) if isinstance(life, int | float) else _TOKEN_LIFE
        self._tokens[scope] = (token, time.monotonic() + seconds * 0.9)
        while len(self._tokens) > 1000:
            del self._tokens[next(iter(self._tokens))]

    def _check_realm(self, realm: URL) -> None:
        """S38: the token server has to be the registry's host, of its domain, or named by the configuration."""
        host, own = realm.host or "", self._url.host or ""
        related = host == own or host in self._realms or _domain(host) == _domain(own) != ""
        if not related:
            raise _failed(f"its token server {host} is not of its domain; name it in proxy.realms to trust it")
        if realm.scheme != "https" and self._url.scheme == "https":
            raise _failed("its token server is not https")

    async def _check_address(self, url: URL) -> None:
        """S39: what an answer leads to is not inside this network, unless the registry is."""
        if self._inward is None:
            self._inward = await _is_internal(self._url)
        if not self._inward and await _is_internal(url):
            raise _failed(f"redirects to the internal address of {url.host}")


async def _is_internal(url: URL) -> bool:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(url.host or "", url.port or 443)
    addresses = [ipaddress.ip_address(each[4][0]) for each in found]
    return any(not address.is_global for address in addresses)


def _domain(host: str) -> str:
    """The last two labels; "" for addresses and single names."""
    labels = host.split(".")
    return ".".join(labels[-2:]) if len(labels) > 1 and not labels[-1].isdigit() and ":" not in host else ""


async def _bounded(answer: aiohttp.ClientResponse, most: int) -> bytes:
    content = b""
    async for data in answer.content.iter_chunked(1 << 16):
        content += data
        if len(content) > most:
            raise _failed(f"answers with more than {most} bytes")
    return content


def _expect(answer: aiohttp.ClientResponse) -> None:
    if answer.status == 429:
        headers = {"Retry-After": answer.headers["Retry-After"]} if "Retry-After" in answer.headers else {}
        raise RegistryError("TOOMANYREQUESTS", headers=headers)
    if answer.status in (401, 403):
        raise RegistryError("DENIED", "upstream denies access")
    if answer.status != 200:
        raise _failed(f"answers {answer.status}")


def _failed(reason: str) -> RegistryError:
    return RegistryError("UNAVAILABLE", f"upstream {reason}", status=502)
