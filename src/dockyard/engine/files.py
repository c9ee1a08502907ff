"""Files of a container: copied out and in, exported, compared with its image.

Owns: `Files`: which view of a container's file system a worker is given (the running one's own, or its layers mounted
with its volumes), streams between client and worker, what events tell. Does not own: reading and writing (workers of
`store.reading`, `store.extracting`, `store.comparing`), images made of containers (`committing`), copies of containers
(`forking`).

Reading takes no lock and never writes: a client that reads slowly holds up nobody. Writing into a container that does
not run holds its lock, for a start in the middle would run half of what is being copied.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, NamedTuple

import msgspec

from dockyard.engine import committing, forking
from dockyard.engine.container import Container
from dockyard.engine.container_volumes import image_rootfs
from dockyard.engine.context import Context
from dockyard.engine.forking import Overrides
from dockyard.engine.images import Images, name_to_give
from dockyard.engine.images.importing import first_failure
from dockyard.model.container import ContainerConfig
from dockyard.model.errors import NotFound, SystemFailure, Unavailable
from dockyard.store.spooling import feed, worker_output

_ATTEMPTS: Final = 3  # a container may end, or be started, between the look and the work
_PREFACE: Final = 1 << 16  # bytes of a description, at the most


class PathStat(NamedTuple):
    """What lies at a path of a container."""

    name: str  # its last component
    size: int
    mode: int  # as stat(2) has it
    mtime_ns: int
    link_target: str  # where a symbolic link leads in the end, from the container's root; "" for anything else


class Change(NamedTuple):
    path: str
    kind: int  # 0 modified, 1 added, 2 deleted


class Files:
    """See the module. One per engine; for its event loop only."""

    def __init__(self, context: Context, images: Images) -> None:
        self._context = context
        self._images = images

    async def look(self, ref: str, path: str) -> PathStat:
        """What lies at `path`. NotFound in Docker's words; InvalidArgument "not a directory"."""
        container = self._context.registry.get(ref)
        for attempt in range(_ATTEMPTS):
            try:
                async with _mounted(self._context, container):
                    arguments = {"place": view(self._context, container), "path": path}
                    found = await self._context.runtime.call("dockyard.store.reading:look", arguments)
                return PathStat(**found)
            except (Unavailable, NotFound) as error:
                await self._again(error, container, attempt, path, ref)
        raise AssertionError

    @asynccontextmanager
    async def archive(self, ref: str, path: str) -> AsyncIterator[tuple[PathStat, AsyncIterator[bytes]]]:
        """What lies at `path`, and its tar with entries as Docker names them.

        NotFound, InvalidArgument as `look`; SystemFailure in the middle of the tar breaks it off.
        """
        container = self._context.registry.get(ref)
        async with self._reading(container, "read", path, ref) as (first, rest):
            found, chunks = await _preface(first, rest)
            self._context.publish(container, "archive-path")
            yield found, chunks

    @asynccontextmanager
    async def export(self, ref: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The tar of its whole file system; what is mounted in it is no part of that."""
        container = self._context.registry.get(ref)
        async with self._reading(container, "export", None, ref) as (first, rest):
            self._context.publish(container, "export")
            yield _chain(first, rest)

    async def commit(
        self,
        ref: str,
        *,
        config: ContainerConfig | None = None,
        changes: Sequence[str] = (),
        author: str = "",
        comment: str = "",
        pause: bool = True,
        repository: str = "",
        tag: str = "",
    ) -> str:
        """Make an image of a container's files; its id.

        `config`: settings of the image instead of the container's, which fill in what is missing. `changes`:
        instructions such as `CMD ["sh"]`. `pause`: freeze the container while its files are copied. InvalidArgument
        naming what is wrong with them or the name; Conflict for one that is being removed; nothing is left then.
        """
        container = self._context.registry.get(ref)
        reference = name_to_give(repository, tag) if repository else None
        work = committing.commit(
            self._context, self._images.services, container, ref, config=config, changes=changes, author=author,
            comment=comment, pause=pause, reference=reference,
        )  # fmt: skip
        return await self._context.finish(work, f"committing {ref}")

    async def fork(
        self, ref: str, name: str = "", overrides: Overrides | None = None, *, pause: bool = True
    ) -> tuple[Container, list[str]]:
        """Make a container that begins with a copy of another one's files, and its warnings; it does not run yet.

        `pause`: freeze the other one meanwhile. Errors as of `Containers.create`; then nothing was made.
        """
        container = self._context.registry.get(ref)
        work = forking.fork(self._context, container, ref, name, overrides or Overrides(), pause=pause)
        return await self._context.finish(work, f"forking {ref}")

    @asynccontextmanager
    async def _reading(
        self, container: Container, function: str, path: str | None, ref: str
    ) -> AsyncIterator[tuple[bytes, AsyncIterator[bytes]]]:
        """The first bytes that a worker writes, and the others. The worker ends with the context."""
        for attempt in range(_ATTEMPTS):
            async with _mounted(self._context, container):
                arguments: dict[str, Any] = {"place": view(self._context, container)}
                if path is not None:
                    arguments["path"] = path
                call = self._context.runtime.call
                async with aclosing(worker_output(call, f"dockyard.store.reading:{function}", arguments)) as chunks:
                    try:
                        first = await anext(chunks)
                    except (Unavailable, NotFound) as error:
                        await self._again(error, container, attempt, path or "/", ref)
                        continue
                    yield first, chunks
                    return

    async def extract(
        self, ref: str, path: str, chunks: AsyncIterator[bytes], *, keep_kinds: bool = False, own: bool = False
    ) -> None:
        """Unpack a tar (compressed or not) into the directory `path`.

        `keep_kinds`: never replace a directory by something else or the other way round. `own`: it all belongs to the
        container's user. NotFound, InvalidArgument, Forbidden for what is read-only; SystemFailure (a full disk).
        """
        container = self._context.registry.get(ref)
        owner = container.config.user if own else ""
        arguments = {"path": path, "keep_kinds": keep_kinds, "owner": owner}
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            feeding = asyncio.create_task(feed(chunks, writing))
            working = asyncio.create_task(self._extract(container, arguments, reading, path, ref))
            await first_failure(feeding, working)
        finally:
            os.close(reading)
        self._context.publish(container, "extract-to-dir")

    async def _extract(
        self, container: Container, arguments: dict[str, Any], reading: int, path: str, ref: str
    ) -> None:
        """By a worker that finds the container as it is; one that does not has read nothing of the archive."""
        for attempt in range(_ATTEMPTS):
            try:
                if container.handle is not None:
                    await self._unpack(container, arguments, reading)
                    return
                async with container.lock:
                    if container.handle is None:
                        await self._unpack(container, arguments, reading)
                        return
            except (Unavailable, NotFound) as error:
                await self._again(error, container, attempt, path, ref)
        raise SystemFailure(f"container {container.id} starts and ends all the time")

    async def _unpack(self, container: Container, arguments: dict[str, Any], reading: int) -> None:
        async with _mounted(self._context, container):
            place = view(self._context, container, writable=True)
            call = self._context.runtime.call
            await call("dockyard.store.extracting:extract", {"place": place, **arguments}, [reading])

    async def changes(self, ref: str) -> list[Change]:
        """What it has made of its image's files, in the order of their paths."""
        container = self._context.registry.get(ref)
        arguments = {**self._context.snapshots.written(container.id), "stubs": list(committing.STUBS)}
        with self._context.metrics.containers.timed("changes"):
            found = await self._context.runtime.call("dockyard.store.comparing:changes", arguments)
        return [Change(path, kind) for path, kind in found]

    async def _again(
        self, error: Unavailable | NotFound, container: Container, attempt: int, path: str, ref: str
    ) -> None:
        """Raise what is to be told; return if the container has changed its state and is worth another look."""
        if isinstance(error, NotFound):
            raise NotFound(f"Could not find the file {path} in container {ref}") from error
        if container.removed:
            raise NotFound(f"No such container: {ref}") from error
        if attempt + 1 == _ATTEMPTS:
            raise error
        if container.handle is not None:  # its end has not been told yet
            await asyncio.wait({container.handle.exit}, timeout=5)
            await asyncio.sleep(0)


@asynccontextmanager
async def _mounted(context: Context, container: Container) -> AsyncIterator[None]:
    """While somebody looks into a container that does not run: its volumes that are mounts (nfs, …) are mounted."""
    user = f"files-{secrets.token_hex(8)}"
    attached: list[str] = []
    try:
        for point in container.mounts if container.handle is None else ():
            volume = context.volumes.find(point.name) if point.type == "volume" else None
            if volume is not None and volume.is_mount:
                attached.append(volume.name)
                await context.volumes.attach(volume, user)
        yield
    finally:
        for name in attached:
            await context.volumes.detach(name, user)


def view(context: Context, container: Container, *, writable: bool = False) -> dict[str, Any]:
    """A `place` of `store.roots`. `writable`: it does not run, and what is written shall last."""
    handle = container.handle
    if handle is not None:
        first = {"pid": handle.started["pid"], "start_time": handle.started["start_time"]}
        return {**first, "rootfs": context.snapshots.rootfs(container.id)}
    return {
        "rootfs": context.snapshots.rootfs(container.id),
        "mounts": _mounts(context, container),
        "read_only": container.host.readonly_rootfs,
        "writable": writable,
    }


def _mounts(context: Context, container: Container) -> list[dict[str, Any]]:
    """What would be mounted in it: volumes, binds, the files of /etc. Not tmpfs: they are empty without a process."""
    found: list[dict[str, Any]] = [
        {
            "source": point.source,
            "destination": point.destination,
            "read_only": not point.rw,
            "subpath": point.subpath,
            "image": image_rootfs(context, point) if point.type == "image" else None,
        }
        for point in container.mounts
        if point.type in ("bind", "volume", "image") and point.source
    ]
    taken = {entry["destination"] for entry in found}
    files = {
        "/etc/resolv.conf": container.resolv_path,
        "/etc/hostname": container.hostname_path,
        "/etc/hosts": container.hosts_path,
    }
    for destination, source in files.items():
        if destination not in taken:
            read_only = container.host.readonly_rootfs
            found.append({"source": source, "destination": destination, "read_only": read_only})
    return found


async def _preface(data: bytes, rest: AsyncIterator[bytes]) -> tuple[PathStat, AsyncIterator[bytes]]:
    """The description that a worker writes first, and the tar behind it."""
    while b"\n" not in data and len(data) < _PREFACE:
        data += await anext(rest)
    line, _, first = data.partition(b"\n")
    return PathStat(**msgspec.json.decode(line)), _chain(first, rest)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for chunk in rest:
        yield chunk
