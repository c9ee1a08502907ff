"""The registry's configuration file (JSON or YAML) as one value.

Owns: names, types, defaults and complaints. docs/registry.md describes each setting. Does not own: what they do.
"""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from dockyard.model.errors import InvalidArgument


class Filesystem(Struct, forbid_unknown_fields=True):
    root: str


class S3(Struct, forbid_unknown_fields=True):
    """`options`: whatever else obstore's S3 store takes. Keys may come from the environment, as AWS's tools have it."""

    bucket: str
    prefix: str = ""
    region: str = "us-east-1"
    endpoint: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    options: dict[str, str] = {}


class Storage(Struct, forbid_unknown_fields=True):
    filesystem: Filesystem | None = None
    s3: S3 | None = None


class Tls(Struct, forbid_unknown_fields=True):
    certificate: str
    key: str
    client_ca: str = ""


class Htpasswd(Struct, forbid_unknown_fields=True):
    path: str
    realm: str = "Registry"


class Token(Struct, forbid_unknown_fields=True):
    """`keys`: PEM files of public keys or certificates; `jwks`: a file with a JSON Web Key Set."""

    realm: str
    service: str
    issuer: str
    keys: list[str] = []
    jwks: str = ""


class Rule(Struct, forbid_unknown_fields=True):
    """`users`: names, `*` for everyone who is known, `anonymous`; `actions`: pull, push, delete, `*`."""

    repository: str
    users: list[str]
    actions: list[str]


class Auth(Struct, forbid_unknown_fields=True):
    htpasswd: Htpasswd | None = None
    token: Token | None = None
    anonymous_pull: bool = False
    rules: list[Rule] | None = None


class Quota(Struct, forbid_unknown_fields=True):
    repository: str
    bytes: int


class Endpoint(Struct, forbid_unknown_fields=True):
    """A webhook. `backoff`: seconds before the first retry, doubled up to a minute."""

    name: str
    url: str
    headers: dict[str, str] = {}
    actions: list[str] = field(default_factory=lambda: ["push", "pull", "delete", "mount"])
    timeout: float = 5.0
    attempts: int = 20
    backoff: float = 1.0
    queue: int = 10_000


class Proxy(Struct, forbid_unknown_fields=True):
    """`realms`: hosts besides the registry's own domain that may see its credentials; `fresh`: seconds for which a tag
    is served without asking upstream."""

    url: str
    username: str = ""
    password: str = ""
    realms: list[str] = []
    ca: str = ""
    fresh: float = 0.0


class Collection(Struct, forbid_unknown_fields=True):
    """Seconds. `interval` 0: only `dockyard registry gc` collects."""

    interval: float = 3600.0
    grace: float = 3600.0
    settle: float = 60.0
    upload_age: float = 24 * 3600.0
    cache_age: float = 7 * 24 * 3600.0
    untagged: bool = False


class Configuration(Struct, forbid_unknown_fields=True):
    storage: Storage
    listen: list[str] = field(default_factory=lambda: ["127.0.0.1:5000"])
    tls: Tls | None = None
    auth: Auth = field(default_factory=Auth)
    read_only: bool = False
    quotas: list[Quota] = []
    max_blob: int = 0
    notifications: list[Endpoint] = []
    proxy: Proxy | None = None
    collection: Collection = field(default_factory=Collection)
    metrics: bool = True
    log_level: str = "info"

    def quota(self, repository: str) -> int | None:
        """The first that matches."""
        for each in self.quotas:
            if fnmatch.fnmatchcase(repository, each.repository):
                return each.bytes
        return None


def load(path: Path | None, overrides: dict[str, Any]) -> Configuration:
    """Reads a file and lays the command line's settings over it. InvalidArgument names file and setting."""
    document: dict[str, Any] = _read(path) if path else {}
    for key, value in overrides.items():
        if value not in (None, [], "", False):
            document[key] = value
    try:
        found = msgspec.convert(document, Configuration)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{path or 'configuration'}: {error}") from None
    _check(found)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        if path.suffix in (".yaml", ".yml"):
            try:
                import yaml  # type: ignore[import-untyped, unused-ignore]
            except ImportError:
                raise InvalidArgument(f"{path}: YAML needs the extra registry; write it as JSON") from None
            try:
                found = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise InvalidArgument(f"{path}: {error}") from None
        else:
            found = msgspec.json.decode(text)
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise InvalidArgument(f"{path}: not an object")
    return found


def _check(found: Configuration) -> None:
    if (found.storage.filesystem is None) == (found.storage.s3 is None):
        raise InvalidArgument("storage: one of filesystem and s3 is needed")
    if found.auth.htpasswd and found.auth.token:
        raise InvalidArgument("auth: htpasswd or token, not both")
    if found.auth.token and not (found.auth.token.keys or found.auth.token.jwks):
        raise InvalidArgument("auth.token: keys or jwks is needed")
    for rule in found.auth.rules or ():
        if unknown := set(rule.actions) - {"pull", "push", "delete", "*"}:
            raise InvalidArgument(f"auth.rules: unknown action {sorted(unknown)[0]!r}")
    ages = found.collection
    if ages.settle <= 0 or ages.grace < ages.settle:
        raise InvalidArgument("collection: settle must be above 0, and grace at least as long")
    for address in found.listen:
        parse_address(address)


def parse_address(text: str) -> tuple[str, int]:
    """HOST:PORT, [IPv6]:PORT or :PORT. InvalidArgument."""
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"listen: {text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def s3_options(settings: S3) -> dict[str, str]:
    """What obstore is given."""
    named = {
        "region": settings.region,
        "endpoint": settings.endpoint,
        "access_key_id": settings.access_key_id or os.environ.get("AWS_ACCESS_KEY_ID", ""),
        "secret_access_key": settings.secret_access_key or os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
    }
    return {key: value for key, value in named.items() if value} | settings.options
