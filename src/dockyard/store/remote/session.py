"""Requests to one registry for one user: found, authorized, redirected.

Owns: `Session`: finding out how a host speaks (TLS or not, which authorization), sending a request with the right
header to the right host, following redirects. Does not own: what is asked (`repository`), single exchanges
(`transport`).

Credentials and tokens go to the registry's own origin alone (S38); whatever a server leads to is followed without them,
not from https to http, and not to local addresses unless the registry is local itself (S39).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from dockyard.model.errors import DockyardError, Forbidden, InvalidArgument
from dockyard.proto import wwwauth
from dockyard.proto.dockerconfig import Credentials
from dockyard.proto.registries import NO_FILES, Place, address_of, hostname, is_local
from dockyard.proto.wwwauth import Challenge
from dockyard.store.remote.addresses import absolute
from dockyard.store.remote.authorization import Authorizer, TokenCache, read_limited
from dockyard.store.remote.errors import Temporary, TooManyRequests, explain
from dockyard.store.remote.transport import Limits, Transport

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

MAX_ERROR = 64 << 10  # bytes of an error's body that are read
_REDIRECTS = 5
_REMEMBER_SECONDS = 300.0
_MAX_WAIT = 20.0  # seconds that a registry may ask us to wait before the next try

Body = Callable[[], Any]  # makes a request's body anew for each time that it is sent


class _Found(NamedTuple):
    """How a host was found to speak. `until`: monotonic seconds."""

    base: str
    challenges: list[Challenge]
    until: float


class Shared:
    """What the sessions of a daemon have in common."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.tokens = TokenCache()
        self.found: dict[str, _Found] = {}


class Session:
    """`place`: the host to ask. `credentials`: of this registry and no other; a mirror gets none."""

    def __init__(self, shared: Shared, place: Place, credentials: Credentials) -> None:
        self.place = place
        self._shared = shared
        self._transport = shared.transport
        self._credentials = Credentials() if place.mirror else credentials
        self._base = ""
        self._challenges: list[Challenge] = []
        self._authorizer: Authorizer | None = None
        self._insecure = False
        self._remembered = False  # what is known of the host was found by an earlier session
        self._finding = asyncio.Lock()
        self.local = _is_local_host(place.host)

    @property
    def host(self) -> str:
        return self.place.host

    @property
    def limits(self) -> Limits:
        return self._transport.limits

    async def find(self, *, fresh: bool = False) -> None:
        """Find out whether the host speaks TLS and what it asks of users. Temporary, NotFound if it is no registry."""
        async with self._finding:
            if self._authorizer is not None and not fresh:
                return
            self._insecure = (
                "http" in self.place.schemes
                or self.place.tls.skip_verify
                or self._transport.rules.is_insecure(self.host)
            )
            known = self._shared.found.get(self._key)
            self._remembered = known is not None and not fresh and known.until >= time.monotonic()
            if known is None or not self._remembered:
                known = await self._knock()
                self._shared.found[self._key] = known
            self._base, self._challenges = known.base, known.challenges
            self._authorizer = Authorizer(
                self._transport, self._base, self._credentials, self._shared.tokens,
                insecure=self._insecure, local=self.local,
            )  # fmt: skip

    @property
    def _key(self) -> str:
        return f"{self.place.schemes[0]}://{self.host}{self.place.root}"

    async def _knock(self) -> _Found:
        """Ask the API's root by TLS, then, of an insecure registry, without; the last failure is told."""
        for scheme in self.place.schemes:
            last = scheme == self.place.schemes[-1]
            base = f"{scheme}://{self.host}"
            try:
                async with self._transport.exchange(
                    "GET", f"{base}{self.place.root}/", dict(self.place.headers), insecure=self._insecure,
                    files=self.place.tls,
                ) as response:  # fmt: skip
                    until = time.monotonic() + _REMEMBER_SECONDS
                    if response.status == 401:
                        lines = response.headers.getall("WWW-Authenticate", [])
                        return _Found(base, wwwauth.parse(lines), until)
                    if response.status == 200 or (self.place.mirror and response.status == 404):
                        # a mirror with a root of its own may have nothing there but repositories
                        return _Found(base, [], until)
                    data = await read_limited(response, MAX_ERROR, base)
                    error = explain(response.status, data, f"registry {self.host}", _retry_after(response))
                    if last or response.status == 429:
                        raise error
            except (Temporary, Forbidden):
                if last:
                    raise
        raise AssertionError("a place without a scheme")

    async def log_in(self) -> None:
        """Verify the credentials: Unauthorized if the registry does not take them."""
        await self.find(fresh=True)
        async with self.request("GET", f"{self.place.root}/", (), f"login to {self.host}"):
            pass

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        what: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        allow: Sequence[int] = (),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, with its redirects; the answer is a success or one of `allow`, else the error is raised.

        `url`: a path of this registry, or an address that it named. Not retried: `again` does that.
        """
        await self.find()
        target = absolute(url, self._base + "/")
        if target is None:
            raise InvalidArgument(f"{what}: led to an invalid address {url[:200]!r}")
        refused = ""
        hops = 0
        while True:
            header = await self._header(target, scopes)
            sent = {**(headers or {}), **({"Authorization": header} if header else {})}
            async with self._exchange(method, target, sent, body, hops) as response:
                status = response.status
                if status in (301, 302, 303, 307, 308) and method in ("GET", "HEAD"):
                    hops += 1
                    target = self._next(target, response, hops, what)
                    continue
                if status == 401 and self._is_own(target) and not refused and self._may_retry(response, header, body):
                    refused = header or "nobody"
                    continue
                if 200 <= status < 300 or status in allow:
                    yield response
                    return
                data = b"" if method == "HEAD" else await read_limited(response, MAX_ERROR, what)
                raise explain(status, data, what, _retry_after(response))

    def _exchange(self, method: str, target: str, headers: dict[str, str], body: Body | None, hops: int) -> Any:
        own = self._is_own(target)
        insecure = self._insecure if own else self._transport.rules.is_insecure(urlsplit(target).netloc)
        return self._transport.exchange(
            method, target, {**dict(self.place.headers), **headers} if own else headers, body() if body else None,
            guarded=not own and not self.local, insecure=insecure, files=self.place.tls if own else NO_FILES,
        )  # fmt: skip

    async def _header(self, target: str, scopes: Sequence[str]) -> str | None:
        if not self._is_own(target) or self._authorizer is None:
            return None
        try:
            return await self._authorizer.header(self._challenges, scopes)
        except DockyardError:
            if not self._remembered:
                raise
        await self.find(fresh=True)  # another registry, or another token server, may speak there by now
        return await self._authorizer.header(self._challenges, scopes)

    def _may_retry(self, response: aiohttp.ClientResponse, header: str | None, body: Body | None) -> bool:
        """After a 401: with what the registry asks for now, or with a new token in place of an old one."""
        self._shared.found.pop(self._key, None)
        challenges = wwwauth.parse(response.headers.getall("WWW-Authenticate", []))
        changed = bool(challenges) and [c.scheme for c in challenges] != [c.scheme for c in self._challenges]
        if challenges:
            self._challenges = challenges
        assert self._authorizer is not None
        return changed if header is None else self._authorizer.reject(header) or changed

    def _next(self, target: str, response: aiohttp.ClientResponse, hops: int, what: str) -> str:
        location = response.headers.get("Location", "")
        following = absolute(location, target) if location else None
        if hops > _REDIRECTS:
            raise InvalidArgument(f"{what}: stopped after {_REDIRECTS} redirects")
        if following is None:
            raise InvalidArgument(f"{what}: redirected to an invalid address {location[:200]!r}")
        parts = urlsplit(following)
        downgrade = parts.scheme == "http" and target.startswith("https:")
        if downgrade and not self._transport.rules.is_insecure(parts.netloc):
            raise Forbidden(f"{what}: refused a redirect from https to http ({parts.netloc})")
        return following

    def _is_own(self, url: str) -> bool:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc}".lower() == self._base.lower()

    async def again(self, work: Callable[[], Awaitable[T]], told: Callable[[float], None] | None = None) -> T:
        """`work()`, tried anew after growing pauses while that could help; `told(seconds)` before each."""
        limits = self._transport.limits
        for attempt in range(limits.tries):
            try:
                return await work()
            except Temporary as error:
                delay = pause(error, attempt, limits.tries, limits.delay)
                if delay is None:
                    raise
                if told is not None:
                    told(delay)
                await asyncio.sleep(delay)
        raise AssertionError("no tries")


def pause(error: Temporary, attempt: int, tries: int, first: float) -> float | None:
    """Seconds until the next try, None to give up. A rate limit is waited out only if the registry says how long."""
    if attempt + 1 >= tries:
        return None
    if isinstance(error, TooManyRequests):
        return error.after if error.after is not None and error.after <= _MAX_WAIT and attempt < 2 else None
    wanted = float(first * 2**attempt)
    return max(wanted, min(error.after or 0.0, _MAX_WAIT))


def _retry_after(response: Any) -> str:
    return str(response.headers.get("Retry-After", ""))


def _is_local_host(host: str) -> bool:
    address = address_of(host)
    return hostname(host) == "localhost" or (address is not None and is_local(address))
