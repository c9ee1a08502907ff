"""Cache mounts leave and come as tars, so that a fresh machine (of a CI) need not begin with empty ones.

Owns: exporting and importing one by its identity. Does not own: which directory a mount gets (`cachemounts`), the
worker functions (those of `docker cp`: an archive stays within the directory whatever it says).
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from dockyard.engine.builds.cachemounts import Locks
from dockyard.engine.builds.ground import Ground
from dockyard.engine.images.importing import first_failure
from dockyard.model.errors import Conflict, InvalidArgument, NotFound
from dockyard.store.builds.cache import CACHE_MOUNT, Record
from dockyard.store.spooling import feed, worker_output

_LONGEST = 4096  # characters of an identity


async def export(ground: Ground, locks: Locks, identity: str) -> AsyncGenerator[bytes, None]:
    """The tar of a mount's files. A step that has it alone (sharing=locked) is waited for. NotFound naming it."""
    async with locks.of(identity):
        record = _find(ground, identity)
        place = _place(ground, record.directory, writable=False)
        with ground.cache.holding(record):
            call = ground.context.runtime.call
            async with aclosing(worker_output(call, "dockyard.store.reading:export", {"place": place})) as chunks:
                async for chunk in chunks:
                    yield chunk


async def import_(ground: Ground, locks: Locks, identity: str, chunks: AsyncIterator[bytes]) -> None:
    """A tar (compressed or not) becomes the mount of that identity, in place of what it was. Conflict while a step has
    it; InvalidArgument naming what is wrong with the archive: then everything is as before."""
    if not identity or len(identity) > _LONGEST or "\0" in identity:
        raise InvalidArgument("the identity of a cache mount is expected: its id=, or its target")
    layout, name = ground.context.layout, secrets.token_hex(13)
    directory = layout.build_mount(name)
    os.mkdir(directory, 0o755)
    try:
        await _unpack(ground, name, chunks)
        async with locks.of(identity):
            old = ground.cache.mounts(identity)
            if any(ground.cache.in_use(record) for record in old):
                raise Conflict(f"cache mount {identity[:100]} is in use by a build")
            described = f"cached mount from an import, id {identity}"
            record = Record("", CACHE_MOUNT, described, mount=identity, directory=name, imported=True)
            ground.cache.put(record, [])
            ground.cache.remove(old)
    except BaseException:
        layout.discard(directory)
        raise


def _find(ground: Ground, identity: str) -> Record:
    found = ground.cache.mounts(identity)
    if not found:
        raise NotFound(f"no such cache mount: {identity[:100]}")
    return found[0]


def _place(ground: Ground, name: str, *, writable: bool) -> dict[str, Any]:
    rootfs = {"type": "directory", "path": str(ground.context.layout.build_mount(name))}
    return {"rootfs": rootfs, "mounts": [], "read_only": not writable, "writable": writable}


async def _unpack(ground: Ground, name: str, chunks: AsyncIterator[bytes]) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        arguments = {"place": _place(ground, name, writable=True), "path": "/"}
        call = ground.context.runtime.call("dockyard.store.extracting:extract", arguments, [reading])
        await first_failure(asyncio.ensure_future(feed(chunks, writing)), asyncio.ensure_future(call))
    finally:
        os.close(reading)
