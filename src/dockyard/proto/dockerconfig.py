"""Credentials as Docker's clients send and keep them.

Owns: the headers X-Registry-Auth and X-Registry-Config, the names under which config.json keeps a registry's
credentials. Does not own: where they are sent (`store.remote.authorization`). Pure.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, NamedTuple

import msgspec

from dockyard.model import untrusted
from dockyard.model.errors import InvalidArgument
from dockyard.proto.references import DEFAULT_DOMAIN

_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_MAX = 1 << 16  # characters of a header


class Credentials(NamedTuple):
    """Who somebody is to one registry. `server`: the registry as the client wrote it, "" if it did not."""

    username: str = ""
    password: str = ""
    identity_token: str = ""  # an OAuth2 refresh token
    registry_token: str = ""  # a bearer token, used as it is
    server: str = ""

    @property
    def empty(self) -> bool:
        return not (self.username or self.password or self.identity_token or self.registry_token)

    def __repr__(self) -> str:  # never into a log or a traceback
        return f"Credentials({'…' if not self.empty else ''})"


def decode_auth(header: str) -> Credentials:
    """X-Registry-Auth: base64url of one JSON object. "" and "{}" are nobody; InvalidArgument for what is neither."""
    return credentials(_decode(header, "X-Registry-Auth"), "X-Registry-Auth")


def decode_config(header: str) -> dict[str, Credentials]:
    """X-Registry-Config: base64url of server → credentials, for a build that pulls from several registries."""
    document = _decode(header, "X-Registry-Config")
    return {
        server: credentials(entry, "X-Registry-Config")._replace(server=server)
        for server, entry in document.items()
        if isinstance(entry, dict)
    }


def credentials(document: dict[str, Any], what: str) -> Credentials:
    """One object of either header, of POST /auth or of config.json: user and password may hide in `auth`."""
    lowered = {key.lower(): value for key, value in document.items() if isinstance(value, str)}
    username, password = lowered.get("username", ""), lowered.get("password", "")
    if not username and not password and lowered.get("auth"):
        try:
            text = base64.b64decode(lowered["auth"]).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidArgument(f"{what}: auth is not base64") from None
        username, _, password = text.partition(":")
        password = password.rstrip("\0")
    return Credentials(
        username, password, lowered.get("identitytoken", ""), lowered.get("registrytoken", ""),
        lowered.get("serveraddress", ""),
    )  # fmt: skip


def registry_of(server: str) -> str:
    """A server's address as clients write it ("https://index.docker.io/v1/") → a reference's domain ("docker.io")."""
    host = server.partition("://")[2] or server
    host = host.partition("/")[0].lower()
    return DEFAULT_DOMAIN if host in _DOCKER_HUB else host


def _decode(header: str, what: str) -> dict[str, Any]:
    if not header.strip():
        return {}
    if len(header) > _MAX:
        raise InvalidArgument(f"{what}: longer than {_MAX} characters")
    text = header.strip().replace("+", "-").replace("/", "_").rstrip("=")
    try:
        document = untrusted.decode(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        raise InvalidArgument(f"{what}: not base64url of JSON") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidArgument(f"{what}: not an object")
    return document
