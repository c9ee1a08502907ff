"""An image archive comes in: spooled, with its layers unpacked meanwhile.

Owns: `Arrival`: the worker that reads the archive, what it left on disk (taken or discarded), how far it is;
`reading`: a worker and what a client sends it. Does not own: what the archive means (`reading`), images (`loading`).
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from dockyard.engine.images.services import Services
from dockyard.store.archive import Spool
from dockyard.store.connection import Connection
from dockyard.store.snapshots import Lease
from dockyard.store.snapshots.directories import SHORT
from dockyard.store.spooling import drain, feed, temporary_file

T = TypeVar("T")
Progress = Callable[[str, int, int], None]  # (what, bytes so far, bytes in all)
_TOKEN = SHORT - 10  # hex digits; ten for the number of the layer follow


class Arrival:
    """One archive on its way. Use in `async with`: what nobody took of it is discarded at the end.

    `receive` once, then `spool` says what is there; `take` gives a layer's directories away.
    """

    def __init__(self, services: Services, lease: Lease, progress: Progress | None = None) -> None:
        """`lease`: holds the layers that need not be unpacked because they are there."""
        self._services = services
        self._lease = lease
        self._progress = progress
        self._token = secrets.token_hex(_TOKEN // 2)
        self._file = temporary_file(services.layout)
        self._fd = self._file.__enter__()
        self.taken: dict[str, asyncio.Future[str]] = {}  # member's layer -> the chain that it became

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(None, None, None)
        layout = self._services.layout
        for place in (*(self._services.snapshots.ahead() or ()), layout.ingest):
            for name in os.listdir(place):
                if name.startswith(self._token):
                    layout.discard(place / name)

    async def receive(self, incoming: AsyncIterator[bytes] | Connection, what: str) -> Spool:
        """Read the archive to its end. InvalidArgument or SystemFailure naming `what`; the client's own failures."""
        places = self._services.snapshots.ahead()
        ahead = None
        if places is not None:
            place = [*map(str, places), str(self._services.layout.ingest), self._token]
            ahead = {"place": place, "known": self._known()}
        told, telling = os.pipe2(os.O_CLOEXEC)

        async def work(fd: int, body: dict[str, Any] | None) -> dict[str, Any]:
            arguments = {"what": what, "ahead": ahead, "body": body}
            try:
                function = "dockyard.store.archive:receive"
                found: dict[str, Any] = await self._services.call(function, arguments, [fd, self._fd, telling])
                return found
            finally:
                os.close(telling)

        listening = asyncio.create_task(self._listen(told))
        try:
            index = await reading(incoming, work)
            await asyncio.wait({listening}, timeout=1)  # the worker's last words
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            os.close(told)
        return Spool(self._fd, index)

    def take(self, name: str, root: str, recipe: str) -> None:
        """Move an unpacked layer to where the store wants it: two empty directories."""
        places = self._services.snapshots.ahead()
        assert places is not None
        os.rename(places[0] / name, root)
        os.rename(places[1] / name, recipe)

    @staticmethod
    def blob(layer: dict[str, Any]) -> Path:
        """Where the blob of a compressed layer lies."""
        return Path(layer["path"])

    def _known(self) -> list[str]:
        """Digests of what need not be read: layers, and the blobs that are kept."""
        known: set[str] = set()
        for layer in self._services.snapshots.all_layers():
            self._lease.add(layer.chain_id)
            known.add(layer.diff_id)
            if layer.blob and self._services.content.has(layer.blob):
                known.add(layer.blob)
        return sorted(known)

    async def _listen(self, pipe: int) -> None:
        rest = b""
        async for data in drain(pipe):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if self._progress is not None:
                    self._progress(*json.loads(line))


async def reading(
    incoming: AsyncIterator[bytes] | Connection, work: Callable[[int, dict[str, Any] | None], Coroutine[Any, Any, T]]
) -> T:
    """The result of `work(descriptor, body)`, a worker that reads what a client sends: from its connection, or from a
    pipe that is fed here. If the client fails first, its error.

    The worker is waited for in any case: as long as it runs it makes directories. Then it ends with its input.
    """
    if isinstance(incoming, Connection):
        working = asyncio.create_task(work(incoming.fd, incoming.arguments()))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            incoming.stop()
            raise
        finally:
            await _to_the_end(working)
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        return await _both(asyncio.create_task(feed(incoming, write)), asyncio.create_task(work(read, None)))
    finally:
        os.close(read)


async def _both(feeding: asyncio.Task[None], working: asyncio.Task[T]) -> T:
    try:
        await asyncio.wait({feeding, working}, return_when=asyncio.FIRST_EXCEPTION)
        if feeding.done() and not feeding.cancelled() and (error := feeding.exception()) is not None:
            raise error
        return await asyncio.shield(working)
    finally:
        feeding.cancel()
        await _to_the_end(feeding, working)


async def _to_the_end(*tasks: asyncio.Task[Any]) -> None:
    """Until all are done, however often this is cancelled meanwhile; their failures are somebody else's."""
    cancelled: asyncio.CancelledError | None = None
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in tasks:
        if not task.cancelled():
            task.exception()
    if cancelled is not None:
        raise cancelled
