"""What a build puts around its images: a manifest for each, attestations, an index that holds them together.

Owns: these documents as blobs, and the images' rows pointing to them; annotations. Does not own: building the images,
images of an index as clients see them (`engine.images.variants`), what an attestation says (`provenance`).

An image alone, without attestations and annotations, has none of these: its manifest is made when it leaves. Layers are
compressed now only if the images are to be pushed: the manifests have to name the blobs before that. Else they name the
plain tars, which can always be made again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dockyard.engine.builds import provenance
from dockyard.engine.builds.exporting import ARCHIVES, names_to_push
from dockyard.engine.builds.ground import Session, Tree
from dockyard.engine.images.variants import host_platform
from dockyard.model import oci
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import Descriptor, Manifest
from dockyard.proto import platforms, slsa
from dockyard.proto.dockerfile.ops import Plan
from dockyard.store.images import ImageRecord
from dockyard.store.snapshots import Layer

_GZIP_LAYER = oci.OCI_LAYER + "+gzip"
_ANNOTATION = re.compile(r"(?:(?P<kind>[a-z-]+)(?:\[(?P<platform>[A-Za-z0-9/_.-]+)\])?:)?(?P<key>\S+)\Z")
_KINDS = ("index", "manifest")


def check(session: Session) -> None:
    """Before anything is built: InvalidArgument for attestations or annotations that cannot be."""
    provenance.asked(session.options)
    _annotations(session, "manifest", "")


async def join(
    session: Session, plans: Sequence[Plan], records: Sequence[ImageRecord], trees: Mapping[int, Tree]
) -> tuple[str, dict[str, Any]]:
    """Make the documents that these images need and note them in their rows: (digest of the index, or else of the one
    manifest, "" if none was made; what the build's metadata say of it)."""
    asked = provenance.asked(session.options)
    if len(records) < 2 and asked is None and not session.options.annotations:
        return "", {}
    entries = [await _manifest(session, plan, record) for plan, record in zip(plans, records, strict=True)]
    on_index = _annotations(session, "index", "")
    if len(records) < 2 and asked is None and not on_index:
        return entries[0].digest, _metadata(entries[0])
    attached: list[str] = []
    more: dict[str, Any] = {}
    if asked is not None:
        for plan, entry in zip(plans, list(entries), strict=True):
            content = slsa.predicate(provenance.facts(session, plan, trees, asked), asked.version)
            descriptor, blobs = await _attest(session, plan, entry.digest, content, asked.version)
            entries.append(descriptor)
            attached += blobs
            more["buildx.build.provenance" + (f"/{plan.platform}" if len(plans) > 1 else "")] = content
    document = Manifest(2, oci.OCI_INDEX, manifests=entries, annotations=on_index or None)
    data = msgspec.json.encode(document)
    index = await session.ground.services.content.put(data)
    for record in records:
        record.index, record.index_type, record.attached = index, oci.OCI_INDEX, list(attached)
    return index, _metadata(Descriptor(oci.OCI_INDEX, index, len(data))) | more


def _metadata(descriptor: Descriptor) -> dict[str, Any]:
    return {"containerimage.descriptor": msgspec.to_builtins(descriptor)}


async def _manifest(session: Session, plan: Plan, record: ImageRecord) -> Descriptor:
    """Make an image's manifest; how an index names it."""
    content = session.ground.services.content
    compress = bool(names_to_push(session)) and not any(spec.type in ARCHIVES for spec in session.options.outputs)
    layers = session.ground.context.snapshots.chain(record.chain_id)[::-1]
    blobs = [await _blob(session, layer) if compress else _plain(layer) for layer in layers]
    config = Descriptor(oci.OCI_CONFIG, record.id, content.size(record.id))
    annotations = _annotations(session, "manifest", plan.platform)
    data = msgspec.json.encode(Manifest(2, oci.OCI_MANIFEST, config, blobs, annotations=annotations or None))
    record.manifest, record.manifest_type = await content.put(data), oci.OCI_MANIFEST
    platform = platforms.parse(plan.platform, host_platform())
    return Descriptor(oci.OCI_MANIFEST, record.manifest, len(data), platform=platform)


async def _attest(
    session: Session, plan: Plan, digest: str, content: dict[str, Any], version: str
) -> tuple[Descriptor, list[str]]:
    """Store an attestation about the manifest `digest`: how the index names it, and its blobs."""
    store = session.ground.services.content
    statement = slsa.statement(content, version, provenance.subjects(session, plan), digest)
    manifest, config = slsa.manifest(statement, version)
    blobs = [await store.put(data) for data in (statement, config, manifest)]
    return slsa.descriptor(manifest, digest), blobs


def _annotations(session: Session, wanted: str, platform: str) -> dict[str, str]:
    """`--annotation [index:|manifest[PLATFORM]:]key=value`, those for one kind of document. InvalidArgument."""
    found = {}
    for text, value in session.options.annotations.items():
        match = _ANNOTATION.match(text)
        kind = (match["kind"] or "manifest") if match else ""
        if match is None or kind not in _KINDS:
            raise InvalidArgument(f"invalid annotation {text[:100]!r}: key, manifest:key or index:key is expected")
        only = match["platform"]
        if kind == wanted and (only is None or not platform or _same(only, platform)):
            found[match["key"]] = value
    return found


def _same(one: str, other: str) -> bool:
    host = host_platform()
    return platforms.show(platforms.parse(one, host)) == platforms.show(platforms.parse(other, host))


def _plain(layer: Layer) -> Descriptor:
    return Descriptor(oci.OCI_LAYER, layer.diff_id, layer.document.tar_size)


async def _blob(session: Session, layer: Layer) -> Descriptor:
    """What the layer is when it is compressed: the push makes the very same bytes."""
    if layer.blob:
        return Descriptor(layer.document.media_type or _GZIP_LAYER, layer.blob, layer.document.blob_size)
    snapshots = session.ground.context.snapshots
    described = {
        "recipe": snapshots.recipe_of(layer), "tree": snapshots.tree_of(layer),
        "size": layer.document.tar_size, "digest": layer.diff_id,
    }  # fmt: skip
    nowhere = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    try:
        arguments: dict[str, Any] = {"layer": described, "compress": True}
        found = await session.ground.context.runtime.call("dockyard.store.remote.layers:send", arguments, [nowhere])
    finally:
        os.close(nowhere)
    await snapshots.remember_blob(layer.chain_id, found["digest"], _GZIP_LAYER, found["size"])
    return Descriptor(_GZIP_LAYER, found["digest"], found["size"])
