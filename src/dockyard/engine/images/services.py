"""What every use case of images stands on.

Owns: `Services`: the stores, the catalogue, who uses an image, events, and the two changes that everything comes down
to (rows of images written; what nobody needs collected). Does not own: any use case.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from dockyard.engine.images.catalogue import Catalogue, Image
from dockyard.store import images as table
from dockyard.store.content import Content
from dockyard.store.db import Database
from dockyard.store.images import ImageRecord
from dockyard.store.inline import Call
from dockyard.store.layout import Layout
from dockyard.store.snapshots import Layer, Snapshots

UsedBy = Callable[[str], list[tuple[str, bool]]]  # image id -> (container id, whether it runs)


class Publisher(Protocol):
    """The part of `engine.events.Events` that is needed here."""

    def publish(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str] | None = None) -> Any: ...


class Services:
    def __init__(
        self,
        layout: Layout,
        database: Database,
        content: Content,
        snapshots: Snapshots,
        call: Call,
        clock: Callable[[], int],
        events: Publisher | None,
        discard_blobs: bool = False,
    ) -> None:
        """`discard_blobs`: of layers that a registry has, only the unpacked form is kept."""
        self.layout = layout
        self.database = database
        self.content = content
        self.snapshots = snapshots
        self.call = call
        self.clock = clock
        self.events = events
        self.catalogue = Catalogue()
        self.used_by: UsedBy = lambda image_id: []
        self._discard_blobs = discard_blobs
        self._making = 0  # loads and imports under way: their blobs have no row yet
        self._owed = False  # a collection was put off because of them

    def publish(self, action: str, image_id: str, name: str, labels: Mapping[str, str] | None = None) -> None:
        if self.events is not None:
            self.events.publish("image", action, image_id, {**(labels or {}), "name": name})

    def publish_pruned(self, freed: int) -> None:
        if self.events is not None:
            self.events.publish("image", "prune", "", {"reclaimed": str(freed)})

    def users(self, image: Image) -> list[tuple[str, bool]]:
        return self.used_by(image.id)

    @contextmanager
    def making(self) -> Iterator[None]:
        """While content is stored that no row names yet."""
        self._making += 1
        try:
            yield
        finally:
            self._making -= 1

    async def commit(self, records: Iterable[tuple[ImageRecord, list[str]]]) -> None:
        """Write images with the names that shall stand for them, all or none."""
        changes = list(records)

        def write(connection: sqlite3.Connection) -> None:
            for record, names in changes:
                table.save(connection, record, names)

        await self.database.write(write)
        for record, names in changes:
            self.catalogue.put(record, names)

    async def untag(self, names: list[str]) -> None:
        await self.database.write(lambda connection: table.remove_names(connection, names))
        for name in names:
            self.catalogue.untag(name)

    async def forget(self, image: Image) -> list[Layer]:
        """Remove an image's row and names, then what only it needed; returns its layers that went."""
        self.catalogue.remove(image.id)
        await self.database.write(lambda connection: table.delete(connection, [image.id]))
        return await self.collect()

    async def collect(self) -> list[Layer]:
        """Remove the layers and blobs that no image, container or unfinished load needs."""
        roots = {image.chain_id for image in self.catalogue if image.chain_id is not None}
        removed = await self.snapshots.collect(roots)
        if self._making:
            self._owed = True
        else:
            self._owed = False
            await asyncio.to_thread(self.content.sweep, self.wanted_blobs())
        return removed

    def collect_behind(self) -> None:
        """Collect, after a container has gone, if that could free anything."""
        roots = {image.chain_id for image in self.catalogue if image.chain_id is not None}
        if self.snapshots.has_unneeded(roots):
            self.snapshots.run_behind(self.collect())

    async def collect_after_making(self, failed: bool) -> None:
        """At the end of a load or import: clean up after a failure, or what was put off meanwhile."""
        if failed or self._discard_blobs or (self._owed and not self._making):
            await self.collect()

    def wanted_blobs(self) -> set[str]:
        wanted = self.snapshots.blobs()
        if self._discard_blobs:
            wanted -= self._fetchable_blobs()
        for image in self.catalogue:
            wanted.add(image.id)
            record = image.record
            wanted.update(digest for digest in (record.manifest, record.index, *record.attached) if digest)
        return wanted

    def _fetchable_blobs(self) -> set[str]:
        """Compressed layers of images that came from a registry, or went to one: it has them."""
        found: set[str] = set()
        for image in self.catalogue:
            if image.record.digests:
                found.update(layer.blob for layer in self.snapshots.chain(image.chain_id) if layer.blob)
        return found

    def blobs_size(self) -> int:
        """Bytes of all blobs: compressed layers, manifests, configurations. Blocks for a look at each."""
        return sum(self.content.size(digest) for digest in self.content.digests())
