"""One blob on its way into a registry: tried again, gone on with where it broke.

Owns: `Upload`: in one request what fits into one, in pieces what is larger, as a stream what has no size yet; after a
break the registry is asked what it has, and gets the rest. Does not own: the requests (`repository`), where the bytes
come from (`Content`).

Source: OCI distribution-spec 1.1, "Pushing a blob in chunks" and "Resuming"; distribution's registries, which forget an
upload whose place they were not told, get it from the beginning.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from dockyard.model.errors import DockyardError, InvalidArgument, NotFound
from dockyard.store.remote.errors import Temporary
from dockyard.store.remote.repository import Begun, Repository
from dockyard.store.remote.session import pause

PIECE = 64 << 20  # bytes of a request's body, where the size is known: less than what proxies commonly let through
_MADE_PIECE = 8 << 20  # of a stream that broke: held in memory, because its length has to be told first
_CUT = 1 << 18  # bytes that are written at once
_PROGRESS = 1 << 20  # bytes after which an upload counts as going on: its tries begin anew


class Content(Protocol):
    """Bytes that can be had again."""

    @property
    def size(self) -> int | None:
        """None: nobody knows before the end."""

    def chunks(self, start: int) -> AsyncGenerator[bytes, None]:
        """From the byte `start`; the same bytes each time."""

    def known(self) -> tuple[str, int] | None:
        """(digest, size); of a content without a size, after `chunks` has ended."""


class Upload:
    """`what` names the blob in errors. `piece`: the most bytes of one request."""

    def __init__(
        self,
        repository: Repository,
        content: Content,
        what: str,
        waiting: Callable[[float], None] | None = None,
        piece: int = PIECE,
    ) -> None:
        """`waiting` is told how many seconds the next try is away."""
        self._repository = repository
        self._content = content
        self._what = what
        self._waiting = waiting
        self._piece = piece
        self._begun: Begun | None = None
        self._at = 0  # bytes that the registry has, as far as it has told
        self._broken = False  # where `_begun` stands has to be asked
        self._resumed = False  # `_begun` is made of what more than one try has sent

    async def run(self) -> tuple[str, int]:
        """Have the blob in the registry; returns its digest and size. Temporary when trying again does not help."""
        limits = self._repository.session.limits
        attempt = mark = 0
        while True:
            try:
                return await self._try()
            except (InvalidArgument, NotFound) as error:
                if not self._resumed:
                    raise self._named(error) from None
                self._forget()  # the parts do not fit together, or the registry has forgotten them
                continue
            except Temporary as error:
                self._broken = True
                if self._at - mark >= _PROGRESS:
                    attempt, mark = 0, self._at
                delay = pause(error, attempt, limits.tries, limits.delay)
                if delay is None:
                    raise self._named(error) from None
                attempt += 1
            if self._waiting is not None:
                self._waiting(delay)
            await asyncio.sleep(delay)

    def _named(self, error: DockyardError) -> DockyardError:
        """What a registry says does not name the blob."""
        return error if self._what in error.message else type(error)(f"{self._what}: {error.message}")

    def _forget(self) -> None:
        self._begun, self._at, self._broken, self._resumed = None, 0, False, False

    async def _try(self) -> tuple[str, int]:
        if self._begun is not None and self._broken and not await self._place(self._begun):
            self._forget()
            if (done := await self._arrived()) is not None:
                return done
        if self._begun is None:
            self._begun = await self._repository.begin(self._what)
        self._broken = False
        if self._content.size is not None:
            return await self._sized(self._content.size)
        return await self._made()

    async def _place(self, begun: Begun) -> bool:
        """Find out where to go on. False: from the beginning."""
        try:
            found = await self._repository.position(begun.location, self._what)
        except (InvalidArgument, NotFound):
            return False
        if found is None or (self._content.size is not None and found[1] > self._content.size):
            await self._repository.cancel(begun.location, self._what)
            return False
        self._begun, self._at, self._resumed = begun._replace(location=found[0]), found[1], True
        return True

    async def _arrived(self) -> tuple[str, int] | None:
        """Whether the break came after the registry had all: then the upload is gone and the blob is there."""
        done = self._content.known()
        if done is not None and await self._repository.has_blob(done[0], self._what) is not None:
            return done
        return None

    # --- a blob whose size is known --------------------------------------------------------------------------------

    async def _sized(self, size: int) -> tuple[str, int]:
        assert self._begun is not None
        piece = max(self._piece, self._begun.least)
        while size - self._at > piece:
            body = self._part(self._at, piece)
            self._advance(await self._repository.append(self._begun.location, body, self._at, piece, self._what), piece)
        done = self._content.known()
        assert done is not None
        body = self._part(self._at, size - self._at)
        await self._repository.put_blob(self._begun.location, body, self._at, size, done[0], self._what)
        return done

    def _part(self, start: int, length: int) -> Callable[[], AsyncGenerator[bytes, None]]:
        return lambda: _limited(self._content.chunks(start), length, self._what)

    def _advance(self, location: str, length: int) -> None:
        assert self._begun is not None
        self._begun, self._at = self._begun._replace(location=location), self._at + length

    # --- a blob that is made while it is sent ----------------------------------------------------------------------

    async def _made(self) -> tuple[str, int]:
        assert self._begun is not None
        if not self._resumed:
            location = await self._repository.stream(self._begun.location, lambda: self._content.chunks(0), self._what)
            self._begun = self._begun._replace(location=location)
        else:
            await self._pieces(max(_MADE_PIECE, self._begun.least))
        done = self._content.known()
        assert done is not None
        await self._repository.finish(self._begun.location, done[0], self._what)
        return done

    async def _pieces(self, least: int) -> None:
        """What is left, a piece at a time, each with its place told: nothing can be doubled."""
        waiting: list[bytes] = []
        size = 0
        async with aclosing(self._content.chunks(self._at)) as chunks:
            async for chunk in chunks:
                waiting.append(chunk)
                size += len(chunk)
                if size >= least:
                    await self._send(b"".join(waiting))
                    waiting, size = [], 0
        if waiting:
            await self._send(b"".join(waiting))

    async def _send(self, data: bytes) -> None:
        assert self._begun is not None
        body = lambda: _cut(data)  # noqa: E731
        location = await self._repository.append(self._begun.location, body, self._at, len(data), self._what)
        self._advance(location, len(data))


async def _cut(data: bytes) -> AsyncGenerator[bytes, None]:
    for place in range(0, len(data), _CUT):
        yield data[place : place + _CUT]


async def _limited(chunks: AsyncGenerator[bytes, None], length: int, what: str) -> AsyncGenerator[bytes, None]:
    """The first `length` bytes. InvalidArgument if there are fewer."""
    async with aclosing(chunks):
        while length and (chunk := await anext(chunks, b"")):
            yield chunk[:length]
            length -= min(len(chunk), length)
    if length:
        raise InvalidArgument(f"{what}: {length} bytes of it are missing in the store")
