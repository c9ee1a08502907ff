"""The pull-through cache.

Owns: what is asked upstream and what is kept of the answers. A tag is asked for each time (a HEAD) unless it was a
moment ago; if upstream cannot be reached, what is kept is served. Digests are content: asked for once. Requests for the
same blob share one transfer, which goes on when they go away, and get its bytes while it is fetched (`arriving`). Does
not own: the wire (`upstream`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from typing import Any

import aiohttp

from dockyard.registry import names
from dockyard.registry.arriving import Arriving, Listener
from dockyard.registry.backend import Backend
from dockyard.registry.blobs import Blobs
from dockyard.registry.errors import RegistryError
from dockyard.registry.manifests import Manifests, Stored
from dockyard.registry.uploads import Uploads
from dockyard.registry.upstream import Upstream

log = logging.getLogger("dockyard.registry")
_RENEW_AFTER = 24 * 3600.0  # seconds: how old the sign of a blob's last use may get
_FAILURES = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """502 for an upstream that cannot be reached."""
    try:
        yield
    except _FAILURES as error:
        raise RegistryError("UNAVAILABLE", f"upstream cannot be reached: {error}", status=502) from error


class Cache:
    """`fresh`: seconds for which a tag is not asked for again."""

    def __init__(
        self, upstream: Upstream, backend: Backend, blobs: Blobs, manifests: Manifests, uploads: Uploads, fresh: float
    ) -> None:
        self._upstream = upstream
        self._backend = backend
        self._blobs = blobs
        self._manifests = manifests
        self._uploads = uploads
        self._fresh = fresh
        self._asked: dict[tuple[str, str], float] = {}
        self._transfers: dict[tuple[str, str], asyncio.Task[Any]] = {}
        self._arriving: dict[tuple[str, str], Arriving] = {}

    async def close(self) -> None:
        for task in list(self._transfers.values()):
            task.cancel()
        await asyncio.gather(*self._transfers.values(), return_exceptions=True)
        await self._upstream.close()

    async def manifest(self, repository: str, reference: str) -> Stored:
        """MANIFEST_UNKNOWN; 502 when upstream fails and nothing is kept."""
        kept = await self._kept(repository, reference)
        if kept is not None and (":" in reference or await self._is_current(repository, reference, kept)):
            await self._renew(repository, reference, kept)
            return kept
        try:
            stored: Stored = await self._shared(("m", f"{repository}:{reference}"), self._fetch(repository, reference))
            return stored
        except (RegistryError, *_FAILURES) as error:
            failed = not isinstance(error, RegistryError) or error.status >= 429
            if kept is not None and failed:
                log.warning("upstream failed, %s:%s is served as it is kept: %s", repository, reference, error)
                return kept
            if isinstance(error, RegistryError):
                raise
            raise RegistryError("UNAVAILABLE", f"upstream cannot be reached: {error}", status=502) from error

    async def _kept(self, repository: str, reference: str) -> Stored | None:
        with contextlib.suppress(RegistryError):
            return await self._manifests.get(repository, reference)
        return None

    async def _renew(self, repository: str, reference: str, kept: Stored) -> None:
        """A manifest that is asked for stays."""
        entry = await self._backend.stat(names.manifest(repository, kept.digest))
        if entry is not None and time.time() - entry.modified > _RENEW_AFTER:
            await self._manifests.put(repository, reference, kept.content, kept.media_type)

    async def _is_current(self, repository: str, tag: str, kept: Stored) -> bool:
        if time.monotonic() - self._asked.get((repository, tag), -self._fresh) < self._fresh:
            return True
        try:
            found = await self._upstream.digest(repository, tag)
        except (RegistryError, *_FAILURES) as error:
            log.warning("upstream failed, %s:%s is served as it is kept: %s", repository, tag, error)
            return True
        if found == kept.digest:
            self._asked[(repository, tag)] = time.monotonic()
            return True
        return False

    async def _fetch(self, repository: str, reference: str) -> Stored:
        fetched = await self._upstream.manifest(repository, reference)
        if fetched is None:
            raise RegistryError("MANIFEST_UNKNOWN", detail={"name": repository, "reference": reference})
        digest = f"sha256:{hashlib.sha256(fetched.content).hexdigest()}"
        try:
            await self._manifests.put(repository, reference, fetched.content, fetched.media_type)
        except RegistryError as error:
            raise RegistryError(
                "UNAVAILABLE", f"upstream gives a bad manifest: {error}", error.detail, status=502
            ) from None
        self._asked[(repository, reference)] = time.monotonic()
        while len(self._asked) > 10_000:
            del self._asked[next(iter(self._asked))]
        stored = await self._manifests.read(repository, digest)
        assert stored is not None
        return stored

    async def blob(self, repository: str, digest: str) -> None:
        """Makes sure that the blob is here, in this repository. BLOB_UNKNOWN; 502."""
        if await self._held(repository, digest):
            return
        with _told():
            await asyncio.shield(self._fetching(repository, digest)[1])

    async def size(self, repository: str, digest: str) -> int:
        """A blob's, of what is here or else of upstream; nothing is fetched for it. BLOB_UNKNOWN; 502."""
        held = await self._blobs.look(repository, digest)
        if held is not None:
            await self._blobs.renew(repository, held, "c", _RENEW_AFTER)
            return held.size
        with _told():
            size = await self._upstream.size(repository, digest)
        if size is not None:
            return size
        await self.blob(repository, digest)
        return (await self._blobs.find(repository, digest)).size

    async def arriving(self, repository: str, digest: str) -> tuple[int, AsyncGenerator[bytes, None]] | None:
        """(size, bytes) of a blob that is only now being fetched; None: it is here. BLOB_UNKNOWN; 502.

        The bytes end early, with an error, if the blob turns out to be another."""
        if await self._held(repository, digest):
            return None
        arriving, done = self._fetching(repository, digest)
        listener = arriving.listen()  # at once: bytes may come together with the answer's head
        try:
            await arriving.started.wait()
        except asyncio.CancelledError:
            arriving.leave(listener)
            raise
        if listener is None or arriving.size is None:
            arriving.leave(listener)
            with _told():
                await asyncio.shield(done)
            return None
        return arriving.size, self._listened(repository, digest, arriving, listener, arriving.size, done)

    async def _listened(
        self,
        repository: str,
        digest: str,
        arriving: Arriving,
        listener: Listener,
        size: int,
        done: asyncio.Future[None],
    ) -> AsyncGenerator[bytes, None]:
        async def rest(start: int) -> AsyncIterator[bytes]:
            if start < size:
                fd, key = await self._blobs.open(await self._blobs.find(repository, digest))
                if fd is not None:
                    os.close(fd)
                async for data in self._blobs.stream(key, start, size - start):
                    yield data

        try:
            with _told():
                async for data in listener.chunks(size, done, rest):
                    yield data
        finally:
            arriving.leave(listener)

    async def _held(self, repository: str, digest: str) -> bool:
        held = await self._blobs.look(repository, digest)
        if held is not None:
            await self._blobs.renew(repository, held, "c", _RENEW_AFTER)
        return held is not None

    def _fetching(self, repository: str, digest: str) -> tuple[Arriving, asyncio.Task[Any]]:
        """The transfer of a blob, which begins now if it is not under way. It goes on when nobody waits for it."""
        key = ("b", f"{repository}@{digest}")
        if key not in self._arriving:
            arriving = self._arriving[key] = Arriving()
            task = self._begin(key, self._transfer(repository, digest, arriving))
            task.add_done_callback(lambda _: self._arriving.pop(key, None))
        return self._arriving[key], self._transfers[key]

    async def _transfer(self, repository: str, digest: str, arriving: Arriving) -> None:
        try:
            await self._keep(repository, digest, arriving)
        finally:
            arriving.end()

    async def _keep(self, repository: str, digest: str, arriving: Arriving) -> None:
        upload = await self._uploads.get(repository, await self._uploads.begin(repository))
        try:
            source = arriving.tee(self._upstream.blob(repository, digest, arriving.start))
            size = await self._uploads.append(upload, source)
            await self._uploads.finish(upload._replace(size=size), digest, "c")
        except RegistryError as error:
            await self._uploads.cancel(upload.identifier)
            if error.code == "DIGEST_INVALID":
                raise RegistryError("UNAVAILABLE", "upstream gives wrong bytes", error.detail, status=502) from None
            raise
        except BaseException:
            await self._uploads.cancel(upload.identifier)
            raise

    async def _shared(self, key: tuple[str, str], work: Coroutine[Any, Any, Any]) -> Any:
        """The result of `work`, or of the same work that is under way already."""
        task = self._transfers.get(key)
        if task is None:
            task = self._begin(key, work)
        else:
            work.close()
        return await asyncio.shield(task)

    def _begin(self, key: tuple[str, str], work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._transfers[key] = asyncio.create_task(work)
        task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def _ended(self, key: tuple[str, str], task: asyncio.Task[Any]) -> None:
        self._transfers.pop(key, None)
        if not task.cancelled():
            task.exception()  # who waited has heard of it
