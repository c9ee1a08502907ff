"""One repository of a registry: manifests, tags, blobs out and in.

Owns: the distribution API's requests and what makes their answers acceptable: digests (S31), media types (S32), sizes.
Does not own: authorization and redirects (`session`), where blobs go (`layers`, `engine.transfers`).

Source: OCI distribution-spec 1.1.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from dockyard.model import oci, untrusted
from dockyard.model.errors import DockyardError, InvalidArgument, NotFound
from dockyard.model.oci import Descriptor, Manifest
from dockyard.store.remote.addresses import absolute
from dockyard.store.remote.authorization import read_limited
from dockyard.store.remote.errors import Temporary
from dockyard.store.remote.session import Body, Session, pause

ACCEPT = ", ".join([oci.OCI_INDEX, oci.OCI_MANIFEST, oci.DOCKER_INDEX, oci.DOCKER_MANIFEST])
_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1"
_MAX_TAGS = 100_000
_PROGRESS = 1 << 20  # bytes after which a download counts as going on: its tries begin anew
_MAX_PIECE = 32 << 20  # bytes that a registry may want at least in a piece of an upload
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)\Z")
_HAVE = re.compile(r"(?:bytes=)?0-(\d+)\Z")
Waiting = Callable[[float], None]  # told how many seconds the next try is away


class Fetched(NamedTuple):
    """A manifest as it came. `digest` is that of `data`, and the one that was asked for if one was."""

    data: bytes
    media_type: str
    digest: str
    manifest: Manifest


class Begun(NamedTuple):
    """An upload. `least`: bytes that each of its pieces but the last must have."""

    location: str
    least: int = 0


class Repository:
    """`name`: as the registry calls it, "library/busybox"."""

    def __init__(self, session: Session, name: str, *, push: bool = False) -> None:
        prefix = session.place.prefix
        self.session = session
        self.name = f"{prefix}/{name}" if prefix else name
        namespace = session.place.namespace  # one mirror may stand for several registries, as containerd asks it
        self._namespace = f"?ns={quote(namespace, safe='')}" if namespace else ""
        self._scopes = [f"repository:{self.name}:{'pull,push' if push else 'pull'}"]

    # --- manifests -------------------------------------------------------------------------------------------------

    async def manifest(self, reference: str, what: str) -> Fetched:
        """By tag or digest. NotFound "manifest unknown…"; InvalidArgument naming `what` for one that lies."""
        url = self._url("manifests", reference) + self._namespace
        headers = {"Accept": ACCEPT}
        async with self.session.request("GET", url, self._scopes, what, headers=headers) as response:
            data = await read_limited(response, oci.MAX_DOCUMENT, what)
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            told = response.headers.get("Docker-Content-Digest", "")
        digest = oci.sha256(data)
        wanted = reference if ":" in reference else told
        if wanted and wanted.startswith("sha256:") and wanted != digest:
            raise InvalidArgument(f"{what}: manifest verification failed: its digest is {digest}, not {wanted[:80]}")
        return Fetched(data, media_type, digest, check_manifest(data, media_type, what))

    async def put_manifest(self, reference: str, data: bytes, media_type: str, what: str) -> str:
        """Store a manifest under a tag or its digest; returns the digest."""
        url = self._url("manifests", reference)
        headers = {"Content-Type": media_type}
        async with self.session.request("PUT", url, self._scopes, what, headers=headers, body=lambda: data):
            pass
        return oci.sha256(data)

    async def tags(self, what: str) -> list[str]:
        """All tags, page by page."""
        url: str | None = self._url("tags", "list")
        found: list[str] = []
        while url is not None:
            async with self.session.request("GET", url, self._scopes, what) as response:
                data = await read_limited(response, oci.MAX_DOCUMENT, what)
                link = response.headers.get("Link", "")
            try:
                page = untrusted.decode(data, dict[str, Any]).get("tags") or []
            except msgspec.MsgspecError:
                raise InvalidArgument(f"{what}: not a list of tags") from None
            found += [tag for tag in page if isinstance(tag, str)]
            following = re.match(r'\s*<([^>]+)>\s*;\s*rel="?next"?', link)
            url = self._page(following[1]) if following and page and len(found) < _MAX_TAGS else None
        return found

    def _page(self, link: str) -> str:
        address = absolute(link, "http://registry/")
        if address is None:
            raise InvalidArgument(f"its list of tags goes on at an invalid address {link[:200]!r}")
        parts = urlsplit(address)  # of this registry, whatever host it names
        return parts.path + (f"?{parts.query}" if parts.query else "")

    # --- blobs out -------------------------------------------------------------------------------------------------

    async def small_blob(self, descriptor: Descriptor, what: str) -> bytes:
        """A configuration, verified."""
        if descriptor.size > oci.MAX_DOCUMENT:
            raise InvalidArgument(f"{what}: larger than {oci.MAX_DOCUMENT} bytes")
        parts: list[bytes] = []
        async with aclosing(self.blob(descriptor, 0, what)) as chunks:
            async for chunk in chunks:
                parts.append(chunk)
        data = b"".join(parts)
        if oci.sha256(data) != descriptor.digest:
            raise InvalidArgument(f"{what}: its digest is {oci.sha256(data)}, not {descriptor.digest}")
        return data

    async def blob(
        self, descriptor: Descriptor, start: int, what: str, waiting: Waiting | None = None, tries: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob from `start`, exactly as many as its descriptor says, not yet verified.

        A broken connection is gone on with where it broke. Temporary when that does not help; InvalidArgument for a
        registry that has another number of bytes.
        """
        limits = self.session.limits
        allowed = limits.downloads or limits.tries
        tries = min(tries or allowed, allowed)
        at = mark = start
        attempt = 0
        while True:
            try:
                async with aclosing(self._blob(descriptor, at, what)) as chunks:
                    async for chunk in chunks:
                        at += len(chunk)
                        if at > descriptor.size:
                            raise InvalidArgument(f"{what}: the registry sends more than its {descriptor.size} bytes")
                        yield chunk
                if at == descriptor.size:
                    return
                raise Temporary(f"{what}: the registry sent {at} of {descriptor.size} bytes (unexpected EOF)")
            except Temporary as error:
                if at - mark >= _PROGRESS:
                    attempt, mark = 0, at
                delay = pause(error, attempt, tries, limits.delay)
                if delay is None:
                    raise type(error)(f"{what}: {error}" if what not in str(error) else str(error)) from None
                attempt += 1
            if waiting is not None:
                waiting(delay)
            await asyncio.sleep(delay)

    async def _blob(self, descriptor: Descriptor, start: int, what: str) -> AsyncGenerator[bytes, None]:
        """One try: the blob's bytes from `start`."""
        if start >= descriptor.size > 0:
            return
        async with aclosing(self._sources(descriptor)) as urls:
            async for url in urls:
                try:
                    async with aclosing(self._read(url, descriptor.size, start, what)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                    return
                except NotFound:
                    if url == (descriptor.urls or [url])[-1]:
                        raise

    async def _sources(self, descriptor: Descriptor) -> AsyncGenerator[str, None]:
        """The registry itself; then, for foreign layers, where their descriptor leads to (by TLS, as a stranger)."""
        yield self._url("blobs", oci.check_digest(descriptor.digest)) + self._namespace
        for url in descriptor.urls or ():
            if url.startswith("https://"):
                yield url

    async def _read(self, url: str, size: int, start: int, what: str) -> AsyncGenerator[bytes, None]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self.session.request("GET", url, self._scopes, what, headers=headers) as response:
            skip, length = start, response.content_length
            if response.status == 206:
                found = _RANGE.match(response.headers.get("Content-Range", ""))
                if not found or int(found[1]) != start:
                    raise InvalidArgument(f"{what}: the registry answers with another part than was asked for")
                skip, length = 0, None if length is None else length + start
            if length is not None and length != size:
                raise InvalidArgument(f"{what}: the registry has {length} bytes, its manifest says {size}")
            async for chunk in response.content.iter_any():
                if skip:
                    dropped = min(skip, len(chunk))
                    skip, chunk = skip - dropped, chunk[dropped:]
                if chunk:
                    yield chunk

    # --- blobs in --------------------------------------------------------------------------------------------------

    async def has_blob(self, digest: str, what: str) -> int | None:
        """Its size, None: not there."""
        url = self._url("blobs", oci.check_digest(digest))
        async with self.session.request("HEAD", url, self._scopes, what, allow=(404,)) as response:
            return None if response.status == 404 else response.content_length or 0

    async def mount(self, digest: str, source: str, what: str) -> Begun | None:
        """Let a blob of the repository `source` be in this one too. None: done; else an upload has begun."""
        query = f"?mount={quote(oci.check_digest(digest))}&from={quote(source, safe='')}"
        return await self._begin(query, [*self._scopes, f"repository:{source}:pull"], what)

    async def begin(self, what: str) -> Begun:
        """Begin an upload."""
        begun = await self._begin("", self._scopes, what)
        if begun is None:
            raise InvalidArgument(f"{what}: the registry began no upload")
        return begun

    async def _begin(self, query: str, scopes: Sequence[str], what: str) -> Begun | None:
        url = self._url("blobs", "uploads/") + query
        async with self.session.request("POST", url, scopes, what) as response:
            if response.status == 201:
                return None
            least = response.headers.get("OCI-Chunk-Min-Length", "")
            return Begun(self._location(response, what), min(int(least), _MAX_PIECE) if least.isdecimal() else 0)

    async def position(self, location: str, what: str) -> tuple[str, int] | None:
        """(address to go on at, bytes that the registry has) of an upload. None: it does not say, or has none.

        Range "0-0" is what registries say of no byte and of one alike.
        """
        async with self.session.request("GET", location, self._scopes, what) as response:
            found = _HAVE.match(response.headers.get("Range", ""))
            if not found or found[1] == "0":
                return None
            return str(response.headers.get("Location", "")) or location, int(found[1]) + 1

    async def stream(self, location: str, body: Body, what: str) -> str:
        """Send bytes of which nobody knows yet how many they are; returns the address to finish at."""
        headers = {"Content-Type": "application/octet-stream"}
        async with self.session.request("PATCH", location, self._scopes, what, headers=headers, body=body) as response:
            return self._location(response, what)

    async def append(self, location: str, body: Body, start: int, length: int, what: str) -> str:
        """Send the bytes from `start` on, not the last; returns the address to go on at."""
        headers = _part(start, length)
        async with self.session.request("PATCH", location, self._scopes, what, headers=headers, body=body) as response:
            return self._location(response, what)

    async def put_blob(self, location: str, body: Body, start: int, size: int, digest: str, what: str) -> None:
        """Send a blob whose digest is known, or what is left of it from `start`, and end the upload."""
        headers = _part(start, size - start)
        if not start:
            del headers["Content-Range"]  # all of it: distribution-spec, "POST then PUT"
        url = _with_digest(location, digest)
        async with self.session.request("PUT", url, self._scopes, what, headers=headers, body=body):
            pass

    async def finish(self, location: str, digest: str, what: str) -> None:
        """End an upload: the registry verifies the digest."""
        url = _with_digest(location, digest)
        async with self.session.request("PUT", url, self._scopes, what, headers={"Content-Length": "0"}):
            pass

    async def cancel(self, location: str, what: str) -> None:
        """Give an upload up. A registry that will not hear of it sweeps it by itself."""
        try:
            async with self.session.request("DELETE", location, self._scopes, what, allow=(404, 405)):
                pass
        except DockyardError:
            pass

    def _location(self, response: Any, what: str) -> str:
        location = str(response.headers.get("Location", ""))
        if not location:
            raise InvalidArgument(f"{what}: the registry names no address for the upload")
        return location

    def _url(self, kind: str, last: str) -> str:
        return f"{self.session.place.root}/{self.name}/{kind}/{last}"


def _part(start: int, length: int) -> dict[str, str]:
    return {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(length),
        "Content-Range": f"{start}-{max(start + length - 1, start)}",
    }


def _with_digest(location: str, digest: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={quote(digest)}"


def check_manifest(data: bytes, media_type: str, what: str) -> Manifest:
    """A manifest or index that is what its Content-Type says (S32). InvalidArgument naming `what` and the cause."""
    if media_type.startswith(_SCHEMA1):
        raise InvalidArgument(f"{what}: Docker image format v1 (manifest schema 1) is no longer supported")
    if media_type not in oci.MANIFESTS | oci.INDEXES:
        raise InvalidArgument(f"{what}: unsupported manifest media type {media_type[:100]!r}")
    manifest = oci.parse_manifest(data, what)
    if manifest.media_type and manifest.media_type != media_type:
        raise InvalidArgument(
            f"{what}: manifest media type {manifest.media_type[:100]!r} does not match its Content-Type {media_type!r}"
        )
    if (media_type in oci.INDEXES) != (manifest.manifests is not None):
        raise InvalidArgument(f"{what}: it is not of the type that its Content-Type {media_type!r} says")
    return manifest
