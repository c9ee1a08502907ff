"""Images of several platforms, built at once: an index that holds them together.

Owns: a manifest for each and the index, as blobs, and the images' rows pointing to them. Does not own: building them,
images of an index as clients see them (`engine.images.variants`).

Layers are compressed now only if the images are to be pushed: the manifests have to name the blobs before that. Else
they name the plain tars, which can always be made again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec

from dockyard.engine.builds.exporting import names_to_push
from dockyard.engine.builds.ground import Session
from dockyard.engine.images.variants import host_platform
from dockyard.model import oci
from dockyard.model.oci import Descriptor, Manifest
from dockyard.proto import platforms
from dockyard.store.images import ImageRecord
from dockyard.store.snapshots import Layer

_GZIP_LAYER = oci.OCI_LAYER + "+gzip"


async def join(session: Session, shown: Sequence[str], records: Sequence[ImageRecord]) -> str:
    """Make the index of these images (`shown`: their platforms) and note it in them; its digest, "" for one image."""
    if len(records) < 2:
        return ""
    content = session.ground.services.content
    compress = bool(names_to_push(session))
    entries = []
    for text, record in zip(shown, records, strict=True):
        layers = session.ground.context.snapshots.chain(record.chain_id)[::-1]
        blobs = [await _blob(session, layer) if compress else _plain(layer) for layer in layers]
        config = Descriptor(oci.OCI_CONFIG, record.id, content.size(record.id))
        data = msgspec.json.encode(Manifest(2, oci.OCI_MANIFEST, config, blobs))
        record.manifest, record.manifest_type = await content.put(data), oci.OCI_MANIFEST
        platform = platforms.parse(text, host_platform())
        entries.append(Descriptor(oci.OCI_MANIFEST, record.manifest, len(data), platform=platform))
    index = await content.put(msgspec.json.encode(Manifest(2, oci.OCI_INDEX, manifests=entries)))
    for record in records:
        record.index, record.index_type, record.attached = index, oci.OCI_INDEX, []
    return index


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
