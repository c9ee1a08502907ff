"""The Authorization header of one user at one registry.

Owns: answering Basic and Bearer challenges, tokens and how long they last, the rule that credentials go to the registry
and its own token server only (S38). Does not own: when a header is sent, and to which host (`session`).

Source: distribution's token specification (GET with Basic) and its OAuth2 flow (POST with a refresh token).
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Struct

from dockyard.model import untrusted
from dockyard.model.errors import Forbidden, InvalidArgument, Unauthorized
from dockyard.proto.dockerconfig import Credentials
from dockyard.proto.wwwauth import Challenge
from dockyard.store.remote.addresses import absolute
from dockyard.store.remote.errors import explain
from dockyard.store.remote.transport import Transport

_CLIENT = "dockyard"
_MAX_ANSWER = 1 << 20  # bytes of a token server's answer
_SHORTEST = 60.0  # seconds that a token without an expiry is used; the specification's default


class _Token(Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None
    refresh_token: str = ""


class TokenCache:
    """Tokens of all sessions, until shortly before they expire. The key has the credentials in it."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[Any, ...], tuple[str, float]] = {}

    def get(self, key: tuple[Any, ...]) -> str | None:
        token, until = self._tokens.get(key, ("", 0.0))
        return token if time.monotonic() < until else None

    def put(self, key: tuple[Any, ...], token: str, seconds: float) -> None:
        now = time.monotonic()
        self._tokens = {k: entry for k, entry in self._tokens.items() if entry[1] > now}
        self._tokens[key] = (token, now + max(seconds * 0.9, 5.0))

    def drop(self, token: str) -> None:
        """The registry did not take it."""
        self._tokens = {key: entry for key, entry in self._tokens.items() if entry[0] != token}


class Authorizer:
    """`base`: the registry as it was found, "https://host". `local`: it lies on this host itself, by its own name."""

    def __init__(
        self,
        transport: Transport,
        base: str,
        credentials: Credentials,
        tokens: TokenCache,
        *,
        insecure: bool,
        local: bool,
    ) -> None:
        self._transport = transport
        self._base = base
        self._host = urlsplit(base).netloc
        self._credentials = credentials
        self._tokens = tokens
        self._insecure = insecure
        self._local = local

    async def header(self, challenges: Sequence[Challenge], scopes: Sequence[str]) -> str | None:
        """The header's value, None if nothing is asked for. Unauthorized if there is nothing to answer with."""
        known = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if "bearer" in known:
            return "Bearer " + await self._token(known["bearer"].parameters, scopes)
        if "basic" in known:
            if not self._credentials.username:
                raise Unauthorized("no basic auth credentials")
            return basic(self._credentials)
        if challenges:
            names = ", ".join(challenge.scheme for challenge in challenges)
            raise Unauthorized(f"registry {self._host} asks for an unknown kind of authorization: {names[:100]}")
        return None

    def reject(self, header: str) -> bool:
        """A header was refused; True if another may do better."""
        kind, _, token = header.partition(" ")
        if kind != "Bearer" or token == self._credentials.registry_token:
            return False
        self._tokens.drop(token)
        return True

    async def _token(self, parameters: dict[str, str], scopes: Sequence[str]) -> str:
        if self._credentials.registry_token:
            return self._credentials.registry_token
        realm = self._realm(parameters.get("realm", ""))
        service = parameters.get("service", "")
        asked = tuple(sorted({*scopes, *([] if scopes else parameters.get("scope", "").split())}))
        key = (realm, service, asked, self._credentials)
        if (cached := self._tokens.get(key)) is not None:
            return cached
        answer = await self._ask(realm, service, asked)
        token = answer.token or answer.access_token
        if not token:
            raise Unauthorized(f"authorization server {urlsplit(realm).netloc} did not include a token in the response")
        if not token.isprintable() or " " in token:
            raise Unauthorized(f"authorization server {urlsplit(realm).netloc} sent something that is no token")
        self._tokens.put(key, token, answer.expires_in if answer.expires_in else _SHORTEST)
        return token

    def _realm(self, text: str) -> str:
        """Where tokens come from, checked: not downgraded, and not a stranger if it gets credentials."""
        realm = absolute(text, self._base + "/v2/") if text else None
        if realm is None or (parts := urlsplit(realm)).username:
            raise InvalidArgument(f"registry {self._host}: invalid token realm {text[:200]!r}")
        rules = self._transport.rules
        if parts.scheme == "http" and self._base.startswith("https:") and not rules.is_insecure(parts.netloc):
            raise Forbidden(f"refused: registry {self._host} names a token server without TLS, {parts.netloc}")
        if not self._credentials.empty and not rules.realm_gets_credentials(self._host, parts.netloc):
            raise Forbidden(
                f"refused to send the credentials of registry {self._host} to the unrelated token server "
                f"{parts.netloc}: if it belongs to the registry, name it in trusted-realms"
            )
        return realm

    async def _ask(self, realm: str, service: str, scopes: Sequence[str]) -> _Token:
        user = self._credentials
        headers: dict[str, str] = {}
        if user.identity_token:
            form = {
                "grant_type": "refresh_token", "refresh_token": user.identity_token, "service": service,
                "client_id": _CLIENT, "scope": " ".join(scopes),
            }  # fmt: skip
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            return await self._exchange("POST", realm, headers, urlencode(form).encode())
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        if user.username:
            headers["Authorization"] = basic(user)
            query += [("account", user.username), ("client_id", _CLIENT)]
        url = realm + ("&" if "?" in realm else "?") + urlencode(query, quote_via=quote, safe=":,/") if query else realm
        return await self._exchange("GET", url, headers, None)

    async def _exchange(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> _Token:
        host = urlsplit(url).netloc
        guarded = host.lower() != self._host.lower() and not self._local
        insecure = self._insecure if host.lower() == self._host.lower() else self._transport.rules.is_insecure(host)
        what = f"token server {host}"
        async with self._transport.exchange(method, url, headers, body, guarded=guarded, insecure=insecure) as response:
            data = await read_limited(response, _MAX_ANSWER, what)
            if response.status in range(300, 400):
                raise Forbidden(f"refused: {what} redirects a request for a token")
            if response.status != 200:
                raise explain(response.status, data, what, response.headers.get("Retry-After", ""))
        try:
            return untrusted.decode(data, _Token)
        except msgspec.MsgspecError:
            raise InvalidArgument(f"{what}: its answer is no token document") from None


def basic(user: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{user.username}:{user.password}".encode()).decode()


async def read_limited(response: Any, limit: int, what: str) -> bytes:
    """A whole body of at most `limit` bytes. InvalidArgument for a longer one."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > limit:
            raise InvalidArgument(f"{what}: the answer is larger than {limit} bytes")
        parts.append(part)
    return b"".join(parts)
