"""What the modules about containers share: the services below and beside them, and the way status gets to disk.

Owns: `Context` (built once), what is asked of images, what events tell about a container, when status is written.
Does not own: any use case.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from dockyard.engine.container import Container, Registry
from dockyard.engine.events import Events
from dockyard.engine.labels import Labelling
from dockyard.engine.leases import Leases
from dockyard.engine.metrics import Metrics
from dockyard.engine.networks import Networks
from dockyard.engine.runtimes import OciRuntime, known
from dockyard.engine.volumes import Volumes
from dockyard.model.container import ContainerConfig
from dockyard.model.errors import DockyardError, SystemFailure
from dockyard.model.oci import Platform
from dockyard.runtime.bundle import Bundler
from dockyard.runtime.cgroups.facts import CgroupFacts, read_facts
from dockyard.runtime.client import Runtime
from dockyard.store.containers import ContainerStore
from dockyard.store.journal.follow import Watcher
from dockyard.store.layout import Layout
from dockyard.store.snapshots import Snapshots

T = TypeVar("T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # s
log = logging.getLogger(__name__)


async def again(work: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
    """Do `work`, which the host has refused, after a pause, until it does not (a disk that was full has room again).
    `what`: what is the matter meanwhile, for the log."""
    pause = _FIRST_PAUSE
    while True:
        await asyncio.sleep(pause)
        try:
            await work()
        except SystemFailure as error:
            if pause == _FIRST_PAUSE:
                log.warning("%s: %s; trying again", what, error)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            return


class Origin(Protocol):
    """What a container is made of."""

    @property
    def id(self) -> str: ...
    @property
    def config(self) -> ContainerConfig: ...
    @property
    def chain_id(self) -> str | None: ...


class Image(Origin, Protocol):
    def descends_from(self, other: Any, /) -> bool: ...


class Images(Protocol):
    def get(self, ref: str) -> Image:
        """NotFound "No such image: REF"."""

    def get_for(self, ref: str, wanted: Platform | None) -> Image:
        """As `get`, for that platform; NotFound too if there is none for it."""


@dataclass(slots=True)
class Context:
    """The services of one engine."""

    layout: Layout
    store: ContainerStore
    runtime: Runtime
    bundler: Bundler
    snapshots: Snapshots
    images: Images
    networks: Networks
    volumes: Volumes
    leases: Leases
    events: Events
    clock: Callable[[], int]  # wall clock, ns since the epoch
    runtimes: Mapping[str, OciRuntime] = field(default_factory=lambda: known({}))  # that `--runtime` may name
    cgroups: CgroupFacts = field(default_factory=read_facts)
    cgroup_driver: str = "cgroupfs"
    labels: Labelling = field(default_factory=Labelling)
    registry: Registry = field(default_factory=Registry)
    watcher: Watcher = field(default_factory=Watcher)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    started: list[Callable[[Container, bool], None]] = field(default_factory=list)  # it runs; True: it was adopted
    ended: list[Callable[[Container], None]] = field(default_factory=list)  # its program has ended
    changed: list[Callable[[Container], None]] = field(default_factory=list)  # its settings were changed in place
    removed: list[Callable[[Container], None]] = field(default_factory=list)  # called when a container is gone
    unsaved: dict[str, Container] = field(default_factory=dict)  # whose status the disk has refused, by id
    metrics: Metrics = field(default_factory=Metrics)
    real_time: tuple[int, int] = (0, 0)  # period and runtime for the groups above containers', µs; 0: what they have
    container_size: int = 0  # bytes that a container may write which names no size; 0: any
    closing: bool = False

    def spawn(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Run `work` beside everything; its failure is logged with `what` unless somebody awaits it first."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(lambda done: self._reap(done, what))
        return task

    def _reap(self, task: asyncio.Task[Any], what: str) -> None:
        self.tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, DockyardError):
            log.warning("%s: %s", what, error)
        else:
            log.error("%s", what, exc_info=error)

    async def finish(self, work: Coroutine[Any, Any, T], what: str) -> T:
        """Do `work` to its end even if whoever waits for it goes away: a half-made change helps nobody."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: self._reap(done, what))
            raise

    def publish(self, container: Container, action: str, **attributes: str) -> None:
        """A container's event, with what Docker tells about the container: labels, image, name."""
        about = {**container.labels, "image": container.image_ref, "name": container.name, **attributes}
        self.events.publish("container", action, container.id, about)

    def save_soon(self, container: Container, delay: float = 0) -> asyncio.Task[None]:
        """Write status and desired state as they will be in `delay` s, or when the disk is ready; changes in between
        share a write. What a crash loses of it is found again where the runtime keeps its state (`restoring`)."""
        running = container.written
        if running is not None and not running.done() and container.dirty:
            return running  # it has not begun to write yet
        container.dirty = True
        work = self._save(container, running, delay)
        container.written = self.spawn(work, f"container {container.id}: saving its status")
        return container.written

    async def save(self, container: Container) -> None:
        """Write them now; returns when they are on disk. SystemFailure if the disk refuses: then they are written as
        soon as it does not."""
        try:
            await self.store.save_status(container.id, container.status, container.desired)
        except SystemFailure:
            if not self.unsaved:
                self.spawn(again(self._save_rest, "statuses of containers are not written"), "saving statuses")
            self.unsaved[container.id] = container
            raise

    async def promise(self, container: Container) -> None:
        """As `save`, of what has happened already: a disk that refuses does not undo it."""
        try:
            await self.save(container)
        except SystemFailure as error:
            log.warning("container %s: saving its status: %s", container.id, error)

    async def _save_rest(self) -> None:
        while self.unsaved:
            _, container = self.unsaved.popitem()
            if not container.removed:
                try:
                    await self.store.save_status(container.id, container.status, container.desired)
                except SystemFailure:
                    self.unsaved[container.id] = container
                    raise

    async def _save(self, container: Container, before: asyncio.Task[None] | None, delay: float) -> None:
        if before is not None and not before.done():
            await asyncio.wait({before})
        if delay:
            await asyncio.sleep(delay)
        container.dirty = False
        if not container.removed:
            await self.save(container)
