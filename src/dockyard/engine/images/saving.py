"""Images become an archive: `docker save`.

Owns: the plan of the archive (a docker-archive that is an OCI layout too), streamed out of a worker.
Does not own: how a layer's tar is put together again (`store.recipe`), the archive's format (`store.archive`).

An image that came with a manifest, and whose blobs were kept, leaves with the same manifest; for others one is made of
the uncompressed layers. The same images give the same bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from dockyard.engine.images import variants
from dockyard.engine.images.catalogue import Image
from dockyard.engine.images.services import Services
from dockyard.model import oci
from dockyard.model.errors import NotFound
from dockyard.model.oci import Descriptor, Manifest, Platform
from dockyard.proto import references
from dockyard.store.snapshots import Layer
from dockyard.store.spooling import worker_output

_LAYOUT = '{"imageLayoutVersion":"1.0.0"}'


def choose(services: Services, refs: Sequence[str], wanted: Platform | None = None) -> list[tuple[Image, list[str]]]:
    """The images to save (of each, what is for `wanted`), each with the complete names that the archive shall give it.

    A name with a tag or digest is that image with this name; a bare name is all tags of that repository; an id is an
    image without a name. NotFound for what is not there.
    """
    chosen: dict[str, tuple[Image, list[str]]] = {}
    for ref in refs:
        for named, name in _of(services, ref):
            image = variants.for_platform(services, named, wanted, ref)
            _, names = chosen.setdefault(image.id, (image, []))
            if name and name not in names:
                names.append(name)
    return list(chosen.values())


def _of(services: Services, ref: str) -> list[tuple[Image, str]]:
    catalogue = services.catalogue
    found = _maybe(services, ref)
    if found is not None and catalogue.is_id(found, ref):
        return [(found, "")]
    reference = references.parse(ref)
    if reference.tag or reference.digest:
        image = catalogue.get(ref)
        return [(image, "" if reference.digest else reference.complete)]
    names = catalogue.in_repository(reference)
    if not names:
        return [(catalogue.get(ref), "")]  # says what is missing
    return [(catalogue.get(references.from_complete(name).familiar), name) for name in names]


def _maybe(services: Services, ref: str) -> Image | None:
    try:
        return services.catalogue.get(ref)
    except NotFound:
        return None


async def save_images(
    services: Services, chosen: list[tuple[Image, list[str]]], *, whole: bool
) -> AsyncGenerator[bytes, None]:
    """See `Images.save`. `whole`: with the other platforms of their indexes."""
    with services.snapshots.lease() as lease, services.making():  # what is being read must not be collected
        for image, _ in chosen:
            for member in [image, *services.catalogue.siblings(image)]:
                if member.chain_id is not None:
                    lease.add(member.chain_id)
        arguments = {"members": _Plan(services, whole).members(chosen)}
        async with aclosing(worker_output(services.call, "dockyard.store.archive:write", arguments)) as chunks:
            async for chunk in chunks:
                yield chunk
    await services.collect_after_making(failed=False)
    for image, names in chosen:
        services.publish("save", image.id, references.from_complete(names[0]).familiar if names else image.id)


class _Plan:
    """What goes into one archive, each blob once."""

    def __init__(self, services: Services, whole: bool) -> None:
        self._services = services
        self._whole = whole
        self._blobs: dict[str, dict[str, Any]] = {}  # digest -> member

    def members(self, chosen: list[tuple[Image, list[str]]]) -> list[dict[str, Any]]:
        index: list[Descriptor] = []
        docker: list[dict[str, Any]] = []
        repositories: dict[str, dict[str, str]] = {}
        for image, names in sorted(chosen, key=lambda pair: pair[0].id):
            manifest, descriptor = self._manifest(image)
            tree = variants.index_tree(self._services, image) if self._whole else None
            if tree is not None:
                self._tree(image, tree)
                descriptor = tree.descriptor
            index.extend(_named(descriptor, sorted(names)))
            docker.append(self._docker_entry(image, sorted(names), manifest))
            for name in names:
                reference = references.from_complete(name)
                last = (manifest.layers or [Descriptor()])[-1].digest.partition(":")[2]
                repositories.setdefault(reference.familiar_repository, {})[reference.tag] = last
        document = Manifest(2, oci.OCI_INDEX, manifests=index)
        members: list[dict[str, Any]] = [{"name": "blobs/"}, {"name": "blobs/sha256/"}]
        members += [{"name": _path(digest), **self._blobs[digest]} for digest in sorted(self._blobs)]
        members.append({"name": "index.json", "text": _json(document)})
        members.append({"name": "manifest.json", "text": _json(docker)})
        members.append({"name": "oci-layout", "text": _LAYOUT})
        if repositories:
            members.append({"name": "repositories", "text": _json(repositories)})
        return members

    def _tree(self, image: Image, branch: variants.Branch) -> None:
        """Put an index into the plan, with all that it refers to."""
        if branch.image is not None:
            self._manifest(branch.image)
            return
        for digest in [branch.descriptor.digest, *variants.attached_blobs(self._services, image, branch)]:
            self._stored(digest)
        for child in branch.children:
            self._tree(image, child)

    def _manifest(self, image: Image) -> tuple[Manifest, Descriptor]:
        """The image's manifest and its descriptor, with everything that it refers to put into the plan."""
        self._stored(image.id)
        layers = list(reversed(self._services.snapshots.chain(image.chain_id)))
        original = self._original(image, layers)
        if original is not None:
            self._stored(image.record.manifest)
            size = self._services.content.size(image.record.manifest)
            return original, Descriptor(image.record.manifest_type, image.record.manifest, size)
        config = Descriptor(oci.OCI_CONFIG, image.id, self._services.content.size(image.id))
        manifest = Manifest(2, oci.OCI_MANIFEST, config, [self._uncompressed(layer) for layer in layers])
        data = _json(manifest)
        digest = oci.sha256(data.encode())
        self._blobs[digest] = {"text": data}
        return manifest, Descriptor(oci.OCI_MANIFEST, digest, len(data.encode()))

    def _original(self, image: Image, layers: list[Layer]) -> Manifest | None:
        """The manifest that the image came with, if all that it refers to is here."""
        manifest = variants.kept_manifest(self._services, image)
        for descriptor, layer in zip((manifest.layers or []) if manifest else [], layers, strict=False):
            if descriptor.digest == layer.diff_id:
                self._uncompressed(layer)
            else:
                self._stored(descriptor.digest)
        return manifest

    def _stored(self, digest: str) -> None:
        content = self._services.content
        self._blobs[digest] = {"blob": str(content.path(digest)), "size": content.size(digest)}

    def _uncompressed(self, layer: Layer) -> Descriptor:
        size = layer.document.tar_size
        snapshots = self._services.snapshots
        self._blobs[layer.diff_id] = {
            "layer": {
                "recipe": snapshots.recipe_of(layer),
                "tree": snapshots.tree_of(layer),
                "size": size,
                "digest": layer.diff_id,
            }
        }
        return Descriptor(oci.OCI_LAYER, layer.diff_id, size)

    def _docker_entry(self, image: Image, names: list[str], manifest: Manifest) -> dict[str, Any]:
        familiar = [references.from_complete(name).familiar for name in names]
        layers = [_path(layer.digest) for layer in manifest.layers or []]
        return {"Config": _path(image.id), "RepoTags": familiar or None, "Layers": layers}


def _named(descriptor: Descriptor, names: list[str]) -> list[Descriptor]:
    """One descriptor of the index for each name, or one without."""
    platform = descriptor.platform or Platform()
    plain = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)
    if platform.os:
        plain.platform = platform
    if not names:
        return [plain]
    return [
        Descriptor(
            plain.media_type, plain.digest, plain.size, platform=plain.platform,
            annotations={
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": references.from_complete(name).tag,
            },
        )
        for name in names
    ]  # fmt: skip


def _path(digest: str) -> str:
    return "blobs/sha256/" + digest.partition(":")[2]


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
