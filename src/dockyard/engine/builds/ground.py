"""What the modules of the builder share.

Owns: `Ground` (the services, built once), `Session` (one build: its request, its lease, what it tells), `Tree` (the
result of a step). Does not own: any step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dockyard.engine.builds.cachemounts import Locks
from dockyard.engine.builds.request import BuildRequest
from dockyard.model.build import BuildEvent, BuildOptions
from dockyard.store.builds.spool import SpoolTree
from dockyard.store.mergedtree import MergedTree
from dockyard.store.snapshots import Lease
from dockyard.store.treeview import TreeView

if TYPE_CHECKING:
    from dockyard.engine.builds.cachetransfer import RemoteCache
    from dockyard.engine.context import Context
    from dockyard.engine.images.catalogue import Image
    from dockyard.engine.images.services import Services
    from dockyard.engine.transfers import Transfers
    from dockyard.store.builds.cache import BuildCache, Record
    from dockyard.store.builds.secretfiles import SecretFiles

Emit = Callable[[BuildEvent], None]


@dataclass(frozen=True, slots=True)
class Ground:
    """The services that building stands on."""

    context: Context
    services: Services
    transfers: Transfers
    cache: BuildCache
    secret_files: SecretFiles


@dataclass(frozen=True, slots=True)
class Tree:
    """What a step gives to others: a file system, as layers or as one directory.

    `layers`: directories, topmost first, as `MergedTree` wants them. `chain`: what they are called in the store, for
    file systems; `identity`: of other trees, what their content is called. `spool`: a context, which has no layers.
    """

    layers: tuple[str, ...] = ()
    chain: str | None = None
    is_rootfs: bool = True
    identity: str = ""
    spool: SpoolTree | None = None
    record: Record | None = None
    made: bool = False  # the step made a layer
    cached: bool = False
    created: int = 0  # ns; of the step that made it, 0: of no step

    def source(self) -> dict[str, Any]:
        """As worker functions take it (`store.builds.selecting.open_source`)."""
        return {"spool": self.spool} if self.spool is not None else {"trees": list(self.layers)}

    def open(self) -> TreeView:
        """To be looked at; use in `with`."""
        return self.spool if self.spool is not None else MergedTree(self.layers)


@dataclass(slots=True)
class Session:
    """One build under way."""

    ground: Ground
    request: BuildRequest
    lease: Lease
    emit: Emit
    hold: Callable[[Record], None]
    locks: Locks
    shared: Shared
    stack: ExitStack  # what is left on it is undone at the build's end
    contexts: dict[str, Tree] = field(default_factory=dict)  # by name, "" is the main one
    images: dict[tuple[str, str], Image] = field(default_factory=dict)  # by reference and platform
    dockerfile: bytes | None = None  # its text, where it is no longer in the context
    directories: dict[str, Tree] = field(default_factory=dict)  # contexts that have become directories, to be mounted
    epoch: int | None = None  # SOURCE_DATE_EPOCH, once the Dockerfile is read
    started: int = 0  # ns
    remotes: list[RemoteCache] = field(default_factory=list)  # of --cache-from

    @property
    def options(self) -> BuildOptions:
        return self.request.options


class Shared:
    """Steps under way, of all builds: identical ones are done once. See `join`."""

    def __init__(self) -> None:
        self._works: dict[str, _Work] = {}

    def started_by(self, owner: object) -> list[asyncio.Task[Tree]]:
        """Steps that still go on, because somebody else waits for them, too."""
        return [work.task for work in self._works.values() if work.owner is owner]

    async def join(self, key: str, start: Callable[[Emit], Awaitable[Tree]], emit: Emit, owner: object) -> Tree:
        """The step's result. It begins now if it is not under way; what it tells from its beginning on goes to `emit`.
        When the last one that waits is cancelled the step is, and has ended when this returns."""
        work = self._works.get(key)
        if work is None:
            work = self._works[key] = _Work(start, owner)
            work.task.add_done_callback(lambda _: self._gone(key))
        for event in work.told:
            emit(event)
        work.listeners.append(emit)
        try:
            return await asyncio.shield(work.task)
        finally:
            work.listeners.remove(emit)
            if not work.listeners and not work.task.done():
                self._gone(key)
                work.task.cancel()
                await asyncio.gather(work.task, return_exceptions=True)

    def _gone(self, key: str) -> None:
        work = self._works.pop(key, None)
        if work is not None and work.task.done() and not work.task.cancelled():
            work.task.exception()  # somebody has to look at it


_KEPT = 2000  # events of a step under way that a later build is told


class _Work:
    def __init__(self, start: Callable[[Emit], Awaitable[Tree]], owner: object) -> None:
        self.owner = owner
        self.told: list[BuildEvent] = []
        self.listeners: list[Emit] = []
        self.task: asyncio.Task[Tree] = asyncio.ensure_future(self._run(start))

    async def _run(self, start: Callable[[Emit], Awaitable[Tree]]) -> Tree:
        return await start(self._tell)

    def _tell(self, event: BuildEvent) -> None:
        if len(self.told) < _KEPT:
            self.told.append(event)
        for listener in self.listeners:
            listener(event)
