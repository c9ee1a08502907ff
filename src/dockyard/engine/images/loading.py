"""Image archives become images: `docker load`.

Owns: reading docker-archive and OCI layout archives (which of them is found out), all of their images or none.
Does not own: unpacking layers (`store.snapshots`), the archive's container format (`store.archive`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from dockyard.engine.images.importing import first_failure
from dockyard.engine.images.services import Services
from dockyard.engine.images.variants import host_platform
from dockyard.model import oci
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import Descriptor, ImageConfig, Manifest, Platform
from dockyard.proto import platforms, references
from dockyard.proto.times import parse_rfc3339
from dockyard.store.archive import Spool
from dockyard.store.images import ImageRecord
from dockyard.store.snapshots import Lease
from dockyard.store.spooling import feed, temporary_file

_WHAT = "archive to load"
_MAX_IMAGES = 1000
_NAME = "io.containerd.image.name"  # complete name, on a descriptor of an index
_REF_NAME = "org.opencontainers.image.ref.name"  # a tag, or what the writer took for a name


class LoadedImage(NamedTuple):
    """An image that an archive held. `displaced`: (familiar name, id of the image that lost it)."""

    id: str
    names: list[str]
    displaced: list[tuple[str, str]]


class _DockerEntry(Struct, rename="pascal"):
    """One image in a docker-archive's manifest.json."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


class _Source(NamedTuple):
    """Where one layer of an image lies in the archive, and what is known of it. `blob`: its digest, if it is stated."""

    member: str
    blob: Descriptor | None


class _Found(NamedTuple):
    """An image in an archive, before anything was stored. `manifest`: (bytes, media type) if it has one."""

    config: bytes
    layers: list[_Source]
    names: list[str]
    manifest: tuple[bytes, str] | None


async def load_images(
    services: Services, chunks: AsyncIterator[bytes], wanted: Platform | None = None
) -> list[LoadedImage]:
    """See `Images.load`."""
    with temporary_file(services.layout) as fd:
        spool = Spool(fd, await _receive(services, chunks, fd))
        images = find_images(spool, wanted)
        failed = True
        try:
            with services.making(), services.snapshots.lease() as lease:
                records = [(await _store(services, spool, image, lease), image.names) for image in images]
                displaced = [_displaced(services, record.id, names) for record, names in records]
                await services.commit(records)
            failed = False
        finally:
            await services.collect_after_making(failed)
    loaded = []
    for (record, names), lost in zip(records, displaced, strict=True):
        familiar = [references.from_complete(name).familiar for name in names]
        services.publish("load", record.id, familiar[0] if familiar else record.id)
        loaded.append(LoadedImage(record.id, familiar, lost))
    return loaded


async def _receive(services: Services, chunks: AsyncIterator[bytes], fd: int) -> dict[str, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)

    async def work() -> dict[str, int]:
        index: dict[str, int] = await services.call("dockyard.store.archive:receive", {"what": _WHAT}, [reading, fd])
        return index

    try:
        return await first_failure(asyncio.create_task(feed(chunks, writing)), asyncio.create_task(work()))
    finally:
        os.close(reading)


def _displaced(services: Services, image_id: str, names: list[str]) -> list[tuple[str, str]]:
    holders = [(name, services.catalogue.holder(name)) for name in names]
    return [(references.from_complete(n).familiar, h) for n, h in holders if h is not None and h != image_id]


# --- what the archive says -------------------------------------------------------------------------------------------


def find_images(spool: Spool, wanted: Platform | None = None) -> list[_Found]:
    """The images of an archive; an OCI layout's index comes first, names of a docker-archive's manifest are added.

    Of an index the best for this host, or for `wanted`, which then every image has to be for.
    """
    docker = _docker_entries(spool) if "manifest.json" in spool else []
    if "index.json" in spool and "oci-layout" in spool:
        images = _oci_images(spool, docker, wanted or host_platform())
    elif docker:
        images = [_docker_image(spool, entry) for entry in docker]
    else:
        raise InvalidArgument(f"{_WHAT}: neither a docker-archive (manifest.json) nor an OCI layout (index.json)")
    if wanted is not None:
        images = [image for image in images if _is_for(image, wanted)]
    if not images:
        what = platforms.show(wanted) if wanted is not None else "this platform"
        raise InvalidArgument(f"{_WHAT}: no image for {what} in it")
    return images


def _is_for(image: _Found, wanted: Platform) -> bool:
    config = oci.parse_config(image.config, f"{_WHAT}: image configuration")
    return platforms.rank(Platform(config.architecture, config.os, variant=config.variant), wanted) is not None


def _docker_entries(spool: Spool) -> list[_DockerEntry]:
    data = spool.read("manifest.json", f"{_WHAT}: manifest.json", oci.MAX_DOCUMENT)
    try:
        entries = msgspec.json.decode(data, type=list[_DockerEntry])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{_WHAT}: manifest.json: {error}") from None
    if len(entries) > _MAX_IMAGES:
        raise InvalidArgument(f"{_WHAT}: more than {_MAX_IMAGES} images")
    return entries


def _docker_image(spool: Spool, entry: _DockerEntry) -> _Found:
    config = spool.read(entry.config, f"{_WHAT}: image configuration", oci.MAX_DOCUMENT)
    layers = [_Source(member, None) for member in entry.layers or []]
    return _Found(config, layers, _names(entry.repo_tags), None)


def _names(texts: list[str] | None) -> list[str]:
    """Complete names. A name with a digest is refused: a digest is a statement, not a name to give away."""
    names = []
    for text in texts or ():
        reference = references.parse(text)
        if reference.digest or not reference.tag:
            raise InvalidArgument(f"{_WHAT}: invalid tag {text[:200]!r}")
        names.append(reference.complete)
    return list(dict.fromkeys(names))


def _oci_images(spool: Spool, docker: list[_DockerEntry], wanted: Platform) -> list[_Found]:
    _check_layout(spool)
    by_config = {_config_digest(spool, entry): entry for entry in docker}
    what = f"{_WHAT}: index.json"
    index = oci.parse_manifest(spool.read("index.json", what, oci.MAX_DOCUMENT), what)
    if index.manifests is None:
        raise InvalidArgument(f"{what} is no index")
    found: dict[str, _Found] = {}
    for descriptor in index.manifests[:_MAX_IMAGES]:
        resolved = _resolve(spool, descriptor, wanted, 0)
        if resolved is None:
            continue
        data, media_type, manifest = resolved
        assert manifest.config is not None
        config = _blob(spool, manifest.config, "image configuration")
        entry = by_config.get(manifest.config.digest)
        names = list(dict.fromkeys([*_annotated_names(descriptor), *_names(entry.repo_tags if entry else None)]))
        known = found.get(manifest.config.digest)
        if known is not None:
            names = list(dict.fromkeys([*known.names, *names]))
        layers = [_Source(_member(layer.digest), layer) for layer in manifest.layers or []]
        found[manifest.config.digest] = _Found(config, layers, names, (data, media_type))
    return list(found.values())


def _check_layout(spool: Spool) -> None:
    data = spool.read("oci-layout", f"{_WHAT}: oci-layout", 4096)
    try:
        version = msgspec.json.decode(data, type=dict[str, str]).get("imageLayoutVersion", "")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{_WHAT}: oci-layout: {error}") from None
    if not version.startswith("1."):
        raise InvalidArgument(f"{_WHAT}: oci-layout: unknown version {version[:20]!r}")


def _config_digest(spool: Spool, entry: _DockerEntry) -> str:
    return oci.sha256(spool.read(entry.config, f"{_WHAT}: image configuration", oci.MAX_DOCUMENT))


def _resolve(spool: Spool, descriptor: Descriptor, wanted: Platform, depth: int) -> tuple[bytes, str, Manifest] | None:
    """The manifest behind a descriptor: of several platforms, the best for `wanted`. None: there is none."""
    if descriptor.media_type not in oci.MANIFESTS | oci.INDEXES or depth > 4:
        return None
    what = f"{_WHAT}: manifest {descriptor.digest}"
    data = _blob(spool, descriptor, "manifest")
    manifest = oci.parse_manifest(data, what)
    if (descriptor.media_type in oci.INDEXES) != (manifest.manifests is not None):
        raise InvalidArgument(f"{what}: it is not of the type that its descriptor says")
    if manifest.manifests is None:
        return data, descriptor.media_type, manifest
    offers = list(manifest.manifests)
    while (best := platforms.choose(offers, wanted)) is not None:
        if found := _resolve(spool, best, wanted, depth + 1):
            return found
        offers.remove(best)
    return None


def _annotated_names(descriptor: Descriptor) -> list[str]:
    """The names that an index gives to a manifest; what is no complete name is no name."""
    annotations = descriptor.annotations or {}
    for key in (_NAME, _REF_NAME):
        text = annotations.get(key, "")
        if ":" not in text.rpartition("/")[2] or "@" in text:
            continue  # a mere tag
        try:
            return [references.parse(text).complete]
        except InvalidArgument:
            continue
    return []


def _member(digest: str) -> str:
    return f"blobs/sha256/{oci.check_digest(digest).partition(':')[2]}"


def _blob(spool: Spool, descriptor: Descriptor, kind: str) -> bytes:
    """A small blob of a layout, verified."""
    what = f"{_WHAT}: {kind} {descriptor.digest[:80]}"
    data = spool.read(_member(descriptor.digest), what, oci.MAX_DOCUMENT)
    if len(data) != descriptor.size or oci.sha256(data) != descriptor.digest:
        raise InvalidArgument(f"{what}: its content does not fit its digest")
    return data


# --- storing ---------------------------------------------------------------------------------------------------------


async def _store(services: Services, spool: Spool, image: _Found, lease: Lease) -> ImageRecord:
    config = oci.parse_config(image.config, f"{_WHAT}: image configuration")
    diff_ids = config.rootfs.diff_ids or []
    if len(diff_ids) != len(image.layers):
        raise InvalidArgument(
            f"{_WHAT}: invalid manifest, layers length mismatch: expected {len(image.layers)}, got {len(diff_ids)}"
        )
    top = await _layers(services, spool, list(zip(diff_ids, image.layers, strict=True)), lease)
    image_id = await services.content.put(image.config)
    manifest, manifest_type = "", ""
    if image.manifest is not None:
        manifest, manifest_type = await services.content.put(image.manifest[0]), image.manifest[1]
    known = services.catalogue.by_id(image_id)
    record = ImageRecord(
        image_id,
        config,
        top,
        size=sum(layer.document.size for layer in services.snapshots.chain(top)),
        created=_created(config),
        manifest=manifest,
        manifest_type=manifest_type,
        tagged_at=services.clock() if image.names else 0,
    )
    if known is not None:
        record.digests = known.record.digests
        record.tagged_at = record.tagged_at or known.record.tagged_at
        if not record.manifest:
            record.manifest, record.manifest_type = known.record.manifest, known.record.manifest_type
    return record


async def _layers(services: Services, spool: Spool, layers: list[tuple[str, _Source]], lease: Lease) -> str | None:
    """Unpack an image's layers, several at a time; the topmost chain. After a failure all have ended."""
    chains: list[str] = []
    for diff_id, _ in layers:
        chains.append(oci.chain_id(diff_id, chains[-1] if chains else None))
    gate = _Gate(len(os.sched_getaffinity(0)))
    tasks: list[asyncio.Task[str]] = []
    for chain, (diff_id, source) in zip(chains, layers, strict=True):
        lease.add(chain)
        below = tasks[-1] if tasks else None
        tasks.append(asyncio.create_task(_layer(services, spool, chain, diff_id, source, below, lease, gate)))
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        gate.closed = True
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in sorted(outcomes, key=lambda found: isinstance(found, asyncio.CancelledError)):
        if isinstance(outcome, BaseException):
            raise outcome
    return chains[-1] if chains else None


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


async def _layer(
    services: Services,
    spool: Spool,
    chain: str,
    diff_id: str,
    source: _Source,
    below: asyncio.Task[str] | None,
    lease: Lease,
    gate: _Gate,
) -> str:
    """Unpack one layer, unless it is there. Compressed blobs with a digest are kept as they came."""
    what = f"layer {diff_id}"
    snapshots = services.snapshots
    if snapshots.has(chain):
        return chain  # the archive's copy is not looked at: what lies here was verified
    offset, size = spool.region(source.member, what)
    blob = None
    if source.blob is not None and source.blob.digest != diff_id:
        descriptor = source.blob
        if size != descriptor.size:
            raise InvalidArgument(f"{what}: blob {descriptor.digest} has {size} bytes, not {descriptor.size}")
        async with gate:
            named = f"{what}: blob {descriptor.digest}"
            await services.content.ingest(spool.fd, offset, size, descriptor.digest, named)
        blob = (descriptor.digest, descriptor.media_type, size)

    async def work(place: dict[str, Any]) -> dict[str, Any]:
        arguments = {"what": what, "offset": offset, "length": size, **place}
        async with gate:
            result: dict[str, Any] = await services.call("dockyard.store.unpack:apply", arguments, [spool.fd])
        return result

    async def parent() -> str | None:
        return await asyncio.shield(below) if below is not None else None

    await snapshots.unpack_by(work, parent, lease, what=what, diff_id=diff_id, blob=blob)
    return chain


def _created(config: ImageConfig) -> int:
    try:
        return parse_rfc3339(config.created) if config.created else 0
    except ValueError as error:
        raise InvalidArgument(f"{_WHAT}: image configuration: {error}") from None
