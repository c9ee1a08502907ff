"""The build cache to and from registries: `--cache-to`, `--cache-from`. (`localcache`: directories of the client.)

Owns: the document that tells which keys stand for which layers, sending it with those layers (registry) or within an
image's configuration (inline), and finding steps in one that was fetched. Does not own: transfers of layers
(`engine.transfers`), what is done with a step that was found (`engine.builds.steps`).

In a registry a cache is an artifact: an image manifest whose configuration is the document, whose layers are all the
layers it speaks of. Layers come only when a step is found that needs them; each is verified by its digest. Whom to
believe about keys is the user's choice, by naming the reference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from dockyard.engine.builds.ground import Session, Tree
from dockyard.engine.transfers.contents import Made, Stored
from dockyard.engine.transfers.downloads import BlobSource, Wanted
from dockyard.model import oci, untrusted
from dockyard.model.build import BuildOptions, Planned, TypedSpec, VertexDone, VertexInfo, VertexStarted, Warned
from dockyard.model.errors import DockyardError, InvalidArgument, NotFound
from dockyard.model.oci import Descriptor, Manifest
from dockyard.proto import references
from dockyard.proto.dockerconfig import Credentials
from dockyard.proto.references import Reference
from dockyard.store.builds.cache import REGULAR, Record
from dockyard.store.remote.repository import Repository
from dockyard.store.remote.uploading import Upload
from dockyard.store.snapshots import Layer

CACHE_CONFIG: Final = "application/vnd.dockyard.build.cache.v1+json"
INLINE: Final = "dockyard.build.cache.v1"  # field of an image's configuration
_GZIP_LAYER: Final = oci.OCI_LAYER + "+gzip"
_MAX_RECORDS: Final = 100_000
_AT_ONCE: Final = 4


class CachedLayer(Struct, omit_defaults=True):
    """A layer: what it is, upon which other of the list (-1: none) it lies. The manifest's layer of the same place is
    its blob."""

    diff_id: str
    parent: int = -1


class CachedStep(Struct, omit_defaults=True):
    """A step: its keys and the top layer of its result (-1: none)."""

    keys: list[str]
    layer: int = -1
    made: bool = False
    created: int = 0
    description: str = ""


class Document(Struct):
    layers: list[CachedLayer] = field(default_factory=list)
    steps: list[CachedStep] = field(default_factory=list)


# --- out --------------------------------------------------------------------------------------------------------------


def describe(
    session: Session, trees: Iterable[Tree], within: Sequence[str | None] | None = None
) -> tuple[Document, list[Layer]]:
    """The document about these results, and its layers. `within`: only steps whose layers are among those chains'."""
    snapshots = session.ground.context.snapshots
    places: dict[str, int] = {}
    document, layers = Document(), list[Layer]()

    def place(chain: str | None) -> int:
        if chain is None:
            return -1
        if chain not in places:
            layer = snapshots.layer(chain)
            parent = place(layer.parent)
            places[chain] = len(layers)
            layers.append(layer)
            document.layers.append(CachedLayer(layer.diff_id, parent))
        return places[chain]

    allowed = None
    if within is not None:
        allowed = {layer.chain_id for chain in within for layer in snapshots.chain(chain)}
        for chain in within:
            place(chain)
    for tree in trees:
        record = tree.record
        if record is None or record.type != REGULAR or not record.keys:
            continue
        if allowed is not None and record.chain is not None and record.chain not in allowed:
            continue
        step = CachedStep(list(record.keys), place(record.chain), record.made, record.created, record.description)
        document.steps.append(step)
    return document, layers


def check(options: BuildOptions) -> None:
    """Before anything is built: InvalidArgument for a cache that cannot come, or go, as it is asked."""
    asked = [("from", spec) for spec in options.cache_from] + [("to", spec) for spec in options.cache_to]
    for way, spec in asked:
        kinds = ("registry", "local") if way == "from" else ("inline", "registry", "local")
        if spec.type not in kinds or (spec.type == "registry" and not spec.fields.get("ref")):
            served = ", ".join(kinds).replace("registry", "registry (with ref=)")
            raise InvalidArgument(f"--cache-{way} type={spec.type}: {served} are served")
        if way == "to" and spec.fields.get("mode", "min") not in ("min", "max"):
            raise InvalidArgument(f"--cache-to mode={spec.fields['mode'][:50]}: min or max is expected")


def steps_within(spec: TypedSpec, results: Sequence[str | None]) -> Sequence[str | None] | None:
    """`within` of `describe`: with mode=max all steps, else those of the results."""
    return None if spec.fields.get("mode") == "max" else results


def inline(session: Session, trees: Mapping[int, Tree], chain: str | None) -> dict[str, Any]:
    """What goes into the image's configuration; nothing unless it was asked for."""
    if not any(spec.type == "inline" for spec in session.options.cache_to):
        return {}
    document, _ = describe(session, trees.values(), [chain])
    return {INLINE: msgspec.to_builtins(document)}


async def export(session: Session, trees: Sequence[Tree], results: Sequence[str | None]) -> None:
    """Send the cache where `--cache-to` says. DockyardError of the first failure, unless `ignore-error` is given."""
    for spec in session.options.cache_to:
        if spec.type != "registry":
            continue
        ref = spec.fields["ref"]
        clock, vertex = session.ground.context.clock, f"cache-to:{ref}"
        session.emit(Planned((VertexInfo(vertex, f"exporting cache to registry {ref}"),)))
        session.emit(VertexStarted(vertex, clock()))
        try:
            document, layers = describe(session, trees, steps_within(spec, results))
            await _send(session, references.parse(ref).with_default_tag(), document, layers)
        except DockyardError as error:
            session.emit(VertexDone(vertex, error=error.message, time_ns=clock()))
            if spec.fields.get("ignore-error", "").lower() not in ("1", "true"):
                raise
        else:
            session.emit(VertexDone(vertex, time_ns=clock()))


async def _send(session: Session, reference: Reference, document: Document, layers: Sequence[Layer]) -> None:
    ground = session.ground
    credentials = session.request.credentials.get(reference.domain, Credentials())
    (repository,) = await ground.transfers.repositories(reference, credentials, push=True)
    await repository.session.again(repository.session.find)
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(layer: Layer) -> Descriptor:
        async with limit:
            return await _send_layer(session, repository, layer)

    tasks = [asyncio.ensure_future(one(layer)) for layer in layers]
    try:
        blobs = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    data = msgspec.json.encode(document)
    with ground.services.making():
        digest = await ground.services.content.put(data)
        stored = Stored(ground.services, digest, len(data))
        await Upload(repository, stored, "build cache", lambda seconds: None).run()
    manifest = Manifest(2, oci.OCI_MANIFEST, Descriptor(CACHE_CONFIG, digest, len(data)), list(blobs))
    encoded = msgspec.json.encode(manifest)
    await repository.session.again(
        lambda: repository.put_manifest(reference.tag, encoded, oci.OCI_MANIFEST, "build cache")
    )


async def _send_layer(session: Session, repository: Repository, layer: Layer) -> Descriptor:
    """Its blob, if the registry has it; else it is made and sent."""
    services, what = session.ground.services, f"layer {layer.diff_id}"
    if layer.blob and await repository.session.again(lambda: repository.has_blob(layer.blob or "", what)) is not None:
        return Descriptor(layer.document.media_type or _GZIP_LAYER, layer.blob, layer.document.blob_size)
    digest, size = await Upload(repository, Made(services, layer, True), what, lambda seconds: None).run()
    await services.snapshots.remember_blob(layer.chain_id, digest, _GZIP_LAYER, size)
    return Descriptor(_GZIP_LAYER, digest, size)


# --- in ---------------------------------------------------------------------------------------------------------------


class RemoteCache:
    """A cache that was found under a reference. Layers are fetched when a step needs them."""

    def __init__(
        self, document: Document, blobs: Sequence[Descriptor], repositories: Sequence[BlobSource], name: str
    ) -> None:
        self._document = document
        self._repositories = repositories
        self._wanted = _wanted(document, blobs, name)
        self._steps = {key: step for step in document.steps for key in step.keys}

    def find(self, keys: Iterable[str]) -> CachedStep | None:
        return next((self._steps[key] for key in keys if key in self._steps), None)

    async def take(self, session: Session, step: CachedStep, keys: Sequence[str]) -> Record:
        """Have the step's layers; its row. DockyardError if they cannot be had."""
        downloads = session.ground.transfers.downloads

        async def fetch(place: int) -> str | None:
            if place < 0:
                return None
            parent = self._document.layers[place].parent
            return await downloads.fetch(self._repositories, self._wanted[place], lambda: fetch(parent), None)

        with session.ground.services.making():
            chain = await fetch(step.layer)
            path, at = [], step.layer
            while at >= 0:
                path.append(self._wanted[at])
                at = self._document.layers[at].parent
            downloads.keep(path)
        size = session.ground.context.snapshots.layer(chain).document.size if chain is not None and step.made else 0
        record = Record("", REGULAR, step.description, chain=chain, made=step.made, created=step.created, size=size)
        return session.ground.cache.put(record, [*keys, *step.keys])


def _wanted(document: Document, blobs: Sequence[Descriptor], name: str) -> list[Wanted]:
    """The layers as downloads. InvalidArgument for a document that is none of ours."""
    if len(document.layers) > len(blobs) or len(document.steps) > _MAX_RECORDS:
        raise InvalidArgument(f"build cache {name}: its layers and its manifest do not fit together")
    found: list[Wanted] = []
    for number, (layer, blob) in enumerate(zip(document.layers, blobs, strict=False)):
        if not -1 <= layer.parent < number:
            raise InvalidArgument(f"build cache {name}: a layer lies upon a later one")
        parent = found[layer.parent].chain if layer.parent >= 0 else None
        oci.check_digest(layer.diff_id, f"build cache {name}")
        found.append(Wanted(blob, layer.diff_id, oci.chain_id(layer.diff_id, parent)))
    if any(not -1 <= step.layer < len(found) for step in document.steps):
        raise InvalidArgument(f"build cache {name}: a step without its layer")
    return found


async def load(session: Session) -> list[RemoteCache]:
    """Everything that `--cache-from` names; what is not there is told as a warning."""
    found: list[RemoteCache] = []
    for spec in session.options.cache_from:
        if spec.type != "registry":
            continue
        ref = spec.fields["ref"]
        try:
            cache = await _load(session, references.parse(ref).with_default_tag())
        except DockyardError as error:
            session.emit(Warned("CacheImport", f"cache from {ref}: {error.message}"))
            continue
        if cache is not None:
            found.append(cache)
    return found


async def _load(session: Session, reference: Reference) -> RemoteCache | None:
    ground, name = session.ground, reference.familiar
    local = _local(session, name)
    if local is not None:
        return local
    credentials = session.request.credentials.get(reference.domain, Credentials())
    repositories = await ground.transfers.repositories(reference, credentials, push=False)
    fetched = await repositories[-1].session.again(
        lambda: repositories[-1].manifest(reference.digest or reference.tag, f"manifest for {name}")
    )
    config = fetched.manifest.config
    if config is None:
        raise InvalidArgument("an index of several images holds no build cache")
    data = await repositories[-1].small_blob(config, f"build cache {name}")
    document = parse_document(data, config.media_type)
    if document is None:
        return None
    return RemoteCache(document, fetched.manifest.layers or (), repositories[-1:], name)


def _local(session: Session, name: str) -> RemoteCache | None:
    """An image that is here and was built with an inline cache: nothing has to be fetched."""
    try:
        image = session.ground.services.catalogue.get(name)
    except (NotFound, InvalidArgument):
        return None
    document = parse_document(session.ground.services.content.read(image.id), oci.OCI_CONFIG)
    if document is None:
        return None
    return RemoteCache(document, [Descriptor(digest=layer.diff_id) for layer in document.layers], (), name)


def parse_document(data: bytes, media_type: str) -> Document | None:
    """The document in a configuration; None: there is none. InvalidArgument if it is damaged."""
    try:
        if media_type == CACHE_CONFIG:
            return untrusted.decode(data, Document)
        raw = untrusted.decode(data)
        found = raw.get(INLINE) if isinstance(raw, dict) else None
        return msgspec.convert(found, Document) if found is not None else None
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"not a build cache: {error}") from None
