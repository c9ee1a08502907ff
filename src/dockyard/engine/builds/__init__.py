"""Builds: Dockerfiles become images.

Owns: `Builds`, the one interface that `edge` and embedding programs see. Does not own: the language
(`proto.dockerfile`), steps, the cache's rows.

A build is an async generator of events: whoever stops listening ends it. Operations are those of `proto.dockerfile.ops`
(as BuildKit's LLB: sources, exec, file operations over a graph), so that other frontends can sit on `solver`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack

from msgspec import structs

from dockyard.engine.builds import (
    cachetransfer,
    exporting,
    fetching,
    localcache,
    mounttransfer,
    output,
    planning,
    platformindex,
    pruning,
    sources,
)
from dockyard.engine.builds.agents import Agents
from dockyard.engine.builds.cachemounts import Locks
from dockyard.engine.builds.ground import Ground, Session, Shared
from dockyard.engine.builds.pruning import CacheRecord
from dockyard.engine.builds.request import BuildFailed, BuildRequest
from dockyard.engine.builds.solver import Solver
from dockyard.engine.context import Context
from dockyard.engine.images.services import Services
from dockyard.engine.transfers import Transfers
from dockyard.model.build import BuildEvent, BuildResult
from dockyard.model.errors import Conflict, NotFound
from dockyard.proto.buildgc import Selection, check_limits
from dockyard.proto.filters import Filters
from dockyard.store.builds.cache import BuildCache
from dockyard.store.builds.secretfiles import SecretFiles

__all__ = ["BuildFailed", "BuildRequest", "Builds", "CacheRecord"]

_CONTEXT_ID = re.compile(r"[0-9a-f]{26}\Z")
_CONTEXT_LIFE = 600.0  # seconds that a received context waits for its build


class Builds:
    """All builds of an engine. For the event loop's thread. `close()` at the end."""

    def __init__(self, context: Context, services: Services, transfers: Transfers, cache: BuildCache) -> None:
        secret_files = SecretFiles(context.layout.exec_root)
        secret_files.sweep()
        self._ground = Ground(context, services, transfers, cache, secret_files)
        self.agents = Agents()
        self._shared = Shared()
        self._locks = Locks()
        self._shelf = localcache.Shelf(self._ground)
        self._running: dict[str, asyncio.Task[BuildResult]] = {}
        self._tasks: set[asyncio.Task[BuildResult]] = set()
        self._waiting: dict[str, asyncio.TimerHandle] = {}  # contexts that no build has asked for yet

    async def close(self) -> None:
        """End what is under way; what it has finished stays in the cache."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for timer in self._waiting.values():
            timer.cancel()
        self._shelf.close()
        await self._ground.cache.close()

    # --- contexts --------------------------------------------------------------------------------------------------

    async def receive(self, chunks: AsyncIterator[bytes]) -> str:
        """Take in a context's tar (compressed or not) for a build to come; its id. It is kept for ten minutes."""
        context_id = await sources.receive(self._ground, chunks)
        loop = asyncio.get_running_loop()
        self._waiting[context_id] = loop.call_later(_CONTEXT_LIFE, self._forget, context_id)
        return context_id

    def _forget(self, context_id: str) -> None:
        timer = self._waiting.pop(context_id, None)
        if timer is not None:
            timer.cancel()
        self._ground.context.layout.discard(self._ground.context.layout.build_context(context_id))

    def _claim(self, context_id: str) -> None:
        timer = self._waiting.pop(context_id, None)
        if timer is not None:
            timer.cancel()

    # --- the cache -------------------------------------------------------------------------------------------------

    async def usage(self) -> list[CacheRecord]:
        """What the cache holds, the oldest first."""
        return await pruning.usage(self._ground)

    async def prune(
        self, filters: Filters | None = None, *, all: bool = False, reserved: int = 0, maximum: int = 0, free: int = 0
    ) -> tuple[list[str], int]:
        """Remove what no build uses: (ids, bytes freed). Sizes in bytes: at least `reserved` stay, no more than
        `maximum` stay, `free` of the disk shall be free. InvalidArgument for filters that make no sense."""
        selection = Selection.parse(filters or Filters(), self._ground.context.clock(), all=all)
        ids, freed = await pruning.prune(self._ground, selection, check_limits(reserved, maximum, free))
        self._ground.context.events.publish("builder", "prune", "", {"reclaimed": str(freed)})
        return ids, freed

    def export_mount(self, identity: str) -> AsyncGenerator[bytes, None]:
        """The tar of a cache mount (`RUN --mount=type=cache`): `identity` is its id, or its target. NotFound."""
        return mounttransfer.export(self._ground, self._locks, identity)

    async def import_mount(self, identity: str, chunks: AsyncIterator[bytes]) -> None:
        """Make a tar the cache mount of that identity, in place of what it was. Conflict while a step has it."""
        await mounttransfer.import_(self._ground, self._locks, identity, chunks)

    # --- outputs ---------------------------------------------------------------------------------------------------

    def output(self, identifier: str) -> AsyncGenerator[bytes, None]:
        """The tar of what a build has made for its client (`exporting.to_fetch`, `BuildResult.caches` name it).
        NotFound."""
        if self._shelf.has(identifier):
            return self._shelf.fetch(identifier)
        return exporting.fetch(self._ground, identifier)

    # --- building --------------------------------------------------------------------------------------------------

    async def build(
        self, request: BuildRequest, context: AsyncIterator[bytes] | None = None
    ) -> AsyncGenerator[BuildEvent, None]:
        """Build; the last event is the `BuildResult`. `context`: the main context's tar, unless the request names one.

        Closing the generator ends the build. Raises BuildFailed (a step), DockerfileError (with its position), or what
        else is wrong with the request, as DockyardError.
        """
        events: asyncio.Queue[BuildEvent | None] = asyncio.Queue()
        task = asyncio.ensure_future(self._build(request, context, events))
        self._begin(request.build_id, task)
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            if task.cancelled():  # by its id, or by the engine's end
                raise BuildFailed("the build was canceled")
            yield await task
        finally:
            task.cancel()
            self._ground.context.spawn(pruning.keep_within_bounds(self._ground), "build cache: its bounds")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(task, return_exceptions=True)

    def _begin(self, build_id: str, task: asyncio.Task[BuildResult]) -> None:
        if build_id and build_id in self._running:
            task.cancel()
            raise Conflict(f"build {build_id} is under way already")
        self._tasks.add(task)
        if build_id:
            self._running[build_id] = task

        def ended(done: asyncio.Task[BuildResult]) -> None:
            self._tasks.discard(done)
            if self._running.get(build_id) is done:
                del self._running[build_id]
            if not done.cancelled():
                done.exception()  # it was told to whoever listened

        task.add_done_callback(ended)

    async def cancel(self, build_id: str) -> None:
        """End the build of that id; none is fine. It has ended when this returns."""
        task = self._running.get(build_id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _build(
        self, request: BuildRequest, chunks: AsyncIterator[bytes] | None, events: asyncio.Queue[BuildEvent | None]
    ) -> BuildResult:
        ground = self._ground
        with ExitStack() as stack:
            lease = stack.enter_context(ground.context.snapshots.lease())
            hold = stack.enter_context(ground.cache.hold())
            stack.callback(ground.cache.flush)
            late = stack.enter_context(ExitStack())  # what is fetched and taken in goes when nobody reads it any more
            session = Session(
                ground, request, lease, events.put_nowait, hold, self._locks, self._shared, late,
                started=ground.context.clock(),
            )  # fmt: skip
            stack.callback(self._let_go, session, late)
            await self._take_contexts(session, chunks, late)
            if request.options.check:
                await planning.check(session)
                return BuildResult()
            exporting.check(session)
            platformindex.check(session)
            cachetransfer.check(request.options)
            plans = await planning.plan(session)
            session.remotes = [*await localcache.load(session), *await cachetransfer.load(session)]
            solver = Solver(session, plans[0].vertices)
            events.put_nowait(planning.announce(plans, solver.name))
            trees = await solver.solve([plan.result for plan in plans])
            result = await output.make_images(session, plans, trees)
            await exporting.push(session)
            made, results = list(trees.values()), [trees[plan.result].chain for plan in plans]
            await cachetransfer.export(session, made, results)
            return structs.replace(result, caches=self._shelf.put(session, made, results))

    def _let_go(self, session: Session, late: ExitStack) -> None:
        """The build has ended; a step of it that another build waits for may still need its files."""
        going_on = self._shared.started_by(session)
        if not going_on:
            return
        kept = late.pop_all()

        async def later() -> None:
            await asyncio.wait(going_on)
            kept.close()

        self._ground.context.spawn(later(), "build: taking away its context")

    async def _take_contexts(self, session: Session, chunks: AsyncIterator[bytes] | None, stack: ExitStack) -> None:
        request, layout = session.request, self._ground.context.layout
        ids = dict(request.contexts)
        if request.context_id:
            ids[""] = request.context_id
        elif chunks is not None:
            ids[""] = await sources.receive(self._ground, chunks, request.options.source_date_epoch)
        for context_id in dict.fromkeys([*ids.values(), *localcache.uploads(request.options)]):
            if not _CONTEXT_ID.match(context_id):
                raise NotFound(f"no such build context: {context_id[:100]}")
            self._claim(context_id)
            stack.callback(self._forget, context_id)
        for name, context_id in ids.items():
            session.contexts[name] = await asyncio.to_thread(sources.open_context, layout, context_id)
        if request.remote and "" not in ids:
            session.contexts[""], single = await fetching.remote(session, request.remote)
            if single:  # whatever name the client has for its Dockerfile
                session.dockerfile = await asyncio.to_thread(sources.read_dockerfile, session.contexts[""], "")
        for tree in session.contexts.values():
            if tree.spool is not None:
                stack.callback(tree.spool.dispose)
        if "" in session.contexts:
            session.contexts[""] = await sources.without_ignored(
                session, session.contexts[""], whole=bool(request.remote)
            )
