"""One file from the web: what ADD of a URL and remote build contexts fetch.

Owns: following redirects (ten, never from https to http, never to an address of this host or its links unless the user
named one), the limit on size, the digest. Does not own: connections, proxies and certificates (`transport`), what the
file is for.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from dockyard.model.errors import NO_SPACE, Forbidden, InvalidArgument, NotFound, SystemFailure
from dockyard.proto.buildcontext import public
from dockyard.proto.registries import address_of, is_local
from dockyard.store.bytestream import write_all
from dockyard.store.remote.addresses import absolute
from dockyard.store.remote.transport import Transport

_REDIRECTS: Final = 10
_REDIRECTED: Final = frozenset({301, 302, 303, 307, 308})
_CHUNK: Final = 1 << 20


class Download(NamedTuple):
    """`unchanged`: the server says that what `headers` describe is still right; nothing was written then."""

    unchanged: bool
    size: int = 0
    digest: str = ""  # "sha256:…"
    etag: str = ""
    modified: int = 0  # ns since the epoch, 0: not told


async def download(
    transport: Transport,
    url: str,
    fd: int,
    *,
    limit: int,
    headers: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda current, total: None,
) -> Download:
    """Write what is at `url` to `fd`. `limit`: bytes. NotFound, InvalidArgument, Forbidden, or SystemFailure naming the
    URL (without what it has of passwords)."""
    if absolute(url) is None:
        raise InvalidArgument(f"invalid address {public(url)[:200]!r}")
    shown, at = _shown(url), url
    may_be_local = _is_local_host(url)
    for _ in range(_REDIRECTS + 1):
        async with transport.exchange(
            "GET", at, dict(headers or {}), guarded=at != url and not may_be_local
        ) as response:
            status = response.status
            if status in _REDIRECTED:
                at = _next(at, response.headers.get("Location", ""), shown)
                continue
            if status == 304:
                return Download(True)
            if status in (404, 410):
                raise NotFound(f"{shown}: invalid response status {status}")
            if not 200 <= status < 300:
                raise InvalidArgument(f"{shown}: invalid response status {status}")
            total = response.content_length or 0
            if total > limit:
                raise SystemFailure(f"{shown}: {NO_SPACE}: {total} bytes are more than there is room for ({limit})")
            hasher, size, write = hashlib.sha256(), 0, write_all(fd)
            async for chunk in response.content.iter_chunked(_CHUNK):
                size += len(chunk)
                if size > limit:
                    raise SystemFailure(f"{shown}: {NO_SPACE}: more than {limit} bytes")
                hasher.update(chunk)
                try:
                    write(memoryview(chunk))
                except OSError as error:
                    raise SystemFailure(f"{shown}: {error.strerror}") from error
                progress(size, total)
            modified = _moment(response.headers.get("Last-Modified", ""))
            return Download(
                False, size, f"sha256:{hasher.hexdigest()}", response.headers.get("ETag", ""), modified
            )  # fmt: skip
    raise InvalidArgument(f"{shown}: stopped after {_REDIRECTS} redirects")


def free_bytes(path: str, reserve: int = 64 << 20) -> int:
    """What a download may take of the file system of `path`."""
    state = os.statvfs(path)
    return max(state.f_bavail * state.f_frsize - reserve, 0)


def _next(at: str, location: str, shown: str) -> str:
    target = absolute(location, at)
    if target is None:
        raise InvalidArgument(f"{shown}: redirected to {location[:200]!r}, which is no web address")
    if at.startswith("https:") and not target.startswith("https:"):
        raise Forbidden(f"{shown}: refused: redirected from https to http")
    return target


def _is_local_host(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    address = address_of(f"[{host}]" if ":" in host else host)
    return host == "localhost" or (address is not None and is_local(address))


def _shown(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _moment(text: str) -> int:
    try:
        return int(email.utils.parsedate_to_datetime(text).timestamp()) * 1_000_000_000 if text else 0
    except (ValueError, TypeError, OverflowError):
        return 0
