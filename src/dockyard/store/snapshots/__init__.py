"""Layers and the containers' root file systems that are made of them.

Owns: `Snapshots`: containers' writable layers over the layers (`layerstore`), and sweeping at the start what has no
row. Does not own: how they lie on disk (`drivers`), images (`store.images`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from dockyard.model.errors import NotFound, SystemFailure
from dockyard.store import measuring, quotas, workdir
from dockyard.store.db import Database
from dockyard.store.inline import Call
from dockyard.store.layout import Layout
from dockyard.store.snapshots import layers as table
from dockyard.store.snapshots.choosing import choose_driver
from dockyard.store.snapshots.directories import NO_LAYER, Directories
from dockyard.store.snapshots.drivers import DRIVERS
from dockyard.store.snapshots.layers import Layer, LayerDocument
from dockyard.store.snapshots.layerstore import LayerStore, Lease, always

__all__ = ["Layer", "LayerDocument", "Lease", "Snapshots"]

_REMEMBERED: Final = 4096  # paths


class Snapshots(LayerStore):
    """All layers and all containers' writable layers. For the event loop's thread."""

    def __init__(self, layout: Layout, database: Database, call: Call, *, driver: str = "") -> None:
        """`driver`: "overlay", "btrfs", "vfs", or "" for what the first start found to work."""
        super().__init__(layout, database, call)
        self._wanted_driver = driver
        self._containers: dict[str, str | None] = {}  # short id -> chain
        self._views: dict[str, list[str]] = {}  # short id -> chains of its image mounts
        self._directories: set[tuple[str | None, str]] = set()  # (chain, path) known to be there

    async def open(self) -> None:
        """Choose the driver, read the layers, sweep what has no row. `warnings` says what the user should know."""
        name, warning = await choose_driver(self._layout, self._database, self._wanted_driver)
        self.warnings += [warning] if warning else []
        base = self._layout.snapshots / name
        self._driver = DRIVERS[name](Directories(base), self._call)
        self._layers = {layer.chain_id: layer for layer in await self._database.read(table.load)}
        await self._drop_doubtful()
        await self._sweep()
        self._settle_soon()

    async def _sweep(self) -> None:
        known = {layer.directory for layer in self._layers.values()}
        for short in self._ready.directories.layers() - known:
            self._discard(short)
        for entry in self._layout.snapshots.iterdir():
            if entry.name.startswith("probe-"):
                self._layout.discard(entry)
        known_containers = await self._database.read(_containers)
        for short, spec in known_containers.items():
            if viewed := [mount.chain_id for mount in spec.mounts if mount.type == "image" and mount.chain_id]:
                self._views[short] = viewed
        for short in self._ready.directories.containers():
            if short not in known_containers:
                self._layout.discard(self._ready.directories.base / "c" / short)
                continue
            chain = known_containers[short].chain_id
            if chain is None or chain in self._layers:
                self._containers[short] = chain

    async def is_new_boot(self) -> bool:
        """Whether the machine was started since `remember_boot`: what was not on disk then is lost."""

        def recorded(connection: sqlite3.Connection) -> str:
            row = connection.execute("SELECT value FROM meta WHERE key = 'boot'").fetchone()
            return str(row[0]) if row else ""

        return await self._database.read(recorded) != self._boot_id

    async def remember_boot(self) -> None:
        statement = "INSERT OR REPLACE INTO meta VALUES ('boot', ?)"
        await self._database.write(lambda connection: connection.execute(statement, (self._boot_id,)) and None)

    # --- containers --------------------------------------------------------------------------------------------------

    async def prepare(
        self,
        container_id: str,
        chain: str | None,
        *,
        views: Sequence[str] = (),
        size: int = 0,
        copy_of: str | None = None,
    ) -> None:
        """Make a container's writable layer on top of `chain` (None: nothing). NotFound if the layers have gone.

        `views`: chains that it has mounted beside (`view`), kept as long. `size`: bytes that it may write, 0: any;
        ask `why_no_limit` first. `copy_of`: a container on the same chain, whose writable layer it begins with a copy
        of; nothing may be writing there meanwhile.
        """
        short = container_id[:26]
        for each in (chain, *views):
            if each is not None and each not in self._layers:
                raise NotFound(f"layer {each} does not exist")
        self._containers[short] = chain
        if views:
            self._views[short] = list(views)
        try:
            await self._ready.prepare(container_id, chain, self.chain(chain), copy_of)
            if size:
                await asyncio.to_thread(self._ready.limit, container_id, size)
            if copy_of is not None:
                await self._ready.fill(container_id, copy_of)
        except BaseException as error:
            self.remove(container_id)
            if isinstance(error, OSError):
                raise SystemFailure(f"container {container_id[:12]}: {error.strerror}") from error
            raise

    def rootfs(self, container_id: str) -> dict[str, Any]:
        """What the runtime mounts: a `runtime.launch.Rootfs`. NotFound if it was not prepared (or got lost)."""
        short = container_id[:26]
        if short not in self._containers:
            raise NotFound(f"the writable layer of container {container_id[:12]} is missing")
        return self._ready.rootfs(container_id, self.chain(self._containers[short]))

    def chain_of(self, container_id: str) -> str | None:
        """What a container's writable layer lies on; None: on nothing, or there is no such container."""
        return self._containers.get(container_id[:26])

    def writable(self, container_id: str) -> Path:
        """The directory of a container's writable layer (not overlay: of all its files)."""
        return self._ready.directories.container(container_id) / "fs"

    def scratch(self, container_id: str) -> Path:
        """A directory of a prepared container for what shall go with it; `fs`, `work` and `chain` in it are taken."""
        return self._ready.directories.container(container_id)

    def remove(self, container_id: str) -> None:
        """Take a container's writable layer away. Missing is fine. Nothing may be mounted on it."""
        chain = self._containers.pop(container_id[:26], None)
        views = self._views.pop(container_id[:26], [])
        quotas.release(self._ready.directories.container(container_id))
        self._layout.discard(self._ready.directories.container(container_id))
        alone = [each for each in (chain, *views) if each is not None and each not in self._containers.values()]
        if alone and self._collector is not None:
            self._collector()

    async def commit(
        self,
        container_id: str,
        lease: Lease,
        *,
        consume: bool,
        stubs: Sequence[str] = (),
        epoch: int | None = None,
        call: Call | None = None,
        taken: Callable[[], Awaitable[None]] | None = None,
    ) -> Layer | None:
        """Make a layer of what a container has written; None if that is nothing. Nothing may be writing meanwhile.

        `consume`: the writable layer itself becomes it (the container is no more to be started: `remove` it), else a
        copy. `stubs`: the container's mount points, whose empty files and directories are none of its doing. `epoch`:
        seconds; no file of the layer is younger. `call` runs the work, if not a worker process. `taken` is called once
        the files are taken: from then on the container may write again. The layer is held by `lease`. InvalidArgument
        if it would be one too many; SystemFailure naming the cause; nothing is left then.
        """
        driver, what = self._ready, f"container {container_id[:12]}"
        short_id = container_id[:26]
        if short_id not in self._containers:
            raise NotFound(f"the writable layer of {what} is missing")
        below = await self._below(always(self._containers[short_id]), what)
        with self._fresh() as fresh:
            try:
                await driver.take(container_id, fresh.short, consume=consume)
            except OSError as error:
                raise SystemFailure(f"{what}: {error.strerror}") from error
            if taken is not None:
                await taken()
            result = await self._seal(fresh.short, below, stubs, epoch, call or self._call)
            return await self._keep_sealed(fresh, below, result, lease)

    async def _seal(
        self, short: str, below: Layer | None, stubs: Sequence[str], epoch: int | None, call: Call
    ) -> dict[str, Any]:
        driver = self._ready
        lower = [self.tree_of(layer) for layer in self.chain(below.chain_id if below else None)]
        arguments = {
            "tree": str(driver.directories.tree(short)), "recipe": str(driver.directories.recipe(short)),
            "overlay": driver.overlay, "lower": lower if driver.overlay else lower[:1], "stubs": list(stubs),
            "epoch": epoch,
        }  # fmt: skip
        result: dict[str, Any] = await call("dockyard.store.commit:seal", arguments)
        return result

    def written(self, container_id: str) -> dict[str, Any]:
        """Where a container's writable tree lies, for worker functions: {"tree", "lower": what it lies on, topmost
        first (not overlay: all of it in one), "overlay"}. NotFound if it was not prepared."""
        short = container_id[:26]
        if short not in self._containers:
            raise NotFound(f"the writable layer of container {container_id[:12]} is missing")
        lower = [self.tree_of(layer) for layer in self.chain(self._containers[short])]
        driver = self._ready
        tree = str(driver.directories.container(container_id) / "fs")
        return {"tree": tree, "lower": lower if driver.overlay else lower[:1], "overlay": driver.overlay}

    async def usages(self, container_ids: Sequence[str]) -> list[int]:
        """Bytes of the files that each container has written: of its writable layer (vfs, btrfs: not its image's); 0
        for one whose writable layer has gone."""
        trees = (self._written_tree(container_id) for container_id in container_ids)
        return [max(size, 0) for size in await measuring.sizes(self._call, trees, len(container_ids))]

    def _written_tree(self, container_id: str) -> measuring.Tree:
        path = str(self._ready.directories.container(container_id) / "fs")
        chain = self._containers.get(container_id[:26])
        return measuring.Tree(path, "" if self._ready.overlay or chain is None else self.tree_of(self.layer(chain)))

    def view(self, chain: str | None) -> dict[str, Any]:
        """Layers as they are, to be mounted read-only: a `runtime.launch.Rootfs` without its writable part."""
        layers = self.chain(chain)
        base = self._ready.directories.base
        if self._ready.overlay and len(layers) > 1:
            return {"type": "overlay", "base": str(base), "lower": [f"l/{layer.directory}" for layer in layers]}
        path = self.tree_of(layers[0]) if layers else str(base / "l" / NO_LAYER)
        return {"type": "directory", "path": path}

    async def has_directory(self, chain: str | None, path: str) -> bool:
        """Whether layers have a directory at `path`: remembered, for layers do not change. SystemFailure."""
        if (chain, path) in self._directories:
            return True
        layers = [self.tree_of(layer) for layer in self.chain(chain)]
        layers = layers if self._ready.overlay else layers[:1]
        try:
            found = await asyncio.to_thread(workdir.exists, layers, path)
        except OSError as error:
            raise SystemFailure(f"layer {chain}: {error.strerror}") from error
        if found:
            if len(self._directories) >= _REMEMBERED:
                self._directories.clear()
            self._directories.add((chain, path))
        return found

    async def make_directory(self, container_id: str, path: str) -> None:
        """Make a directory in a container's writable layer; nothing may be mounted on that. InvalidArgument if
        something else is in the way."""
        place = {"rootfs": self.rootfs(container_id), "writable": True}
        await self._call("dockyard.store.workdir:make", {"place": place, "path": path})

    def why_no_limit(self) -> str:
        """Why a container's writable layer cannot have a size, in Docker's words; "" if it can."""
        return self._ready.why_no_limit()

    def chains_of_containers(self) -> set[str]:
        """What containers lie on or have mounted."""
        viewed = {chain for chains in self._views.values() for chain in chains}
        return viewed | {chain for chain in self._containers.values() if chain is not None}


class _Mount(Struct):
    type: str = ""
    chain_id: str | None = None


class _Spec(Struct):
    """What a container's row says of layers."""

    chain_id: str | None = None
    mounts: list[_Mount] = field(default_factory=list)


def _containers(connection: sqlite3.Connection) -> dict[str, _Spec]:
    """By short id: containers' rows, of which there may be ten thousand: nothing is asked of the disk for each."""
    decode = msgspec.json.Decoder(_Spec).decode
    return {str(id_)[:26]: decode(spec) for id_, spec in connection.execute("SELECT id, spec FROM containers")}
