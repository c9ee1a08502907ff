"""An image comes from a registry: `docker pull`.

Owns: from a reference to the image's row: mirrors in turn, the manifest of the right platform, its configuration, its
layers, the name. Does not own: how a layer comes in (`downloads`), requests (`store.remote`).
"""

from __future__ import annotations

import asyncio
import platform as machine
from collections.abc import Sequence
from contextlib import suppress

from dockyard.engine.images.services import Services
from dockyard.engine.transfers.downloads import Downloads, Wanted
from dockyard.engine.transfers.progress import Board
from dockyard.model import oci
from dockyard.model.errors import DockyardError, Forbidden, InvalidArgument, NotFound, Unauthorized
from dockyard.model.oci import Descriptor, ImageConfig, Platform
from dockyard.proto import platforms
from dockyard.proto.references import Reference
from dockyard.proto.times import parse_rfc3339
from dockyard.store.images import ImageRecord
from dockyard.store.remote.repository import Fetched, Repository

_PLUGIN = "application/vnd.docker.plugin.v1+json"
_DEPTH = 4  # indexes within indexes


def host_platform() -> Platform:
    """This machine's."""
    return platforms.normal(Platform(machine.machine(), "linux"))


async def pull_image(
    services: Services,
    downloads: Downloads,
    repositories: Sequence[Repository],
    reference: Reference,
    wanted: str,
    board: Board,
) -> None:
    """Have the image of `reference` (with a tag or digest). `wanted`: a platform as a user writes it, or ""."""
    target = platforms.parse(wanted, host_platform())
    source, top = await resolve(repositories, reference)
    ours = [source, *[other for other in repositories if other is not source]]
    fetched, between = await _of_platform(source, reference, top, target)
    board.say(f"Pulling from {reference.path}", reference.digest or reference.tag)
    failed = True
    try:
        with services.making():
            above = [top, *between]
            changed = await _store(services, downloads, ours, reference, fetched, above, target, wanted, board)
        failed = False
    finally:
        await services.collect_after_making(failed)
    board.say(f"Digest: {top.digest}")
    told = "Downloaded newer image" if changed else "Image is up to date"
    board.say(f"Status: {told} for {reference.familiar}")


async def resolve(repositories: Sequence[Repository], reference: Reference) -> tuple[Repository, Fetched]:
    """The first repository that has the manifest, and the manifest: mirrors may fail, the registry itself may not."""
    what = f"manifest for {reference.familiar}"
    asked = reference.digest or reference.tag
    for repository in repositories:
        last = repository is repositories[-1]
        if not (last or reference.digest or repository.session.place.resolve):
            continue
        try:
            if not last:
                return repository, await repository.manifest(asked, what)
            return repository, await repository.session.again(lambda r=repository: r.manifest(asked, what))  # type: ignore[misc]
        except DockyardError as error:
            if last:
                raise explain_pull(error, reference) from None
    raise AssertionError("no repository")


async def tags(repositories: Sequence[Repository], reference: Reference) -> list[str]:
    """All tags of a repository, from the first place that can list them: as with manifests, mirrors may fail."""
    what = f"repository {reference.familiar_repository}"
    for mirror in repositories[:-1]:
        if mirror.session.place.resolve:
            with suppress(DockyardError):
                return await mirror.tags(what)
    own = repositories[-1]
    try:
        return await own.session.again(lambda: own.tags(what))
    except DockyardError as error:
        raise explain_pull(error, reference) from None


def explain_pull(error: DockyardError, reference: Reference) -> DockyardError:
    """In Docker's words, which do not tell a repository that is hidden from one that does not exist."""
    if isinstance(error, Unauthorized) or (isinstance(error, Forbidden) and error.message.startswith("denied")):
        return NotFound(
            f"pull access denied for {reference.familiar_repository}, repository does not exist or may require "
            f"'docker login': {error}"
        )
    if isinstance(error, NotFound):
        if error.message.startswith("name unknown"):
            return NotFound(f"repository {reference.familiar_repository} not found: {error}")
        told = error.message if error.message.startswith("manifest unknown") else f"manifest unknown: {error}"
        return NotFound(f"manifest for {reference.familiar} not found: {told}")
    return error


async def _of_platform(
    source: Repository, reference: Reference, top: Fetched, target: Platform
) -> tuple[Fetched, list[Fetched]]:
    """The manifest itself, or that of an index that is for `target`; and the indexes between the two."""
    fetched = top
    between: list[Fetched] = []
    for _ in range(_DEPTH):
        if fetched.manifest.manifests is None:
            return fetched, between
        if fetched is not top:
            between.append(fetched)
        choice = platforms.choose(fetched.manifest.manifests, target)
        if choice is None:
            raise NotFound(
                f"no matching manifest for {platforms.show(target)} in the manifest list entries "
                f"of {reference.familiar}"
            )
        fetched = await _child(source, choice)
    raise InvalidArgument(f"manifest for {reference.familiar}: indexes within indexes, more than {_DEPTH} deep")


async def _child(source: Repository, choice: Descriptor) -> Fetched:
    what = f"manifest {choice.digest}"
    fetched = await source.session.again(lambda: source.manifest(choice.digest, what))
    if fetched.media_type != choice.media_type:
        raise InvalidArgument(f"{what}: it is {fetched.media_type!r}, its index says {choice.media_type[:100]!r}")
    if len(fetched.data) != choice.size:
        raise InvalidArgument(f"{what}: it has {len(fetched.data)} bytes, its index says {choice.size}")
    return fetched


async def _store(
    services: Services,
    downloads: Downloads,
    repositories: Sequence[Repository],
    reference: Reference,
    fetched: Fetched,
    above: Sequence[Fetched],
    target: Platform,
    wanted: str,
    board: Board,
) -> bool:
    """Everything behind the manifest, then the row. `above`: what was fetched first (the manifest itself, or an index),
    and indexes within it. Returns whether that changed anything."""
    digest = above[0].digest
    manifest = fetched.manifest
    assert manifest.config is not None
    descriptors = manifest.layers or []
    _check_kinds(manifest.config, descriptors, reference)
    data = await _configuration(services, repositories, manifest.config)
    config = oci.parse_config(data, f"configuration {manifest.config.digest}")
    _check_platform(config, target, wanted, reference)
    diff_ids = config.rootfs.diff_ids or []
    if len(diff_ids) != len(descriptors):
        raise InvalidArgument(
            f"manifest {fetched.digest}: invalid manifest, layers length mismatch: "
            f"expected {len(diff_ids)}, got {len(descriptors)}"
        )
    created = _created(config, manifest.config.digest)
    layers = _layers(descriptors, diff_ids)
    with services.snapshots.lease() as lease:
        for layer in layers:
            lease.add(layer.chain)
        await _fetch_all(services, downloads, repositories, layers, board)
        downloads.keep(layers)
        image_id = await services.content.put(data)
        for document in {fetched.digest: fetched, **{index.digest: index for index in above}}.values():
            await services.content.put(document.data)
        top = layers[-1].chain if layers else None
        known = services.catalogue.by_id(image_id)
        complete = f"{reference.repository}@{digest}"
        name = "" if reference.digest else reference.complete
        changed = known is None or complete not in known.record.digests
        changed = changed or (bool(name) and services.catalogue.holder(name) != image_id)
        record = ImageRecord(
            image_id, config, top,
            size=sum(layer.document.size for layer in services.snapshots.chain(top)),
            created=created,
            manifest=fetched.digest, manifest_type=fetched.media_type,
            digests=list(dict.fromkeys([*(known.record.digests if known else []), complete])),
            tagged_at=services.clock() if name else known.record.tagged_at if known else 0,
            used_at=services.clock(),
        )  # fmt: skip
        _with_index(record, above, known.record if known else None)
        await services.commit([(record, [name] if name else [])])
    image = services.catalogue.by_id(image_id)
    services.publish("pull", reference.familiar, reference.familiar_repository, image.labels if image else None)
    return changed


def _with_index(record: ImageRecord, above: Sequence[Fetched], known: ImageRecord | None) -> None:
    """Note which index the image came with; without one, an index that it came with before stays."""
    if above[0].manifest.manifests is not None:
        record.index, record.index_type = above[0].digest, above[0].media_type
        record.attached = [index.digest for index in above[1:]]
    if known is not None and known.index and record.index in ("", known.index):
        record.index, record.index_type = known.index, known.index_type
        record.attached = list(dict.fromkeys([*known.attached, *record.attached]))


def _check_kinds(config: Descriptor, layers: Sequence[Descriptor], reference: Reference) -> None:
    """Refuse what is no image: plugins, charts, signatures, …"""
    kind = config.media_type
    if kind == _PLUGIN:
        raise InvalidArgument(f'Encountered remote "{kind}"(plugin config) when fetching {reference.familiar}')
    if kind not in oci.CONFIGS:
        raise InvalidArgument(
            f"{reference.familiar} is not an image but an artifact: its configuration has the media type {kind[:200]!r}"
        )
    for layer in layers:
        if layer.media_type not in oci.LAYERS:
            raise InvalidArgument(
                f"layer {layer.digest}: its media type {layer.media_type[:200]!r} is not that of a file system's layer"
            )


def _check_platform(config: ImageConfig, target: Platform, wanted: str, reference: Reference) -> None:
    actual = Platform(config.architecture, config.os or "linux", variant=config.variant or target.variant)
    if actual.os != "linux":
        raise InvalidArgument(
            f'image operating system "{actual.os[:50]}" cannot be used on this platform: {reference.familiar}'
        )
    if wanted and config.architecture and platforms.rank(actual, target) is None:
        raise NotFound(
            f"image with reference {reference.familiar} was found but does not match the specified platform: "
            f"wanted {platforms.show(target)}, actual: {platforms.show(platforms.normal(actual))}"
        )


async def _configuration(services: Services, repositories: Sequence[Repository], config: Descriptor) -> bytes:
    if services.content.has(config.digest):
        return services.content.read(config.digest)
    what = f"configuration {config.digest}"
    for repository in repositories:
        try:
            return await repository.small_blob(config, what)
        except DockyardError:
            if repository is repositories[-1]:
                raise
    raise AssertionError("no repository")


def _created(config: ImageConfig, digest: str) -> int:
    try:
        return parse_rfc3339(config.created) if config.created else 0
    except ValueError as error:
        raise InvalidArgument(f"configuration {digest}: {error}") from None


def _layers(descriptors: Sequence[Descriptor], diff_ids: Sequence[str]) -> list[Wanted]:
    layers: list[Wanted] = []
    chain: str | None = None
    for descriptor, diff_id in zip(descriptors, diff_ids, strict=True):
        chain = oci.chain_id(diff_id, chain)
        layers.append(Wanted(descriptor, diff_id, chain))
    return layers


async def _fetch_all(
    services: Services, downloads: Downloads, repositories: Sequence[Repository], layers: list[Wanted], board: Board
) -> None:
    """All layers, side by side; the first failure ends the others."""

    async def fetch(place: int, listener: Board | None) -> str | None:
        if place < 0:
            return None
        return await downloads.fetch(repositories, layers[place], lambda: fetch(place - 1, None), listener)

    missing = []
    for place, layer in enumerate(layers):
        if services.snapshots.has(layer.chain):
            board.say("Already exists", layer.id)
        else:
            board.say("Pulling fs layer", layer.id)
            missing.append(place)
    tasks = [asyncio.create_task(fetch(place, board)) for place in missing]
    if not tasks:
        return
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
