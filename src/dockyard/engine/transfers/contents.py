"""Bytes of blobs that go to a registry, each to be had again from any place.

Owns: `Stored` (a blob as it lies in the store), `Made` (a layer's tar, made and compressed while it is sent). Does not
own: the sending (`store.remote.uploading`), the compression (`store.remote.layers`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import Any

from dockyard.engine.images.services import Services
from dockyard.model.errors import SystemFailure
from dockyard.store.snapshots import Layer
from dockyard.store.spooling import drain

_CHUNK = 1 << 20


class Stored:
    """A verified blob of the store."""

    def __init__(self, services: Services, digest: str, size: int) -> None:
        self._path = str(services.content.path(digest))
        self._digest = digest
        self.size: int | None = size

    def known(self) -> tuple[str, int] | None:
        assert self.size is not None
        return self._digest, self.size

    async def chunks(self, start: int) -> AsyncGenerator[bytes, None]:
        """Read in threads. SystemFailure."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SystemFailure(f"blob {self._digest}: {error.strerror}") from error
        try:
            while data := await asyncio.to_thread(os.pread, fd, _CHUNK, start):
                yield data
                start += len(data)
        except OSError as error:
            raise SystemFailure(f"blob {self._digest}: {error.strerror}") from error
        finally:
            os.close(fd)


class Made:
    """A layer's tar out of a worker: the same recipe and the same compressor give the same bytes each time."""

    size: int | None = None

    def __init__(self, services: Services, layer: Layer, compress: bool) -> None:
        self._services = services
        self._layer = layer
        self._compress = compress
        self._known: tuple[str, int] | None = None

    def known(self) -> tuple[str, int] | None:
        return self._known

    async def chunks(self, start: int) -> AsyncGenerator[bytes, None]:
        """A worker runs as long as they are asked for."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        task = asyncio.create_task(self._work(writing, start))
        task.add_done_callback(lambda _: os.close(writing))
        try:
            async for chunk in drain(reading):
                yield chunk
            done = await task  # an upload that lacks its end must not be finished
            self._known = done["digest"], done["size"]
        finally:
            os.close(reading)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _work(self, writing: int, start: int) -> dict[str, Any]:
        snapshots = self._services.snapshots
        layer = {
            "recipe": snapshots.recipe_of(self._layer), "tree": snapshots.tree_of(self._layer),
            "size": self._layer.document.tar_size, "digest": self._layer.diff_id,
        }  # fmt: skip
        arguments = {"layer": layer, "compress": self._compress, "skip": start}
        function = "dockyard.store.remote.layers:send"
        result: dict[str, Any] = await self._services.call(function, arguments, [writing])
        return result
