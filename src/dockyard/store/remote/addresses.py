"""Web addresses that somebody else has named: a client, a registry's redirect, a token realm.

Owns: `absolute`, which gives an address that the client can be sent to, or says that it is none. Does not own: whether
one may go there (`session`, `authorization`, `transport`).
"""

from __future__ import annotations

from urllib.parse import SplitResult, urljoin, urlsplit

_MAX = 16 << 10  # characters


def absolute(text: str, base: str = "") -> str | None:
    """`text` as it is seen from the page `base`, if that is an http or https address of a host; None otherwise."""
    try:
        address = urljoin(base, text)
        return address if len(address) <= _MAX and _is_complete(urlsplit(address)) else None
    except ValueError:  # a port out of range, half of an IPv6 address, …
        return None


def _is_complete(parts: SplitResult) -> bool:
    return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
