"""Who asks, and what they may do.

Owns: htpasswd (bcrypt only), bearer tokens (RS256, ES256 and their longer kin; never a symmetric algorithm or none),
rules per repository, challenges. Source: distribution's "Token Authentication Specification"; RFC 7617, RFC 6750.
Does not own: issuing tokens. The libraries come with the extra `registry` and are imported when auth is configured.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import secrets
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from dockyard.edge.registry.configuration import Auth, Htpasswd, Rule, Token
from dockyard.model.errors import InvalidArgument
from dockyard.registry.errors import RegistryError

ANONYMOUS: Final = ""
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA")
_REMEMBERED = 1000  # passwords that were right, for _REMEMBER seconds: bcrypt is slow on purpose
_REMEMBER = 300.0
_LEEWAY = 60  # seconds that clocks may differ


class Need(NamedTuple):
    """What a request is about to do. `repository` "" is the registry itself (/v2/, the catalog)."""

    repository: str
    action: str  # pull, push, delete; "" for /v2/; "*" for the catalog

    @property
    def scope(self) -> str:
        if not self.repository:
            return "registry:catalog:*" if self.action else ""
        return f"repository:{self.repository}:{'pull,push' if self.action == 'push' else self.action}"


class Identity(Protocol):
    """Who asked."""

    @property
    def name(self) -> str: ...

    def may(self, repository: str, action: str) -> bool: ...


class Guard(Protocol):
    """Finds out who asks; refuses what they may not."""

    async def admit(self, header: str, need: Need) -> Identity: ...


class Everyone:
    """No auth is configured: everybody may everything."""

    name = ANONYMOUS

    def may(self, repository: str, action: str) -> bool:
        return True


class OpenGuard:
    async def admit(self, header: str, need: Need) -> Identity:
        return Everyone()


class User:
    """A name, and the rules that speak of it."""

    def __init__(self, name: str, auth: Auth) -> None:
        self.name = name
        self._auth = auth

    def may(self, repository: str, action: str) -> bool:
        if action == "pull" and self._auth.anonymous_pull:
            return True
        if self._auth.rules is None:
            return self.name != ANONYMOUS
        return any(self._allows(rule, repository, action) for rule in self._auth.rules)

    def _allows(self, rule: Rule, repository: str, action: str) -> bool:
        who = ("anonymous",) if self.name == ANONYMOUS else (self.name, "*")
        return (
            any(each in rule.users for each in who)
            and (action in rule.actions or "*" in rule.actions)
            and fnmatch.fnmatchcase(repository, rule.repository)
        )


class PasswordGuard:
    """Basic auth against an htpasswd file, which is read again when it changes."""

    def __init__(self, auth: Auth, settings: Htpasswd) -> None:
        try:
            import bcrypt
        except ImportError:
            raise InvalidArgument("auth.htpasswd needs the extra registry: pip install 'dockyard[registry]'") from None
        self._bcrypt = bcrypt
        self._auth = auth
        self._settings = settings
        self._path = Path(settings.path)
        self._stamp: tuple[int, int, int] = (0, 0, 0)
        self._users: dict[str, bytes] = {}
        self._nobody = bcrypt.hashpw(secrets.token_bytes(16), bcrypt.gensalt(10))
        self._right: OrderedDict[bytes, float] = OrderedDict()
        self._secret = secrets.token_bytes(32)
        self._load()

    async def admit(self, header: str, need: Need) -> Identity:
        name, password = _basic(header)
        if name and not await self._is_right(name, password):
            raise self._challenge("invalid credentials")
        user = User(name, self._auth)
        if not need.repository and need.action in ("", "*"):
            if not name:
                raise self._challenge()
            return user
        if user.may(need.repository, need.action):
            return user
        if not name:
            raise self._challenge()
        raise RegistryError("DENIED", detail=[{"Type": "repository", "Name": need.repository, "Action": need.action}])

    def _challenge(self, detail: str | None = None) -> RegistryError:
        realm = self._settings.realm.replace("\\", "").replace('"', "")
        return RegistryError("UNAUTHORIZED", detail=detail, headers={"WWW-Authenticate": f'Basic realm="{realm}"'})

    async def _is_right(self, name: str, password: str) -> bool:
        self._load()
        stored = self._users.get(name, self._nobody)
        mark = hmac.digest(self._secret, b"\0".join((name.encode(), password.encode(), stored)), "sha256")
        if time.monotonic() - self._right.get(mark, -_REMEMBER) < _REMEMBER:
            return True
        # bcrypt reads 72 bytes, and its library refuses more
        right = await asyncio.to_thread(self._bcrypt.checkpw, password.encode()[:72], stored)
        if right and name in self._users:
            self._right[mark] = time.monotonic()
            while len(self._right) > _REMEMBERED:
                self._right.popitem(last=False)
            return True
        return False

    def _load(self) -> None:
        try:
            found = os.stat(self._path)
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == self._stamp:
                return
            text = self._path.read_text()
        except OSError as error:
            raise InvalidArgument(f"{self._path}: {error.strerror}") from None
        users = {}
        for number, line in enumerate(text.splitlines(), 1):
            name, colon, hashed = line.strip().partition(":")
            if not line.strip() or line.startswith("#"):
                continue
            if not colon or not hashed.startswith(("$2a$", "$2b$", "$2y$")):
                raise InvalidArgument(f"{self._path}:{number}: not a bcrypt entry (htpasswd -B makes them)")
            users[name] = hashed.encode()
        self._users, self._stamp = users, stamp


class TokenGuard:
    """Bearer tokens of an external authorization server."""

    def __init__(self, auth: Auth, settings: Token) -> None:
        try:
            import jwt
        except ImportError:
            raise InvalidArgument("auth.token needs the extra registry: pip install 'dockyard[registry]'") from None
        self._jwt = jwt
        self._auth = auth
        self._settings = settings
        self._keys = _load_keys(settings)

    async def admit(self, header: str, need: Need) -> Identity:
        kind, _, token = header.partition(" ")
        if kind.lower() != "bearer":
            visitor = User(ANONYMOUS, self._auth)
            if need.repository and visitor.may(need.repository, need.action):
                return visitor
            raise self._challenge(need)
        bearer = Bearer(await asyncio.to_thread(self._claims, token.strip(), need), self._auth)
        if not need.repository and not need.action:
            return bearer
        if not bearer.may(need.repository or "catalog", need.action):
            raise self._challenge(need, "insufficient_scope")
        return bearer

    def _claims(self, token: str, need: Need) -> dict[str, Any]:
        jwt = self._jwt
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise self._challenge(need, "invalid_token") from None
        for key in self._keys.get(header.get("kid", ""), self._keys[""]):
            try:
                claims: dict[str, Any] = jwt.decode(
                    token,
                    key,
                    algorithms=list(_ALGORITHMS),
                    audience=self._settings.service,
                    issuer=self._settings.issuer,
                    leeway=_LEEWAY,
                    options={"require": ["exp", "iss", "aud"]},
                )
                return claims
            except (jwt.PyJWTError, TypeError, ValueError, AttributeError):
                continue  # another key, or another kind of key
        raise self._challenge(need, "invalid_token")

    def _challenge(self, need: Need, error: str = "") -> RegistryError:
        parts = [f'realm="{self._settings.realm}"', f'service="{self._settings.service}"']
        parts += [f'scope="{need.scope}"'] if need.scope else []
        parts += [f'error="{error}"'] if error else []
        return RegistryError("UNAUTHORIZED", headers={"WWW-Authenticate": f"Bearer {','.join(parts)}"})


class Bearer:
    """What a token grants; rules, where there are any, narrow it."""

    def __init__(self, claims: dict[str, Any], auth: Auth) -> None:
        self.name = str(claims.get("sub") or ANONYMOUS)
        self._auth = auth
        access = claims.get("access")
        self._access = [each for each in access if isinstance(each, dict)] if isinstance(access, list) else []

    def may(self, repository: str, action: str) -> bool:
        if action == "pull" and self._auth.anonymous_pull:
            return True
        kind = "registry" if repository == "catalog" and action == "*" else "repository"
        granted = any(
            each.get("type") == kind
            and each.get("name") == repository
            and isinstance(each.get("actions"), list)
            and (action in each["actions"] or "*" in each["actions"])
            for each in self._access
        )
        if not granted or self._auth.rules is None or kind == "registry":
            return granted
        return User(self.name, self._auth).may(repository, action)


def make_guard(auth: Auth) -> Guard:
    """The guard that the configuration asks for. InvalidArgument."""
    if auth.htpasswd is not None:
        return PasswordGuard(auth, auth.htpasswd)
    if auth.token is not None:
        return TokenGuard(auth, auth.token)
    return OpenGuard()


def _basic(header: str) -> tuple[str, str]:
    """(name, password); two empty ones when no credentials are given."""
    kind, _, value = header.partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        name, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return "", ""
    return name, password


def _load_keys(settings: Token) -> dict[str, list[Any]]:
    """Key id → keys; under "" all of them. InvalidArgument."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from jwt import PyJWKSet

    keys: dict[str, list[Any]] = {"": []}
    try:
        for name in settings.keys:
            raw = Path(name).read_bytes()
            if b"BEGIN CERTIFICATE" in raw:
                key: Any = x509.load_pem_x509_certificate(raw).public_key()
            else:
                key = serialization.load_pem_public_key(raw)
            keys[""].append(key)
            keys.setdefault(_libtrust_id(key), []).append(key)
        if settings.jwks:
            for each in PyJWKSet.from_dict(msgspec.json.decode(Path(settings.jwks).read_bytes())).keys:
                keys[""].append(each.key)
                keys.setdefault(each.key_id or "", []).append(each.key)
    except Exception as error:  # libraries' own kinds
        raise InvalidArgument(f"auth.token: {error}") from None
    return keys


def _libtrust_id(key: Any) -> str:
    """The key id that Docker's token servers write: 240 bits of the DER's SHA-256 in base32, in groups of four."""
    from cryptography.hazmat.primitives import serialization

    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(text[index : index + 4] for index in range(0, len(text), 4))
