"""Image archives become images: `docker load`.

Owns: all images of an archive stored, or none: layers that were unpacked while the archive came are taken, checked
against what its manifests say; others are unpacked now. Does not own: what the archive says (`reading`), how it comes
in (`arriving`), unpacking (`store.snapshots`).
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from dockyard.engine.images.arriving import Arrival, Progress
from dockyard.engine.images.reading import WHAT, Found, Index, Source, find_images
from dockyard.engine.images.services import Services
from dockyard.engine.images.variants import is_subordinate
from dockyard.model import oci
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import Descriptor, ImageConfig, Platform
from dockyard.proto import references
from dockyard.proto.times import parse_rfc3339
from dockyard.store import ahead
from dockyard.store.archive import Member, Spool
from dockyard.store.connection import Connection
from dockyard.store.images import ImageRecord
from dockyard.store.snapshots import Layer, Lease


class LoadedImage(NamedTuple):
    """An image that an archive held. `displaced`: (familiar name, id of the image that lost it). `part`: another
    platform of one that has the name."""

    id: str
    names: list[str]
    displaced: list[tuple[str, str]]
    part: bool = False


async def load_images(
    services: Services,
    incoming: AsyncIterator[bytes] | Connection,
    wanted: Platform | None = None,
    progress: Progress | None = None,
) -> list[LoadedImage]:
    """See `Images.load`."""
    failed = True
    try:
        with services.making(), services.snapshots.lease() as lease:
            async with Arrival(services, lease, progress) as arrival:
                spool = await arrival.receive(incoming, WHAT)
                images = find_images(spool, wanted)
                loader = _Loader(services, spool, arrival, lease)
                records = [(await loader.store(image), image.names) for image in images]
            displaced = [_displaced(services, record.id, names) for record, names in records]
            await services.commit(records)
        failed = False
    finally:
        await services.collect_after_making(failed)
    loaded = []
    for (record, names), lost in zip(records, displaced, strict=True):
        familiar = [references.from_complete(name).familiar for name in names]
        services.publish("load", record.id, familiar[0] if familiar else record.id)
        image = services.catalogue.by_id(record.id)
        part = image is not None and is_subordinate(services, image)
        loaded.append(LoadedImage(record.id, familiar, lost, part))
    return loaded


def _displaced(services: Services, image_id: str, names: list[str]) -> list[tuple[str, str]]:
    holders = [(name, services.catalogue.holder(name)) for name in names]
    return [(references.from_complete(n).familiar, h) for n, h in holders if h is not None and h != image_id]


class _Loader:
    """Stores the images of one archive, one after another."""

    def __init__(self, services: Services, spool: Spool, arrival: Arrival, lease: Lease) -> None:
        self._services = services
        self._spool = spool
        self._arrival = arrival
        self._lease = lease
        self._gate = _Gate(len(os.sched_getaffinity(0)))
        self._indexes: dict[str, list[str]] = {}  # digest -> what is attached to it

    async def store(self, image: Found) -> ImageRecord:
        """Everything of an image but its row."""
        services = self._services
        config = oci.parse_config(image.config, f"{WHAT}: image configuration")
        diff_ids = config.rootfs.diff_ids or []
        if len(diff_ids) != len(image.layers):
            raise InvalidArgument(
                f"{WHAT}: invalid manifest, layers length mismatch: expected {len(image.layers)}, got {len(diff_ids)}"
            )
        top = await self._layers(list(zip(diff_ids, image.layers, strict=True)))
        image_id = await services.content.put(image.config)
        known = services.catalogue.by_id(image_id)
        record = copy.copy(known.record) if known is not None else ImageRecord(image_id, config, top)
        record.size = sum(layer.document.size for layer in services.snapshots.chain(top))
        record.created = _created(config)
        if any(services.catalogue.holder(name) != image_id for name in image.names):
            record.tagged_at = services.clock()
        record.used_at = services.clock()
        if image.manifest is not None:
            record.manifest, record.manifest_type = await services.content.put(image.manifest[0]), image.manifest[1]
        if image.variants is not None:
            record.index, record.index_type = image.variants.digest, image.variants.media_type
            record.attached = await self._index(image.variants)
        return record

    async def _index(self, index: Index) -> list[str]:
        """Keep an index with what belongs to it; the digests of the latter. What is not in the archive is left out."""
        if index.digest in self._indexes:
            return self._indexes[index.digest]
        content = self._services.content
        await content.put(index.data)
        attached = [await content.put(data) for data in index.documents]
        for blob in index.attached:
            name = f"blobs/sha256/{blob.digest.partition(':')[2]}"
            if name not in self._spool:
                continue
            what = f"{WHAT}: attached blob {blob.digest}"
            member = self._spool.member(name, what)
            if member.layer is not None:
                if member.layer.get("blob") != blob.digest or member.layer["name"] in self._arrival.taken:
                    continue
                content.adopt(self._arrival.blob(member.layer), blob.digest)
            elif not member.known:
                await content.ingest(self._spool.fd, member.offset, member.size, blob.digest, what)
            attached.append(blob.digest)
        self._indexes[index.digest] = attached = list(dict.fromkeys(attached))
        return attached

    # --- layers ----------------------------------------------------------------------------------------------------

    async def _layers(self, layers: list[tuple[str, Source]]) -> str | None:
        """Have an image's layers, several at a time; the topmost chain. After a failure all have ended."""
        chains: list[str] = []
        for diff_id, _ in layers:
            chains.append(oci.chain_id(diff_id, chains[-1] if chains else None))
        tasks: list[asyncio.Task[str]] = []
        for chain, (diff_id, source) in zip(chains, layers, strict=True):
            self._lease.add(chain)
            below = tasks[-1] if tasks else None
            tasks.append(asyncio.create_task(_Layer(self, chain, diff_id, source, below).have()))
        try:
            if tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self._gate.closed = True
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        self._gate.closed = False
        for outcome in sorted(outcomes, key=lambda found: isinstance(found, asyncio.CancelledError)):
            if isinstance(outcome, BaseException):
                raise outcome
        return chains[-1] if chains else None

    @property
    def parts(self) -> tuple[Services, Spool, Arrival, Lease, _Gate]:
        return self._services, self._spool, self._arrival, self._lease, self._gate


class _Layer:
    """One layer of one image. `below`: the one that it lies on."""

    def __init__(
        self, loader: _Loader, chain: str, diff_id: str, source: Source, below: asyncio.Task[str] | None
    ) -> None:
        self._services, self._spool, self._arrival, self._lease, self._gate = loader.parts
        self._chain = chain
        self._diff_id = diff_id
        self._source = source
        self._below = below
        self._what = f"layer {diff_id}"

    async def have(self) -> str:
        """Make it, unless it is there. Compressed blobs with a digest are kept as they came."""
        if self._services.snapshots.has(self._chain):
            return self._chain  # the archive's copy is not looked at: what lies here was verified
        member = self._spool.member(self._source.member, self._what)
        blob = self._source.blob
        if blob is None or blob.digest == self._diff_id:
            blob = None
        elif not member.known and member.size != blob.size:
            raise InvalidArgument(f"{self._what}: blob {blob.digest} has {member.size} bytes, not {blob.size}")
        if member.layer is not None:
            await self._unpacked(member.layer, blob)
        elif member.known:
            await self._known(member.known, blob)
        else:
            await self._spooled(member, blob)
        return self._chain

    async def _unpacked(self, layer: dict[str, Any], blob: Descriptor | None) -> None:
        """What was unpacked while it arrived: taken, if it is what it should be."""
        if "error" in layer:
            raise InvalidArgument(self._what + layer["error"].removeprefix(ahead.WHAT))
        found = layer.get("blob", f"sha256:{layer['digest']}")
        if blob is not None and found != blob.digest:
            raise InvalidArgument(f"{self._what}: blob {blob.digest}: its digest is {found}, not {blob.digest}")
        taken = self._arrival.taken
        if (first := taken.get(layer["name"])) is not None:
            await self._again(self._services.snapshots.layer(await asyncio.shield(first)), blob)
            return
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # maybe nobody else asks
        taken[layer["name"]] = future
        try:
            if blob is not None and not self._services.content.has(blob.digest):
                self._services.content.adopt(self._arrival.blob(layer), blob.digest)

            async def work(place: dict[str, Any]) -> dict[str, Any]:
                self._arrival.take(layer["name"], place["root"], place["recipe"])
                return layer

            await self._make(work, blob)
            future.set_result(self._chain)
        except BaseException as error:
            future.set_exception(error if isinstance(error, Exception) else InvalidArgument(f"{self._what}: abandoned"))
            raise

    async def _known(self, digest: str, blob: Descriptor | None) -> None:
        """What was not read because it is here: on another layer, or as a blob."""
        if blob is None:
            layer = self._services.snapshots.with_diff(self._diff_id)
            if layer is None:
                raise InvalidArgument(f"{self._what}: its content has the digest {digest}, not {self._diff_id}")
            await self._again(layer, None)
            return
        if blob.digest != digest or not self._services.content.has(digest):
            raise InvalidArgument(f"{self._what}: blob {blob.digest}: its digest is {digest}, not {blob.digest}")
        fd = os.open(self._services.content.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            await self._apply(fd, 0, os.fstat(fd).st_size, blob)
        finally:
            os.close(fd)

    async def _spooled(self, member: Member, blob: Descriptor | None) -> None:
        if blob is not None:
            async with self._gate:
                named = f"{self._what}: blob {blob.digest}"
                content = self._services.content
                await content.ingest(self._spool.fd, member.offset, member.size, blob.digest, named)
        await self._apply(self._spool.fd, member.offset, member.size, blob)

    async def _apply(self, fd: int, offset: int, size: int, blob: Descriptor | None) -> None:
        async def work(place: dict[str, Any]) -> dict[str, Any]:
            arguments = {"what": self._what, "offset": offset, "length": size, **place}
            async with self._gate:
                result: dict[str, Any] = await self._services.call("dockyard.store.unpack:apply", arguments, [fd])
            return result

        await self._make(work, blob)

    async def _again(self, layer: Layer, blob: Descriptor | None) -> None:
        """The same content upon something else."""
        snapshots = self._services.snapshots

        async def work(place: dict[str, Any]) -> dict[str, Any]:
            source = {"recipe": snapshots.recipe_of(layer), "tree": snapshots.tree_of(layer)}
            arguments = {"what": self._what, "layer": source, **place}
            async with self._gate:
                function = "dockyard.store.duplicate:duplicate"
                result: dict[str, Any] = await self._services.call(function, arguments)
            return result

        await self._make(work, blob)

    async def _make(self, work: Any, blob: Descriptor | None) -> None:
        kept = (blob.digest, blob.media_type, blob.size) if blob is not None else None

        async def parent() -> str | None:
            return await asyncio.shield(self._below) if self._below is not None else None

        await self._services.snapshots.unpack_by(
            work, parent, self._lease, what=self._what, diff_id=self._diff_id, blob=kept
        )


class _Gate:
    """Lets a few pass at a time, and nobody any more once it is closed: what runs goes on to its end."""

    def __init__(self, width: int) -> None:
        self._free = asyncio.Semaphore(width)
        self.closed = False

    async def __aenter__(self) -> None:
        await self._free.acquire()
        if self.closed:
            self._free.release()
            raise asyncio.CancelledError

    async def __aexit__(self, *_: object) -> None:
        self._free.release()


def _created(config: ImageConfig) -> int:
    try:
        return parse_rfc3339(config.created) if config.created else 0
    except ValueError as error:
        raise InvalidArgument(f"{WHAT}: image configuration: {error}") from None
