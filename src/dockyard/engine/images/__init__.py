"""Everything that may be asked of images.

Owns: `Images`, the one interface that `edge`, the containers' use cases and embedding programs see. Does not own: any
of the work; each verb lives in a module of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

from dockyard.engine.images import importing, listing, loading, removal, saving, variants
from dockyard.engine.images.catalogue import Image
from dockyard.engine.images.collection import Collector
from dockyard.engine.images.listing import HistoryEntry, Listed
from dockyard.engine.images.loading import LoadedImage
from dockyard.engine.images.removal import Deleted
from dockyard.engine.images.services import Publisher, Services, UsedBy
from dockyard.engine.images.variants import Variant
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import Platform
from dockyard.proto import references
from dockyard.proto.filters import Filters
from dockyard.proto.imagegc import Policy
from dockyard.store import images as table
from dockyard.store.connection import Connection
from dockyard.store.content import Content
from dockyard.store.db import Database
from dockyard.store.inline import Call
from dockyard.store.layout import Layout
from dockyard.store.snapshots import Snapshots

# `Images.list` hides the builtin from the annotations of its class.
_Listing = list[Listed]
_History = list[HistoryEntry]
_Loaded = list[LoadedImage]
_Gone = list[Deleted]
_Ids = list[str]
_Variants = list[Variant]

__all__ = ["Deleted", "HistoryEntry", "Image", "Images", "Listed", "LoadedImage", "Variant"]


class Images:
    """All images. For the event loop's thread. `open()` after the stores are open, before anything else."""

    def __init__(
        self,
        layout: Layout,
        database: Database,
        snapshots: Snapshots,
        call: Call,
        *,
        events: Publisher | None = None,
        clock: Callable[[], int] = time.time_ns,
        discard_blobs: bool = False,
        collection: Policy | None = None,
    ) -> None:
        """`discard_blobs`: keep no compressed layer that a registry has. `collection`: what goes by itself."""
        content = Content(layout, call)
        self._services = Services(layout, database, content, snapshots, call, clock, events, discard_blobs)
        self._collector = Collector(self._services, collection or Policy())
        self.warnings: list[str] = []

    async def open(self) -> None:
        """Read the images; sweep what a crash left: images without their layers, layers and blobs without a row."""
        services = self._services
        records, names = await services.database.read(table.load)
        lost = []
        for record in records:
            broken = not services.content.has(record.id) or (
                record.chain_id is not None and not services.snapshots.has(record.chain_id)
            )
            if broken:
                lost.append(record.id)
            else:
                services.catalogue.put(record, [name for name, holder in names.items() if holder == record.id])
        if lost:
            self.warnings.append(f"images whose layers are gone are dropped: {', '.join(i[7:19] for i in lost)}")
            await services.database.write(lambda connection: table.delete(connection, lost))
        await services.collect()
        services.snapshots.on_release(self._collect_soon)
        self._collector.start()

    async def close(self) -> None:
        """End what goes on by itself. Twice is fine."""
        await self._collector.close()

    async def collect(self) -> _Ids:
        """Remove the images that the policy of collection would remove now; their ids."""
        return await self._collector.check()

    def set_users(self, used_by: UsedBy) -> None:
        """`used_by(image_id)` tells which containers use an image: (container id, whether it runs)."""
        self._services.used_by = used_by

    @property
    def services(self) -> Services:
        """What the use cases of images stand on, for those outside this package (`engine.transfers`)."""
        return self._services

    # --- asking ----------------------------------------------------------------------------------------------------

    def get(self, ref: str) -> Image:
        """By name, name@digest, full id, or the beginning of an id that no other has.

        NotFound "No such image: REF:latest"; InvalidArgument "invalid reference format…", or an ambiguous beginning.
        """
        return self._services.catalogue.get(ref)

    def count(self) -> int:
        return len(self._services.catalogue)

    def list(self, filters: Filters | None = None, *, shared_size: bool = False, every: bool = False) -> _Listing:
        """Newest first; `every`: those too that are only there as another platform of one that has the name.

        Filters: before, since, reference, dangling, label, label!, until; others: InvalidArgument.
        """
        return listing.list_images(
            self._services, filters or Filters(), shared_size=shared_size, every=every, now=self._services.clock()
        )

    async def blobs_size(self) -> int:
        """Bytes of the blobs that are kept beside the unpacked layers."""
        return await asyncio.to_thread(self._services.blobs_size)

    def history(self, ref: str, wanted: Platform | None = None) -> _History:
        """The steps of an image's making, the last first."""
        return listing.image_history(self._services, self.get_for(ref, wanted))

    def get_for(self, ref: str, wanted: Platform | None) -> Image:
        """As `get`, for that platform: the image itself, or another one of the index that it came with. NotFound too if
        there is none."""
        return variants.for_platform(self._services, self.get(ref), wanted, ref)

    def variants(self, image: Image) -> _Variants:
        """The manifests by which an image is known."""
        return variants.image_variants(self._services, image)

    def graph_data(self, image: Image) -> tuple[str, dict[str, str]]:
        """(snapshot driver, where the layers lie), as `inspect` shows it."""
        snapshots = self._services.snapshots
        return snapshots.driver, snapshots.graph_data(image.chain_id)

    # --- changing --------------------------------------------------------------------------------------------------

    async def import_(
        self,
        stream: AsyncIterator[bytes] | Connection,
        *,
        repository: str = "",
        tag: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
        created: int | None = None,
    ) -> Image:
        """Make an image of one layer out of a root file system's tar, compressed or not.

        `changes`: instructions such as `CMD ["sh"]`. `created`: the image's date in ns, by default now; the same tar,
        changes and date give the same image. InvalidArgument naming what is wrong with them, the name or the
        archive; nothing is left then.
        """
        reference = name_to_give(repository, tag) if repository else None
        return await importing.import_image(
            self._services,
            stream,
            reference,
            message=message,
            changes=changes,
            platform_name=platform,
            created=created,
        )

    async def load(
        self,
        stream: AsyncIterator[bytes] | Connection,
        wanted: Platform | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> _Loaded:
        """Take in all images of a docker-archive or OCI layout archive, or none. InvalidArgument says what is wrong.

        `wanted`: only those for that platform; by default all that an index has. `progress`: is told of layers that
        arrive: (what begins its name, bytes so far, bytes in all).
        """
        return await loading.load_images(self._services, stream, wanted, progress)

    def save(self, refs: Sequence[str], wanted: Platform | None = None) -> AsyncGenerator[bytes, None]:
        """An archive of images; `wanted`: of these, what is for that platform.

        An image that came with an index, all of which is here, leaves with it, otherwise by itself. NotFound at once
        for an image that is not there; SystemFailure, in the middle, if the store turns out to be damaged: the archive
        then lacks its end. Close the iterator if it is not read to its end.
        """
        if not refs:
            raise InvalidArgument("no image to save")
        return saving.save_images(self._services, saving.choose(self._services, refs, wanted), whole=wanted is None)

    async def tag(self, ref: str, repository: str, tag: str = "") -> None:
        """Give an image another name; the name's former holder loses it."""
        image = self.get(ref)
        reference = name_to_give(repository, tag)
        image.record.tagged_at = self._services.clock()
        await self._services.commit([(image.record, [reference.complete])])
        self._services.publish("tag", image.id, reference.familiar, image.labels)

    async def remove(self, ref: str, *, force: bool = False, prune: bool = True) -> _Gone:
        """Take a name away; with the last one, or by id, the image too. Conflict in Docker's words if it is in use."""
        return await removal.remove_image(self._services, ref, force=force, prune=prune)

    async def prune(self, filters: Filters | None = None) -> tuple[_Gone, int]:
        """Remove images that no container uses: those without a name, or all with dangling=false.

        Returns what went and how many bytes of layers that freed.
        """
        return await removal.prune_images(self._services, filters or Filters(), self._services.clock())

    def _collect_soon(self) -> None:
        """A container let go of its layers; if its image is gone already, they go now."""
        self._services.collect_behind()


def name_to_give(repository: str, tag: str) -> references.Reference:
    """The name that a client asks for in two parts, with its tag. InvalidArgument for a digest or what is no name."""
    reference = references.parse(repository)
    if reference.digest:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    if tag:
        reference = reference._replace(tag=references.check_tag(tag))
    return references.for_image(reference)
