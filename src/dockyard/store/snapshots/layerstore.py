"""The layers: making them, which there are, taking away those that nobody needs.

Owns: `LayerStore`, `Lease`, the rows of layers and their order with the files: what a crash or a power loss left of
them. Does not own: containers' writable layers (`Snapshots`), how layers lie on disk (`drivers`).

A layer's row is committed before its files are known to be on disk: `document.boot_id` says so until a syncfs behind
has ended. If the machine went down before that, the next `open` drops the layer (its files may be short), and whoever
owns images drops those made of it; if only the daemon died, the kernel still has the files.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dockyard.linux.paths import syncfs
from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.model.oci import MAX_LAYERS, chain_id
from dockyard.store.db import Database
from dockyard.store.inline import Call
from dockyard.store.layout import Layout
from dockyard.store.snapshots import layers as table
from dockyard.store.snapshots.drivers import Driver
from dockyard.store.snapshots.layers import Layer, LayerDocument
from dockyard.store.spooling import temporary_file


class Lease:
    """Keeps layers from being collected until their image has a row. Use in `with`."""

    def __init__(self, held: Counter[str]) -> None:
        self._held = held
        self._own: list[str] = []

    def add(self, chain: str) -> None:
        self._held[chain] += 1
        self._own.append(chain)

    def drop(self, chain: str) -> None:
        """Let go of one hold on `chain`, before the end."""
        self._own.remove(chain)
        self._held[chain] -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for chain in self._own:
            self._held[chain] -= 1
        self._own.clear()


@dataclass
class _Fresh:
    """A layer that is being made: its name in the store, and whether it has its row."""

    short: str
    kept: bool = False


class LayerStore:
    """All layers. For the event loop's thread. Abstract: who lies on them, and the driver, come with `Snapshots`."""

    def __init__(self, layout: Layout, database: Database, call: Call) -> None:
        self._layout = layout
        self._database = database
        self._call = call
        self._driver: Driver | None = None
        self._layers: dict[str, Layer] = {}
        self._leases: Counter[str] = Counter()
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._settling: asyncio.Task[None] | None = None
        self._collecting: set[asyncio.Task[Any]] = set()
        self._collector: Callable[[], Any] | None = None
        self.warnings: list[str] = []

    def chains_of_containers(self) -> set[str]:
        """What containers lie on or have mounted."""
        raise NotImplementedError

    async def close(self) -> None:
        """Wait for what goes on behind."""
        pending = [*self._collecting, *([self._settling] if self._settling else [])]
        await asyncio.gather(*pending, return_exceptions=True)

    @property
    def driver(self) -> str:
        """Its name, for `info`."""
        return self._ready.name

    @property
    def _ready(self) -> Driver:
        if self._driver is None:
            raise SystemFailure("the snapshots are not open")
        return self._driver

    # --- layers ----------------------------------------------------------------------------------------------------

    def has(self, chain: str) -> bool:
        return chain in self._layers

    def layer(self, chain: str) -> Layer:
        """SystemFailure if it is not there."""
        try:
            return self._layers[chain]
        except KeyError:
            raise SystemFailure(f"layer {chain} is missing from the store") from None

    def chain(self, top: str | None) -> list[Layer]:
        """The layers from `top` down to the first."""
        found: list[Layer] = []
        while top is not None:
            layer = self.layer(top)
            found.append(layer)
            top = layer.parent
        return found

    def lease(self) -> Lease:
        return Lease(self._leases)

    async def unpack(
        self,
        fd: int,
        parent: str | None,
        lease: Lease,
        *,
        what: str,
        diff_id: str | None = None,
        offset: int | None = None,
        length: int | None = None,
        need_end: bool = False,
        blob: tuple[str, str, int] | None = None,
    ) -> Layer:
        """Make a layer on top of `parent` from the tar in `fd` (a pipe, or a region of a file; compressed or not).

        `diff_id`: what the digest of the uncompressed tar has to be. `blob`: digest, media type and size of the stored
        blob that it is. The layer is held by `lease`. Raises InvalidArgument or SystemFailure naming `what` and the
        cause; nothing is left then.
        """

        async def work(place: dict[str, Any]) -> dict[str, Any]:
            arguments = {"what": what, "offset": offset, "length": length, "need_end": need_end, **place}
            result: dict[str, Any] = await self._call("dockyard.store.unpack:apply", arguments, [fd])
            return result

        return await self.unpack_by(work, always(parent), lease, what=what, diff_id=diff_id, blob=blob)

    async def unpack_by(
        self,
        work: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]],
        parent: Callable[[], Awaitable[str | None]],
        lease: Lease,
        *,
        what: str,
        diff_id: str | None = None,
        blob: tuple[str, str, int] | None = None,
    ) -> Layer:
        """As `unpack`, by a `work` that is given `root`, `recipe` and `overlay` for `store.unpack:apply`.

        `parent()` gives the chain beneath when it is there: where layers lie by themselves (overlay) it is awaited
        after the work, so that the layers of an image may be unpacked side by side and out of order.
        """
        driver = self._ready
        below = await self._below(parent, what) if not driver.overlay else None
        with self._fresh() as fresh:
            await self._begin(fresh.short, below, what)
            directories = driver.directories
            place = {
                "root": str(directories.tree(fresh.short)), "recipe": str(directories.recipe(fresh.short)),
                "overlay": driver.overlay,
            }  # fmt: skip
            result = await work(place)
            found = f"sha256:{result['digest']}"
            if diff_id is not None and found != diff_id:
                raise InvalidArgument(f"{what}: its content has the digest {found}, not {diff_id}")
            below = await self._below(parent, what) if driver.overlay else below
            return await self._keep(fresh, self._new_layer(fresh.short, below, found, result, blob), lease)

    async def make(
        self,
        work: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]],
        chain: str | None,
        lease: Lease,
        *,
        what: str,
    ) -> Layer | None:
        """A layer upon `chain` out of a tree that `work` makes; None if it says "empty".

        `work` is given {"root", "recipe"}: empty directories for the layer's own files, as overlay keeps them, and for
        its recipe; it returns what `store.commit.seal` does. Where layers are whole trees the result is packed and
        unpacked once more on a copy of what lies beneath.
        """
        driver = self._ready
        below = await self._below(always(chain), what)
        with self._fresh() as fresh:
            try:
                driver.directories.make_layer(fresh.short)
                tree, recipe = str(driver.directories.tree(fresh.short)), str(driver.directories.recipe(fresh.short))
                result = await work({"root": tree, "recipe": recipe})
                if not driver.overlay and not _nothing_new(result, below):
                    return await self._repack(tree, recipe, chain, lease, what)
            except OSError as error:
                raise SystemFailure(f"{what}: {error.strerror}") from error
            return await self._keep_sealed(fresh, below, result, lease)

    @contextmanager
    def _fresh(self) -> Iterator[_Fresh]:
        """A name for a new layer. What is made under it is taken away afterwards, unless `_keep` has kept it."""
        fresh = _Fresh(self._ready.directories.new_name())
        try:
            yield fresh
        finally:
            if not fresh.kept:
                self._discard(fresh.short)

    async def _keep(self, fresh: _Fresh, layer: Layer, lease: Lease) -> Layer:
        """Write the row of what was made. The layer of that chain: this one, or one that has appeared meanwhile."""
        commit = asyncio.ensure_future(self._commit(layer, lease))
        try:
            fresh.kept = await asyncio.shield(commit)
        except asyncio.CancelledError:
            fresh.kept = await commit  # the row may be written already: it and its files stay together
            raise
        return self._layers[layer.chain_id]

    async def _keep_sealed(
        self, fresh: _Fresh, below: Layer | None, result: dict[str, Any], lease: Lease
    ) -> Layer | None:
        """Keep what `store.commit.seal` has told of; None if it would change nothing."""
        if _nothing_new(result, below):
            return None
        return await self._keep(
            fresh, self._new_layer(fresh.short, below, f"sha256:{result['digest']}", result, None), lease
        )

    async def _repack(self, tree: str, recipe: str, chain: str | None, lease: Lease, what: str) -> Layer:
        with temporary_file(self._layout) as fd:
            await self._call("dockyard.store.recipe:rebuild_into", {"recipe": recipe, "tree": tree}, [fd])
            return await self.unpack(fd, chain, lease, what=what, offset=0, length=os.fstat(fd).st_size)

    async def _below(self, parent: Callable[[], Awaitable[str | None]], what: str) -> Layer | None:
        chain = await parent()
        if chain is not None and len(self.chain(chain)) >= MAX_LAYERS:
            raise InvalidArgument(f"{what}: max depth exceeded: more than {MAX_LAYERS} layers")
        return self.layer(chain) if chain is not None else None

    async def _begin(self, short: str, below: Layer | None, what: str) -> None:
        try:
            await self._ready.begin_layer(short, below)
        except OSError as error:
            raise SystemFailure(f"{what}: {error.strerror}") from error

    def _new_layer(
        self, short: str, below: Layer | None, diff_id: str, result: dict[str, Any], blob: tuple[str, str, int] | None
    ) -> Layer:
        inherited = below.document if below else LayerDocument()
        mode, uid, gid = result["root"] or (inherited.root_mode, inherited.root_uid, inherited.root_gid)
        digest, media_type, blob_size = blob or (None, "", 0)
        document = LayerDocument(
            size=result["size"],
            tar_size=result["tar_size"],
            root_mode=mode,
            root_uid=uid,
            root_gid=gid,
            recipe=True,
            media_type=media_type,
            blob_size=blob_size,
            boot_id=self._boot_id,
        )
        parent = below.chain_id if below else None
        return Layer(chain_id(diff_id, parent), diff_id, parent, short, digest, document)

    async def _commit(self, layer: Layer, lease: Lease) -> bool:
        """Write the row; False if the same layer has appeared meanwhile (that one is used then)."""
        lease.add(layer.chain_id)
        if layer.chain_id in self._layers:
            return False
        try:
            await self._database.write(lambda connection: table.insert(connection, layer))
        except sqlite3.IntegrityError:
            if layer.chain_id in self._layers:
                return False
            raise SystemFailure(f"layer {layer.chain_id}: its parent has gone") from None
        self._layers[layer.chain_id] = layer
        self._settle_soon()
        return True

    async def remember_blob(self, chain: str, digest: str, media_type: str, size: int) -> None:
        """Note as which blob a layer went to a registry. The blob itself need not be kept here."""
        layer = self.layer(chain)
        layer.blob, layer.document.media_type, layer.document.blob_size = digest, media_type, size
        await self._database.write(lambda connection: table.update(connection, layer))

    def ahead(self) -> tuple[Path, Path] | None:
        """(trees, recipes): where layers may be unpacked before it is known what they lie on. None: only upon others.

        Entries have names of `Directories.new_name`'s kind; what has no row at the next start is swept.
        """
        return self._ready.directories.places() if self._ready.overlay else None

    def with_diff(self, diff_id: str) -> Layer | None:
        """A layer with that content, whatever it lies on."""
        return next((layer for layer in self._layers.values() if layer.diff_id == diff_id), None)

    def all_layers(self) -> list[Layer]:
        return list(self._layers.values())

    def trees(self, chain: str | None) -> tuple[str, ...]:
        """What has to be merged to see a chain's files, topmost first: for `store.mergedtree`."""
        layers = self.chain(chain) if self._ready.overlay else self.chain(chain)[:1]
        return tuple(self.tree_of(layer) for layer in layers)

    @property
    def overlays(self) -> bool:
        """Whether layers lie by themselves and overlayfs puts them together."""
        return self._ready.overlay

    def tree_of(self, layer: Layer) -> str:
        """The directory of a layer's files, as an argument for worker functions."""
        return self._ready.directories.tree_path(layer.directory)

    def recipe_of(self, layer: Layer) -> str:
        return str(self._ready.directories.recipe(layer.directory))

    def is_whole(self, layer: Layer) -> bool:
        """Whether its directories are there."""
        directories = self._ready.directories
        return directories.tree(layer.directory).is_dir() and directories.recipe(layer.directory).is_dir()

    def blobs(self) -> set[str]:
        """Every blob that a layer refers to."""
        return {layer.blob for layer in self._layers.values() if layer.blob}

    def graph_data(self, top: str | None) -> dict[str, str]:
        """Where an image's layers lie, as `inspect` shows it."""
        trees = [self.tree_of(layer) for layer in self.chain(top)]
        if not self._ready.overlay or not trees:
            return {}
        data = {"UpperDir": trees[0]}
        if trees[1:]:
            data["LowerDir"] = ":".join(trees[1:])
        return data

    # --- collection --------------------------------------------------------------------------------------------------

    def on_release(self, function: Callable[[], Any]) -> None:
        """`function()` is called when a container has let go of a chain on which no other lies: its image may be gone
        already."""
        self._collector = function

    async def collect(self, roots: Iterable[str]) -> list[Layer]:
        """Remove the layers that neither `roots` nor containers nor leases need; returns them."""
        unused = self._unneeded(roots)
        await self._forget(unused)
        return unused

    def has_unneeded(self, roots: Iterable[str]) -> bool:
        """Whether `collect` would remove anything."""
        return bool(self._unneeded(roots))

    def run_behind(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let something go on without being waited for; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._collecting.add(task)
        task.add_done_callback(self._collecting.discard)

    def _unneeded(self, roots: Iterable[str]) -> list[Layer]:
        needed: set[str] = set()
        held = [chain for chain, count in self._leases.items() if count > 0]
        for top in [*roots, *self.chains_of_containers(), *held]:
            current: str | None = top
            while current is not None and current not in needed:
                needed.add(current)
                current = self._layers[current].parent if current in self._layers else None
        return [layer for chain, layer in self._layers.items() if chain not in needed]

    async def _forget(self, unwanted: list[Layer]) -> None:
        if not unwanted:
            return
        # Out of sight first, so that nothing new is made on them; children before their parents.
        ordered = sorted(unwanted, key=lambda layer: -len(self._ancestors(layer)))
        for layer in unwanted:
            self._layers.pop(layer.chain_id, None)
        chains = [layer.chain_id for layer in ordered]
        gone = await self._database.write(lambda connection: table.delete(connection, chains))
        for layer in unwanted:
            if layer.chain_id in gone:
                self._discard(layer.directory)
            else:  # a layer that was just being made has come to lie on it: the next collection sees both
                self._layers[layer.chain_id] = layer

    def _ancestors(self, layer: Layer) -> list[str]:
        found = []
        current = layer.parent
        while current is not None:
            found.append(current)
            current = self._layers[current].parent if current in self._layers else None
        return found

    def _discard(self, short: str) -> None:
        self._layout.discard(self._ready.directories.tree(short))
        self._layout.discard(self._ready.directories.recipe(short))

    # --- durability -----------------------------------------------------------------------------------------------

    async def _drop_doubtful(self) -> None:
        """Layers that were not on disk when the machine went down, those whose files are gone, and all upon them."""
        present = self._ready.directories.layers()
        bad = {
            chain
            for chain, layer in self._layers.items()
            if layer.directory not in present or layer.document.boot_id not in ("", self._boot_id)
        }
        doubtful = [layer for layer in self._layers.values() if {layer.chain_id, *self._ancestors(layer)} & bad]
        if doubtful:
            names = ", ".join(layer.diff_id[:19] for layer in doubtful)
            self.warnings.append(f"layers were not on disk when the machine went down and are dropped: {names}")
            await self._forget(doubtful)

    def _settle_soon(self) -> None:
        if self._settling is None and any(layer.document.boot_id for layer in self._layers.values()):
            self._settling = asyncio.get_running_loop().create_task(self._settle())

    async def _settle(self) -> None:
        """Wait until unpacked layers are on disk, then say so in their rows; again while new ones come."""
        try:
            while fresh := [layer for layer in self._layers.values() if layer.document.boot_id]:
                await asyncio.to_thread(_sync, self._ready.directories.base)

                def settle(connection: sqlite3.Connection, settled: list[Layer] = fresh) -> None:
                    for layer in settled:
                        layer.document.boot_id = ""
                        table.update(connection, layer)

                await self._database.write(settle)
        except SystemFailure as error:
            self.warnings.append(f"layers could not be written to disk: {error}")
        finally:
            self._settling = None


def always(chain: str | None) -> Callable[[], Awaitable[str | None]]:
    async def known() -> str | None:
        return chain

    return known


def _nothing_new(result: dict[str, Any], below: Layer | None) -> bool:
    """Whether what `store.commit.seal` has told of is empty, and the root directory as it is beneath."""
    if not result["empty"] or below is None:
        return bool(result["empty"])
    document = below.document
    return (document.root_mode, document.root_uid, document.root_gid) == tuple(result["root"])


def _sync(base: Path) -> None:
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    except OSError as error:
        raise SystemFailure(str(error)) from error
    finally:
        os.close(fd)
