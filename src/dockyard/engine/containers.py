"""Everything that may be asked of containers.

Owns: the one interface that `edge` and embedding programs see. Does not own: any of the work; each verb lives in a
module of its own (`creation`, `starting`, `stopping`, `removal`, `listing`, `attaching`, `top`, `restoring`, …).

`ref` is always an id, a name, or the unambiguous beginning of an id. Every method raises NotFound
"No such container: REF" for one that does not exist.
"""

from __future__ import annotations

import asyncio
import builtins
import socket
from collections.abc import Sequence
from typing import NamedTuple

from dockyard.engine import (
    attaching,
    creation,
    details,
    ground,
    links,
    listing,
    removal,
    renaming,
    restoring,
    starting,
    stopping,
    top,
    updating,
)
from dockyard.engine.container import Container, WaitResult
from dockyard.engine.context import Context
from dockyard.engine.details import Ground
from dockyard.engine.updating import Update
from dockyard.model.container import ContainerConfig, EndpointSettings, HostConfig
from dockyard.model.errors import Conflict, InvalidArgument
from dockyard.model.lifecycle import Event
from dockyard.proto.filters import Filters


class Created(NamedTuple):
    id: str
    warnings: list[str]


class Pruned(NamedTuple):
    ids: list[str]
    space_reclaimed: int  # bytes


class Sizes(NamedTuple):
    rw: int  # bytes of the writable layer
    root_fs: int  # bytes of image and writable layer together


class ProcessList(NamedTuple):
    titles: list[str]
    processes: list[list[str]]


class Containers:
    """See the module. One per engine; for its event loop only."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def restore(self) -> None:
        """Find what ran and what ended while there was no daemon. Once, before anything else."""
        await restoring.restore(self._context)

    async def create(
        self,
        config: ContainerConfig,
        host: HostConfig,
        networks: dict[str, EndpointSettings] | None = None,
        *,
        name: str = "",
        platform: str = "",
    ) -> Created:
        """Make a container out of an image; it does not run yet.

        `networks`: the endpoints asked for, by network name or id. Raises NotFound "No such image: …", Conflict for a
        name in use (naming its holder), InvalidArgument for anything else that is wrong; then nothing was made.
        """
        work = creation.create(self._context, config, host, networks or {}, name=name, platform=platform)
        container, warnings = await self._context.finish(work, f"creating container {name}")
        return Created(container.id, warnings)

    def get(self, ref: str) -> Container:
        """The container itself: attributes to read, `lifecycle.status_text(container.status, now)` for `ps`."""
        return self._context.registry.get(ref)

    def list(self, filters: Filters | None = None, *, all: bool = False, limit: int = 0) -> builtins.list[Container]:
        """Newest first. Without `all` only those that run; `limit` > 0: the newest ones, running or not.

        InvalidArgument for an unknown filter or value; NotFound for `before`/`since` of an unknown container.
        """
        return listing.choose(self._context, filters or Filters(), all=all, limit=limit)

    async def sizes(self, containers: Sequence[Container]) -> builtins.list[Sizes]:
        """For `ps -s`, `inspect -s` and `system df`; reads the writable layers. One that goes away meanwhile has 0."""
        written = await self._context.snapshots.usages([container.id for container in containers])
        return [Sizes(rw, rw + self._below(each)) for each, rw in zip(containers, written, strict=True)]

    def _below(self, container: Container) -> int:
        return sum(layer.document.size for layer in self._context.snapshots.chain(container.spec.chain_id))

    def names_of_links(self) -> dict[str, builtins.list[str]]:
        """By container id: the names that links of others give it, `OTHER/alias`."""
        return links.names_given(self._context)

    def ground(self, container: Container) -> Ground:
        """What its settings come down to on this host."""
        return details.ground(self._context, container)

    async def start(self, ref: str) -> None:
        """Run a container. NotModified if it runs; StartFailed (`.exit_code`) if its program cannot be run."""
        container = self.get(ref)
        await self._context.finish(starting.start(self._context, container, ref), f"starting {ref}")

    async def stop(self, ref: str, *, signal: str = "", timeout: int | None = None) -> None:
        """Signal (the container's, else SIGTERM), wait `timeout` s (the container's, else 10; -1: for ever), SIGKILL.

        NotModified if it does not run.
        """
        container = self.get(ref)
        await self._context.finish(stopping.stop(self._context, container, ref, signal, timeout), f"stopping {ref}")

    async def restart(self, ref: str, *, signal: str = "", timeout: int | None = None) -> None:
        """Stop it if it runs, then start it."""
        work = stopping.restart(self._context, self.get(ref), ref, signal, timeout)
        await self._context.finish(work, f"restarting {ref}")

    async def kill(self, ref: str, signal: str = "") -> None:
        """Send a signal by name or number ("" = KILL). Conflict if it does not run."""
        container = self.get(ref)
        await self._context.finish(stopping.kill(self._context, container, ref, signal), f"killing {ref}")

    async def pause(self, ref: str) -> None:
        """Freeze all its processes. Conflict if it does not run or is paused."""
        await self._context.finish(stopping.pause(self._context, self.get(ref), ref), f"pausing {ref}")

    async def unpause(self, ref: str) -> None:
        """Let its processes go on. Conflict if it is not paused."""
        await self._context.finish(stopping.unpause(self._context, self.get(ref), ref), f"unpausing {ref}")

    def wait(self, ref: str, condition: str = "") -> asyncio.Future[WaitResult]:
        """Wait for "not-running" (default; at once if so), "next-exit" or "removed". What its policy starts again has
        exited, too: as in Docker, one that is restarting counts as running, and a wait ends with the next exit.

        Not a coroutine: the wait stands when this returns, so that a client may be answered its head and start the
        container afterwards. Cancel the future to give up.
        """
        container = self.get(ref)
        condition = condition or "not-running"
        if condition not in ("not-running", "next-exit", "removed"):
            raise InvalidArgument(f'invalid condition: "{condition}"')
        future = container.add_waiter(condition)
        if condition == "not-running" and not container.status.active:
            future.set_result(WaitResult(container.status.exit_code, container.status.error))
        return future

    async def rename(self, ref: str, name: str) -> None:
        """Give it another name. Conflict naming the holder of one in use."""
        await self._context.finish(renaming.rename(self._context, self.get(ref), name), f"renaming {ref}")

    async def update(self, ref: str, change: Update) -> builtins.list[str]:
        """Change settings in place; returns warnings."""
        work = updating.update(self._context, self.get(ref), ref, change)
        return await self._context.finish(work, f"updating {ref}")

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """Take a container away; `force` kills it first, `volumes` takes its anonymous volumes too."""
        work = removal.remove(self._context, self.get(ref), ref, force=force, volumes=volumes)
        await self._context.finish(work, f"removing {ref}")

    async def unlink(self, ref: str, alias: str) -> None:
        """Take one of its links away. NotFound if it has none of that name."""
        work = links.unlink(self._context, self.get(ref), alias, ground.write_hosts)
        await self._context.finish(work, f"unlinking {ref}/{alias}")

    async def prune(self, filters: Filters | None = None) -> Pruned:
        """Remove all that do not run. Filters: until, label, label!."""
        ids, space = await self._context.finish(removal.prune(self._context, filters or Filters()), "container prune")
        return Pruned(ids, space)

    async def attach(
        self, ref: str, *, stdin: bool = False, stdout: bool = False, stderr: bool = False
    ) -> socket.socket:
        """A non-blocking stream socket as `ContainerHandle.attach` describes it; the caller closes it.

        Works before the start: output then begins with the first byte. EOF when the output is complete.
        """
        return await attaching.attach(self._context, self.get(ref), ref, stdin=stdin, stdout=stdout, stderr=stderr)

    def detached(self, ref: str) -> None:
        """Note that a client left by its detach keys (event `detach`)."""
        self._context.publish(self.get(ref), "detach")

    async def resize(self, ref: str, height: int, width: int) -> None:
        """Set the terminal's size in characters. Conflict if it does not run."""
        await attaching.resize(self._context, self.get(ref), ref, height, width)

    async def top(self, ref: str, arguments: str = "") -> ProcessList:
        """Its processes, in columns as `ps` with these arguments has them (default -ef)."""
        container = self.get(ref)
        container.check(Event.TOP, ref)
        columns, order = top.columns_of(arguments), top.order_of(arguments)
        if container.handle is None:
            raise Conflict(f"container {container.id} is not running")
        pids = await container.handle.pids()
        rows = await asyncio.to_thread(top.listing, pids, columns, order)
        self._context.publish(container, "top")
        return ProcessList(top.titles(columns), rows)

    def users_of_image(self, image_id: str) -> builtins.list[Container]:
        """The containers made of an image."""
        return self._context.registry.of_image(image_id)
