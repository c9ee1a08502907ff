"""Layers come in: each fetched, verified, decompressed and unpacked at once, side by side with the others.

Owns: `Downloads`: which layers are under way (pulls share them), how many at a time, going on with what a broken pull
left. Does not own: which layers an image has (`pulling`), the requests (`store.remote.repository`).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, NamedTuple, Protocol

from dockyard.engine.images.services import Services
from dockyard.engine.transfers.progress import Board, Listener
from dockyard.engine.transfers.shared import Pool
from dockyard.model.errors import DockyardError, InvalidArgument, SystemFailure
from dockyard.model.oci import Descriptor
from dockyard.store.spooling import feed

_STALE_TRIES = 2


class BlobSource(Protocol):
    """Where blobs come from: a registry's repository (`store.remote.repository`), or what offers them as that does."""

    def blob(
        self,
        descriptor: Descriptor,
        start: int,
        what: str,
        waiting: Callable[[float], None] | None = None,
        tries: int | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from `start`, as many as the descriptor says, not verified. DockyardError."""
        ...


class Wanted(NamedTuple):
    """A layer of an image to be: its blob, what it has to be uncompressed, and its chain."""

    blob: Descriptor
    diff_id: str
    chain: str

    @property
    def id(self) -> str:
        return self.blob.digest.partition(":")[2][:12]

    @property
    def what(self) -> str:
        return f"layer {self.blob.digest}"


class _StalePart(InvalidArgument):
    """What was fetched before belongs to something else, or was damaged by a power loss."""


class Downloads:
    """All layers that are being pulled. `at_once`: how many."""

    def __init__(self, services: Services, at_once: int) -> None:
        self._services = services
        self._slots = asyncio.Semaphore(at_once)
        self._pool: Pool[None] = Pool()
        self._blobs: dict[str, asyncio.Lock] = {}
        self._verified: set[str] = set()  # blobs that lie complete where broken pulls leave theirs

    def allow(self, at_once: int) -> None:
        """How many from now on, beside those that are under way."""
        self._slots = asyncio.Semaphore(at_once)

    async def close(self) -> None:
        await self._pool.close()

    async def fetch(
        self,
        repositories: Sequence[BlobSource],
        wanted: Wanted,
        parent: Callable[[], Awaitable[str | None]],
        listener: Listener | None,
    ) -> str:
        """Have a layer unpacked; returns its chain. `repositories` are asked in turn. Errors name layer and cause."""
        if not self._services.snapshots.has(wanted.chain):
            await self._pool.join(
                wanted.chain, lambda board: self._layer(repositories, wanted, parent, board), listener
            )
        return wanted.chain

    def keep(self, layers: Sequence[Wanted]) -> None:
        """Take the blobs of an image's layers into the store: its row is about to be written.

        Not before: what a crash leaves without a row is swept, and the next pull should find it.
        """
        content = self._services.content
        for wanted in layers:
            digest = wanted.blob.digest
            if digest not in self._verified:
                continue
            self._verified.discard(digest)
            partial = self._services.layout.partial(digest)
            if digest == wanted.diff_id or content.has(digest):  # its tar comes out of the layer again
                partial.unlink(missing_ok=True)
            else:
                content.adopt(partial, digest)

    async def _layer(
        self,
        repositories: Sequence[BlobSource],
        wanted: Wanted,
        parent: Callable[[], Awaitable[str | None]],
        board: Board,
    ) -> None:
        snapshots = self._services.snapshots
        blob = wanted.blob
        kept = (blob.digest, blob.media_type, blob.size) if blob.digest != wanted.diff_id else None
        board.say("Waiting", wanted.id)

        async def work(place: dict[str, Any]) -> dict[str, Any]:
            async with self._lock(blob.digest), self._slots:
                return await self._unpack(repositories, wanted, place, board)

        with snapshots.lease() as lease:
            for _ in range(_STALE_TRIES):
                try:
                    await snapshots.unpack_by(work, parent, lease, what=wanted.what, diff_id=wanted.diff_id, blob=kept)
                    break
                except _StalePart:  # it is gone now: from the beginning, in fresh directories
                    continue
                except InvalidArgument as error:
                    if blob.digest in self._verified and error.message.startswith(wanted.what):
                        self._verified.discard(blob.digest)  # as it should be, but no layer of this image
                        self._services.layout.partial(blob.digest).unlink(missing_ok=True)
                    raise
        board.say("Pull complete", wanted.id)

    def _lock(self, digest: str) -> asyncio.Lock:
        """One download of a blob at a time, whichever layers it is to become."""
        self._blobs = {key: lock for key, lock in self._blobs.items() if lock.locked() or key == digest}
        return self._blobs.setdefault(digest, asyncio.Lock())

    async def _unpack(
        self, repositories: Sequence[BlobSource], wanted: Wanted, place: dict[str, Any], board: Board
    ) -> dict[str, Any]:
        content = self._services.content
        if not content.has(wanted.blob.digest):
            return await self._download(repositories, wanted, place, board)
        board.move("Extracting", wanted.id, wanted.blob.size, wanted.blob.size)
        fd = os.open(content.path(wanted.blob.digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            arguments = {"what": wanted.what, "offset": 0, "length": os.fstat(fd).st_size, **place}
            result: dict[str, Any] = await self._services.call("dockyard.store.unpack:apply", arguments, [fd])
            return result
        finally:
            os.close(fd)

    async def _download(
        self, repositories: Sequence[BlobSource], wanted: Wanted, place: dict[str, Any], board: Board
    ) -> dict[str, Any]:
        """Unpack while the blob arrives, going on with what a broken pull left. _StalePart if that was no good."""
        partial = self._services.layout.partial(wanted.blob.digest)
        fd = await _open_locked(str(partial))
        try:
            have = os.fstat(fd).st_size
            if have > wanted.blob.size:
                os.ftruncate(fd, 0)
                have = 0
            arguments = {
                "have": have, "size": wanted.blob.size, "digest": wanted.blob.digest, "what": wanted.what,
                "partial": str(partial), **place,
            }  # fmt: skip
            result = await self._receive(_chunks(repositories, wanted, have, board), arguments, fd)
        finally:
            found = os.fstat(fd)
            if not found.st_size and found.st_nlink:  # nothing to go on with
                with suppress(OSError):
                    os.unlink(partial)
            os.close(fd)
        if "short" in result:
            raise InvalidArgument(f"{wanted.what}: {result['short']} of {wanted.blob.size} bytes arrived")
        if "wrong" in result:
            raise (_StalePart if have else InvalidArgument)(result["wrong"])
        self._verified.add(wanted.blob.digest)
        return result

    async def _receive(self, chunks: AsyncGenerator[bytes, None], arguments: dict[str, Any], fd: int) -> dict[str, Any]:
        """The worker's result, or the registry's failure: the worker has kept by then what came."""
        reading, writing = os.pipe2(os.O_CLOEXEC)

        begun = False

        async def send() -> None:
            nonlocal begun
            begun = True
            async with aclosing(chunks):
                await feed(chunks, writing)  # closes it

        async def work() -> dict[str, Any]:
            function = "dockyard.store.remote.layers:receive"
            result: dict[str, Any] = await self._services.call(function, arguments, [reading, fd])
            return result

        sending, working = asyncio.create_task(send()), asyncio.create_task(work())
        try:
            await asyncio.wait({sending, working}, return_when=asyncio.FIRST_EXCEPTION)
            if sending.done() and (error := sending.exception()) is not None:
                await asyncio.gather(working, return_exceptions=True)
                raise error
            return await working
        finally:
            sending.cancel()
            working.cancel()
            try:
                await asyncio.gather(sending, working, return_exceptions=True)
            finally:  # also when cancelled once more
                os.close(reading)
                if not begun:
                    os.close(writing)


async def _chunks(
    repositories: Sequence[BlobSource], wanted: Wanted, start: int, board: Board
) -> AsyncGenerator[bytes, None]:
    """The blob from `start`: from the first repository that has it, gone on with by the next if that one fails."""
    at, total = start, wanted.blob.size

    def waiting(seconds: float) -> None:
        board.say(f"Retrying in {max(round(seconds), 1)} second{'s' if seconds >= 1.5 else ''}", wanted.id)

    for repository in repositories:
        last = repository is repositories[-1]
        try:
            async with aclosing(repository.blob(wanted.blob, at, wanted.what, waiting, None if last else 2)) as chunks:
                async for chunk in chunks:
                    at += len(chunk)
                    board.move("Downloading", wanted.id, at, total)
                    yield chunk
            break
        except DockyardError:
            if last:
                raise
    board.say("Verifying Checksum", wanted.id)
    board.say("Download complete", wanted.id)
    board.move("Extracting", wanted.id, total, total)


async def _open_locked(path: str) -> int:
    """The file at `path`, held by nobody else: a worker of a daemon that was killed may still be at its last bytes."""
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SystemFailure(f"{os.path.basename(path)}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                os.utime(fd)
                return fd
        except BlockingIOError:
            pass
        os.close(fd)
        await asyncio.sleep(0.02)
