"""HTTP to registries: one exchange at a time, nothing followed, nothing believed.

Owns: the HTTP client and its connections, proxies of the environment, what a failed connection is called, the wall
around local addresses. Does not own: authorization, redirects, which host is asked (`session`).

aiohttp's client is imported with the first request. Cookies, netrc and automatic redirects are off: all three carry
secrets to places of the server's choice.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dockyard import __version__
from dockyard.model.errors import DockyardError, Forbidden, InvalidArgument
from dockyard.proto.registries import NO_FILES, IPAddress, RegistryRules, TLSFiles, address_of, hostname, is_local
from dockyard.store.remote import tls
from dockyard.store.remote.addresses import absolute
from dockyard.store.remote.errors import Temporary

if TYPE_CHECKING:
    import aiohttp

READ_SIZE = 1 << 20  # bytes that may wait between the socket and us, for each connection
_IDLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient the client is. Seconds."""

    connect: float = 15.0
    silence: float = 60.0  # without a single byte
    tries: int = 5
    downloads: int = 0  # tries for a blob that comes; 0: as others
    delay: float = 0.5  # before the second try; doubled each time


class Transport:
    """One per daemon. Everything is made with the first request and let go by `close()`."""

    def __init__(
        self,
        rules: RegistryRules,
        limits: Limits | None = None,
        certificates: Sequence[str] = tls.DIRECTORIES,
    ) -> None:
        self.rules = rules
        self.limits = limits or Limits()
        self.certificates = certificates  # directories like certs.d
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._contexts: dict[tuple[str, bool, TLSFiles], ssl.SSLContext] = {}

    async def close(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def is_insecure(self, host: str) -> bool:
        """Whether `host` may go without TLS: by its name, or by what it resolves to, as Docker asks."""
        if self.rules.is_insecure(host):
            return True
        if address_of(host) is not None:
            return False
        return self.rules.is_insecure(host, await _resolve(hostname(host)))

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any = None,
        *,
        guarded: bool = False,
        insecure: bool = False,
        files: TLSFiles = NO_FILES,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request and its answer, whatever its status. Temporary if there is none.

        `guarded`: a server named this address, so it must not be a local one (S39): Forbidden. `insecure`: whether the
        certificate may be anybody's. `files`: besides those of certs.d.
        """
        import aiohttp
        import yarl

        if absolute(url) is None:
            raise InvalidArgument(f"invalid address {url[:200]!r}")
        target = yarl.URL(url, encoded=True)
        host = target.raw_authority.rpartition("@")[2]
        guarded = guarded and not self.rules.may_be_local(host)
        if guarded and (address := address_of(host)) is not None and is_local(address):
            raise Forbidden(f"refused: a registry leads to the local address {address}")
        context: ssl.SSLContext | bool = True
        if target.scheme == "https":
            context = await self._context(host, insecure, files)
        shown = f'{method.capitalize()} "{target.with_query(None).with_user(None)}"'
        try:
            async with asyncio.timeout(None) as deadline:
                request = self._session(guarded).request(
                    method, target, headers=headers, data=_watched(body, deadline, self.limits.silence),
                    allow_redirects=False, ssl=context, proxy=_proxy(target.scheme, host),
                )  # fmt: skip
                async with request as response:
                    deadline.reschedule(None)
                    yield response
        except aiohttp.ClientConnectorCertificateError as error:
            raise Forbidden(f"{shown}: tls: failed to verify certificate: {error.certificate_error}") from None
        except aiohttp.ClientSSLError as error:
            raise Forbidden(f"{shown}: {_tls_failure(error)}") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _LocalAddress):
                raise Forbidden(f"refused: a registry leads to the local address {error.os_error.strerror}") from None
            raise Temporary(f"{shown}: dial tcp {host}: {_cause(error.os_error)}") from None
        except TimeoutError:
            raise Temporary(f"{shown}: no answer within the time limit (i/o timeout)") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            if isinstance(error.__cause__, DockyardError):  # of the body that was being sent
                raise error.__cause__ from None
            raise Temporary(f"{shown}: {str(error) or type(error).__name__}") from None

    async def _context(self, host: str, insecure: bool, files: TLSFiles) -> ssl.SSLContext:
        key = (host, insecure, files)
        if key not in self._contexts:  # files are read: not on the loop
            self._contexts[key] = await asyncio.to_thread(
                tls.context_for, host, insecure=insecure, directories=self.certificates, files=files
            )
        return self._contexts[key]

    def forget_certificates(self) -> None:
        """Read certs.d again from now on: it changes without a restart."""
        self._contexts.clear()

    def _session(self, guarded: bool) -> aiohttp.ClientSession:
        import aiohttp

        if guarded not in self._sessions:
            connector = aiohttp.TCPConnector(
                limit=0, keepalive_timeout=_IDLE_SECONDS, resolver=_guarded_resolver() if guarded else None
            )
            self._sessions[guarded] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=READ_SIZE,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self.limits.connect, sock_read=self.limits.silence
                ),
                headers={"User-Agent": f"dockyard/{__version__}", "Accept-Encoding": "identity"},
            )
        return self._sessions[guarded]


def _watched(body: Any, deadline: asyncio.Timeout, silence: float) -> Any:
    """A body that is a stream, with a limit to how long the server may let one of its chunks wait."""
    if not isinstance(body, AsyncIterator):
        return body

    async def watched() -> AsyncGenerator[bytes, None]:
        async with aclosing(body) if isinstance(body, AsyncGenerator) else nullcontext(body) as chunks:
            async for chunk in chunks:
                deadline.reschedule(asyncio.get_running_loop().time() + silence)
                yield chunk
                deadline.reschedule(None)

    return watched()


class _LocalAddress(OSError):
    """A name resolved to a local address where none may be."""


def _guarded_resolver() -> Any:
    from aiohttp.abc import AbstractResolver
    from aiohttp.resolver import ThreadedResolver

    class Guarded(AbstractResolver):
        """Refuses names that lead to this host: looked at here, where the connection is made with the same answer."""

        def __init__(self) -> None:
            self._inner = ThreadedResolver()

        async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> Any:
            found = await self._inner.resolve(host, port, family)
            for entry in found:
                if is_local(ipaddress.ip_address(entry["host"].partition("%")[0])):
                    raise _LocalAddress(0, f"{entry['host']} (of {host})")
            return found

        async def close(self) -> None:
            await self._inner.close()

    return Guarded()


async def _resolve(name: str) -> list[IPAddress]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def _proxy(scheme: str, host: str) -> str | None:
    """The environment's proxy, except for this machine."""
    address = address_of(host)
    if hostname(host) == "localhost" or (address is not None and address.is_loopback):
        return None
    proxy = urllib.request.getproxies_environment().get(scheme)
    if not proxy or urllib.request.proxy_bypass_environment(host):  # type: ignore[attr-defined]
        return None
    return proxy


def _tls_failure(error: Exception) -> str:
    text = str(error)
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text or "HTTP_REQUEST" in text:
        return "http: server gave HTTP response to HTTPS client"
    return f"tls: {text}"


def _cause(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connect: connection refused"
    if isinstance(error, socket.gaierror):
        return "no such host"
    return (error.strerror or str(error) or type(error).__name__).lower()
