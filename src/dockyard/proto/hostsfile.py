"""hosts.toml: the hosts that stand for a registry, as containerd writes them down.

Owns: the text's meaning as `Place`s. Does not own: where the file lies and reading it (`store.remote.hostsfiles`).

    server = "https://registry.example"            # the registry itself, if it is not at its name
    [host."https://mirror.example:5000"]           # asked before it, in the order of the file
      capabilities = ["pull", "resolve"]           # without "resolve": by digest only
      ca = "ca.pem"                                # or a list; relative to the file's directory
      client = [["client.cert", "client.key"]]     # or one file with both
      skip_verify = false
      override_path = false                        # true: the URL's path is the API's root, and no /v2 is added
      [host."https://mirror.example:5000".header]
        x-token = "text"                           # or a list

Source: containerd's docs/hosts.md. What is different here: a push goes to the server alone, and no host but the server
gets the user's credentials.
"""

from __future__ import annotations

import tomllib
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from dockyard.model.errors import InvalidArgument
from dockyard.proto.registries import HOST_GRAMMAR, Place, TLSFiles

_CAPABILITIES = frozenset({"pull", "resolve", "push"})
_HOST_KEYS = frozenset({"capabilities", "ca", "client", "skip_verify", "override_path", "header", "dial_timeout"})


class Hosts(NamedTuple):
    """`server`: None if it is the registry under its own name."""

    server: Place | None
    mirrors: list[Place]


NONE = Hosts(None, [])


def parse(text: str, domain: str, where: str) -> Hosts:
    """What the file `where` says of the registry `domain`. InvalidArgument naming file and key."""
    try:
        document = tomllib.loads(text)
        if unknown := sorted(set(document) - _HOST_KEYS - {"server", "host"}):
            raise _Wrong(f"unknown key {unknown[0]!r}")
        server = None
        own = {key: entry for key, entry in document.items() if key not in ("server", "host")}
        if "server" in document or own:
            server = _place(str(document.get("server", domain)), own, domain, mirror=False)
        hosts = document.get("host", {})
        if not isinstance(hosts, dict):
            raise _Wrong("host is no table")
        return Hosts(server, [place for url, entry in hosts.items() if (place := _mirror(url, entry, domain))])
    except (tomllib.TOMLDecodeError, _Wrong) as error:
        raise InvalidArgument(f"{where}: {error}") from None


class _Wrong(ValueError):
    pass


def _mirror(url: str, entry: Any, domain: str) -> Place | None:
    """None: a host that nothing is pulled from."""
    if not isinstance(entry, dict):
        raise _Wrong(f"host {url!r} is no table")
    if unknown := sorted(set(entry) - _HOST_KEYS):
        raise _Wrong(f"host {url!r}: unknown key {unknown[0]!r}")
    place = _place(url, entry, domain, mirror=True)
    capabilities = _texts(entry.get("capabilities", sorted(_CAPABILITIES)), "capabilities")
    if wrong := sorted(set(capabilities) - _CAPABILITIES):
        raise _Wrong(f"host {url!r}: unknown capability {wrong[0]!r}")
    return place._replace(resolve="resolve" in capabilities) if "pull" in capabilities else None


def _place(url: str, entry: dict[str, Any], domain: str, *, mirror: bool) -> Place:
    if "://" not in url:
        url = f"{'http' if url.partition(':')[0] == 'localhost' else 'https'}://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not HOST_GRAMMAR.match(parts.netloc):
        raise _Wrong(f"{url!r} is not http(s)://HOST[/PATH]")
    if parts.query or parts.fragment:
        raise _Wrong(f"{url!r} has a query or a fragment")
    path = parts.path.rstrip("/")
    if not _truth(entry, "override_path") and not path.endswith("/v2"):
        path += "/v2"
    host = parts.netloc.lower()
    files = TLSFiles(_ca(entry.get("ca", [])), _clients(entry.get("client", [])), _truth(entry, "skip_verify"))
    return Place(
        host, (parts.scheme,), mirror=mirror, root=path, namespace=domain if mirror and host != domain else "",
        headers=_headers(entry.get("header", {})), tls=files,
    )  # fmt: skip


def _truth(entry: dict[str, Any], key: str) -> bool:
    found = entry.get(key, False)
    if not isinstance(found, bool):
        raise _Wrong(f"{key} is neither true nor false")
    return found


def _texts(found: Any, key: str) -> list[str]:
    if isinstance(found, str):
        return [found]
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise _Wrong(f"{key} is no list of texts")
    return found


def _ca(found: Any) -> tuple[str, ...]:
    return tuple(_texts(found, "ca"))


def _clients(found: Any) -> tuple[tuple[str, str], ...]:
    """One file, a list of files, or a list of [certificate, key]."""
    entries = [found] if isinstance(found, str) else found
    if not isinstance(entries, list):
        raise _Wrong("client is no list")
    pairs = []
    for entry in entries:
        names = _texts(entry, "client")
        if len(names) not in (1, 2) or not names[0]:
            raise _Wrong("client is no certificate with its key")
        pairs.append((names[0], names[1] if len(names) == 2 else ""))
    return tuple(pairs)


def _headers(found: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(found, dict):
        raise _Wrong("header is no table")
    pairs = [(name, text) for name, texts in found.items() for text in _texts(texts, "header")]
    if any(not part.isprintable() for pair in pairs for part in pair):
        raise _Wrong("a header with characters that cannot be sent")
    return tuple(pairs)
