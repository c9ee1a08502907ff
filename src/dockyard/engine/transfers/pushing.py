"""An image goes to a registry: `docker push`.

Owns: the layers that the registry lacks, the manifest last, what is remembered of it. Does not own: requests, trying
again (`store.remote`), where the bytes come from (`contents`).

An image that came with a manifest leaves with the same one, byte for byte, if its blobs can be had; for others one is
made. A layer whose blob is not kept is compressed while it is sent; its digest is noted, so that the next push asks.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any

import msgspec

from dockyard.engine.images import variants
from dockyard.engine.images.catalogue import Image
from dockyard.engine.images.services import Services
from dockyard.engine.transfers.contents import Made, Stored
from dockyard.engine.transfers.indexes import push_index
from dockyard.engine.transfers.progress import Board
from dockyard.model import oci
from dockyard.model.errors import DockyardError, Forbidden, InvalidArgument, NotFound, SystemFailure, Unauthorized
from dockyard.model.oci import Descriptor, Manifest, Platform
from dockyard.proto import references
from dockyard.proto.references import Reference
from dockyard.proto.registries import RegistryRules
from dockyard.store.remote.repository import Repository
from dockyard.store.remote.uploading import Content, Upload
from dockyard.store.snapshots import Layer

_GZIP_LAYER = oci.OCI_LAYER + "+gzip"
_FOREIGN = (".foreign.", ".nondistributable.")
_DOCKER = {
    oci.OCI_MANIFEST: oci.DOCKER_MANIFEST,
    oci.OCI_CONFIG: "application/vnd.docker.container.image.v1+json",
    oci.OCI_LAYER: "application/vnd.docker.image.rootfs.diff.tar",
    _GZIP_LAYER: "application/vnd.docker.image.rootfs.diff.tar.gzip",
}

__all__ = ["Image", "choose", "push_image"]


def choose(services: Services, reference: Reference) -> list[tuple[Image, Reference]]:
    """The images to push, each with its name: the one with this tag, or all of the repository. NotFound as Docker."""
    catalogue = services.catalogue
    names = [references.from_complete(name) for name in catalogue.in_repository(reference)]
    if not names:
        raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_repository}")
    if reference.tag:
        names = [name for name in names if name.tag == reference.tag]
        if not names:
            raise NotFound(f"tag does not exist: {reference.familiar}")
    return [(catalogue.get(name.familiar), name) for name in names]


async def push_image(
    services: Services,
    slots: asyncio.Semaphore,
    rules: RegistryRules,
    repository: Repository,
    image: Image,
    reference: Reference,
    board: Board,
    wanted: Platform | None = None,
) -> None:
    """Have `image` under `reference` in the registry: for `wanted` what is for that platform, else with all of the
    index that it came with, if that is here. NotFound if there is nothing for that platform."""
    named, image = image, variants.for_platform(services, image, wanted, reference.familiar)
    failed = True
    try:
        with services.making(), services.snapshots.lease() as lease:  # what is being read must not be collected
            for member in [named, *services.catalogue.siblings(named)]:
                if member.chain_id is not None:
                    lease.add(member.chain_id)
            tree = variants.index_tree(services, image, blobs=False) if wanted is None else None

            def one(member: Image, *, exact: bool) -> Awaitable[tuple[str, int]]:
                return _Push(services, slots, rules, repository, member, reference, board).run(exact=exact)

            if tree is not None:
                push = functools.partial(one, exact=True)
                digest, size = await push_index(services, repository, image, tree, reference.tag, push)
            else:
                digest, size = await one(image, exact=False)
            await _remember(services, image, reference, digest)
        failed = False
    except Unauthorized as error:
        raise Unauthorized(f"unauthorized: {error.message.removeprefix('unauthorized: ')}") from None
    except Forbidden as error:
        if error.message.startswith("denied"):
            raise Forbidden(error.message) from None
        raise
    finally:
        await services.collect_after_making(failed)
    services.publish("push", reference.familiar, reference.familiar_repository, image.labels)
    board.say(f"{reference.tag}: digest: {digest} size: {size}")
    board.say("", aux={"Tag": reference.tag, "Digest": digest, "Size": size})
    if wanted is None and tree is None and (note := _instead_of_index(services, image)):
        board.say("", aux=note)


def _instead_of_index(services: Services, image: Image) -> dict[str, Any] | None:
    """What clients are told who may have expected all platforms to go out; None if the image came alone."""
    record, content = image.record, services.content
    if not record.index or not content.has(record.index) or not content.has(record.manifest):
        return None

    def shown(kind: str, digest: str) -> dict[str, Any]:
        return {"mediaType": kind, "digest": digest, "size": content.size(digest)}

    return {
        "manifestPushedInsteadOfIndex": True,
        "originalIndex": shown(record.index_type, record.index),
        "selectedManifest": shown(record.manifest_type, record.manifest),
    }


async def _remember(services: Services, image: Image, reference: Reference, digest: str) -> None:
    current = services.catalogue.by_id(image.id)
    complete = f"{reference.repository}@{digest}"
    if current is not None and complete not in current.record.digests:
        current.record.digests = [*current.record.digests, complete]
        await services.commit([(current.record, [])])


class _Push:
    """One image on its way."""

    def __init__(
        self,
        services: Services,
        slots: asyncio.Semaphore,
        rules: RegistryRules,
        repository: Repository,
        image: Image,
        reference: Reference,
        board: Board,
    ) -> None:
        self._services = services
        self._slots = slots
        self._rules = rules
        self._repository = repository
        self._image = image
        self._reference = reference
        self._board = board
        self._layers = list(reversed(services.snapshots.chain(image.chain_id)))
        self._original = self._read_original()

    async def run(self, *, exact: bool = False) -> tuple[str, int]:
        """Push; returns digest and size of the manifest. `exact`: under its digest, which has to be what it was."""
        for layer in reversed(self._layers):
            self._board.say("Preparing", _short(layer))
        await self._repository.session.again(self._repository.session.find)
        tasks = [asyncio.create_task(self._layer(place)) for place in range(len(self._layers))]
        try:
            pushed = list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        config = await self._configuration()
        return await self._manifest(config, pushed, exact)

    def _read_original(self) -> Manifest | None:
        """The manifest that the image came with."""
        record, content = self._image.record, self._services.content
        if not record.manifest or not content.has(record.manifest):
            return None
        manifest = oci.parse_manifest(content.read(record.manifest), f"manifest {record.manifest}")
        return manifest if len(manifest.layers or ()) == len(self._layers) else None

    # --- layers ----------------------------------------------------------------------------------------------------

    def _known(self, place: int) -> Descriptor | None:
        """The blob that a layer is or was, if that is known."""
        layer = self._layers[place]
        if self._original is not None and self._original.layers is not None:
            return self._original.layers[place]
        if layer.blob:
            kind = layer.document.media_type or _GZIP_LAYER
            for word in _FOREIGN:  # where it could be had from is not known of a layer without its manifest
                kind = kind.replace(word, ".")
            return Descriptor(kind, layer.blob, layer.document.blob_size)
        return None

    async def _layer(self, place: int) -> Descriptor:
        layer, known = self._layers[place], self._known(place)
        short = _short(layer)
        again = self._repository.session.again
        if known is not None and self._belongs_elsewhere(known):
            self._board.say("Skipped foreign layer", short)
            return known
        async with self._slots:
            if known is not None:
                if await again(lambda: self._repository.has_blob(known.digest, f"layer {known.digest}")) is not None:
                    self._board.say("Layer already exists", short)
                    return known
                if (source := await self._mount(known)) is not None:
                    self._board.say(f"Mounted from {source}", short)
                    return known
            if known is not None and self._services.content.has(known.digest):
                await self._send_stored(known, short)
                pushed = known
            else:
                pushed = await self._send_made(layer, known is None or known.digest != layer.diff_id, short)
                if known is not None and pushed.digest == known.digest:
                    pushed = known
        self._board.say("Pushed", short)
        return pushed

    def _belongs_elsewhere(self, known: Descriptor) -> bool:
        """Whether a layer is only named in the manifest: who pulls gets it where its URLs lead."""
        if not known.urls or not any(word in known.media_type for word in _FOREIGN):
            return False
        return not self._rules.gets_foreign_layers(self._reference.domain)

    async def _mount(self, known: Descriptor) -> str | None:
        """The repository of the same registry that a blob could be taken over from."""
        for source in self._sources(known.digest)[:3]:
            try:
                begun = await self._repository.mount(known.digest, source, f"layer {known.digest}")
            except DockyardError:
                continue
            if begun is None:
                return source
            await self._repository.cancel(begun.location, "upload")
        return None

    def _sources(self, digest: str) -> list[str]:
        """Repositories of this registry that images with this blob came from or went to."""
        holders = {layer.chain_id for layer in self._layers if layer.blob == digest}
        found: dict[str, None] = {}
        for image in self._services.catalogue:
            for name in image.record.digests:
                reference = references.from_complete(name)
                if reference.domain != self._reference.domain or reference.path == self._reference.path:
                    continue
                if holders & {layer.chain_id for layer in self._services.snapshots.chain(image.chain_id)}:
                    found[reference.path] = None
        return list(found)

    async def _send_stored(self, blob: Descriptor, short: str) -> None:
        """A blob as it lies in the store."""
        stored = Stored(self._services, blob.digest, blob.size)
        await self._upload(_Counted(stored, self._board, short, blob.size), f"layer {blob.digest}", short)

    async def _send_made(self, layer: Layer, compress: bool, short: str) -> Descriptor:
        """A layer's tar, made and compressed while it is sent."""
        made = Made(self._services, layer, compress)
        counted = _Counted(made, self._board, short, layer.document.tar_size)
        digest, size = await self._upload(counted, f"layer {layer.diff_id}", short)
        media_type = _GZIP_LAYER if compress else oci.OCI_LAYER
        if compress:
            await self._services.snapshots.remember_blob(layer.chain_id, digest, media_type, size)
        return Descriptor(media_type, digest, size)

    async def _upload(self, content: Content, what: str, short: str) -> tuple[str, int]:
        def waiting(seconds: float) -> None:
            self._board.say(f"Retrying in {max(round(seconds), 1)} second{'s' if seconds >= 1.5 else ''}", short)

        return await Upload(self._repository, content, what, waiting).run()

    # --- configuration and manifest ----------------------------------------------------------------------------------

    async def _configuration(self) -> Descriptor:
        content = self._services.content
        digest = self._image.id
        descriptor = Descriptor(oci.OCI_CONFIG, digest, content.size(digest))
        what = f"configuration {digest}"
        again = self._repository.session.again
        if await again(lambda: self._repository.has_blob(digest, what)) is None:
            await Upload(self._repository, Stored(self._services, digest, descriptor.size), what).run()
        return descriptor

    async def _manifest(self, config: Descriptor, layers: list[Descriptor], exact: bool) -> tuple[str, int]:
        record, again = self._image.record, self._repository.session.again
        what = f"manifest for {self._reference.familiar}"
        original = self._original
        if original is not None and [entry.digest for entry in original.layers or ()] == [x.digest for x in layers]:
            data = self._services.content.read(record.manifest)
            kind = record.manifest_type
            reference = record.manifest if exact else self._reference.tag
            await again(lambda: self._repository.put_manifest(reference, data, kind, what))
            return oci.sha256(data), len(data)
        if exact:
            raise SystemFailure(
                f"{what}: the layers of {record.manifest} are not here as they came: push one platform (--platform)"
            )
        for manifest in (_make(config, layers), _make(config, layers, docker=True)):
            data = msgspec.json.encode(manifest)
            kind = manifest.media_type
            try:
                await again(
                    lambda d=data, k=kind: self._repository.put_manifest(self._reference.tag, d, k, what)  # type: ignore[misc]
                )
                return oci.sha256(data), len(data)
            except InvalidArgument:
                if kind == oci.DOCKER_MANIFEST:  # older registries know only these
                    raise
        raise AssertionError("unreachable")


def _make(config: Descriptor, layers: list[Descriptor], *, docker: bool = False) -> Manifest:
    def kind(media_type: str) -> str:
        oci_type = next((ours for ours, theirs in _DOCKER.items() if theirs == media_type), media_type)
        return _DOCKER.get(oci_type, oci_type) if docker else oci_type

    def plain(descriptor: Descriptor) -> Descriptor:
        return Descriptor(kind(descriptor.media_type), descriptor.digest, descriptor.size, urls=descriptor.urls)

    return Manifest(2, kind(oci.OCI_MANIFEST), plain(config), [plain(layer) for layer in layers])


class _Counted:
    """A content whose bytes are shown while they go. `total`: of what the bar shows."""

    def __init__(self, content: Content, board: Board, short: str, total: int) -> None:
        self._content = content
        self._board = board
        self._short = short
        self._total = total

    @property
    def size(self) -> int | None:
        return self._content.size

    def known(self) -> tuple[str, int] | None:
        return self._content.known()

    async def chunks(self, start: int) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._content.chunks(start)) as chunks:
            async for chunk in chunks:
                yield chunk
                start += len(chunk)
                self._board.move("Pushing", self._short, min(start, self._total), self._total)


def _short(layer: Layer) -> str:
    return layer.diff_id.partition(":")[2][:12]
