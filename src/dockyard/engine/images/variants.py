"""Images and platforms: the index that an image came with, the images of it that are here, which of them is meant.

Owns: finding the image for a platform, `Variant` (a manifest of an index as clients may ask for it), `index_tree` (an
index that is here with all that it refers to, so that it can leave as it came). Does not own: the choice out of an
index (`proto.platforms`), Docker's JSON.

Every platform of an index is an image of its own; those of one index belong together. One of them has the name; the
others have none, are found by the name and a platform, are not listed by themselves, and go when the named one goes.
"""

from __future__ import annotations

import platform as machine
from collections.abc import Iterator
from typing import NamedTuple

from dockyard.engine.images.catalogue import Image
from dockyard.engine.images.services import Services
from dockyard.model import oci
from dockyard.model.errors import NotFound
from dockyard.model.oci import Descriptor, Manifest, Platform
from dockyard.proto import platforms
from dockyard.store.snapshots import Layer

_ATTESTED = "vnd.docker.reference.digest"  # annotation: digest of the manifest that an attestation is about
_DEPTH = 4  # indexes within indexes


class Variant(NamedTuple):
    """A manifest of an image. Sizes in bytes: of the blobs that are here, of the unpacked layers. `available`: whether
    it is here with its content. `attests`: the manifest of which an attestation states something."""

    descriptor: Descriptor
    platform: Platform
    content: int
    unpacked: int
    containers: list[str]
    available: bool = True
    attests: str = ""


class Branch(NamedTuple):
    """A part of an index: an image of it, an index within it (with `children`), or neither: an attestation."""

    descriptor: Descriptor
    image: Image | None
    children: list[Branch]


def host_platform() -> Platform:
    return platforms.normal(Platform(machine.machine(), "linux"))


def platform_of(image: Image) -> Platform:
    config = image.record.config
    host = host_platform()
    return Platform(
        config.architecture or host.architecture, config.os or host.os, config.os_version, config.os_features,
        config.variant,
    )  # fmt: skip


def for_platform(services: Services, image: Image, wanted: Platform | None, ref: str) -> Image:
    """The image itself, or the one of its index for the platform that is asked for. NotFound saying what it is for."""
    if wanted is None:
        return image
    family = [image, *services.catalogue.siblings(image)]
    ranks = [platforms.rank(platform_of(member), wanted) for member in family]
    fitting = [(rank, place) for place, rank in enumerate(ranks) if rank is not None]
    if fitting:
        return family[min(fitting)[1]]
    shown = ", ".join(platforms.show(platforms.normal(platform_of(member))) for member in family)
    raise NotFound(
        f"image with reference {ref} was found but its platform ({shown}) "
        f"does not match the specified platform ({platforms.show(wanted)})"
    )


def is_subordinate(services: Services, image: Image) -> bool:
    """Whether an image is only there as another platform of one that has a name."""
    if image.complete_names:
        return False
    return any(sibling.complete_names for sibling in services.catalogue.siblings(image))


def subordinates(services: Services, image: Image) -> list[Image]:
    """The images that are only there as other platforms of this one, which has a name."""
    siblings = services.catalogue.siblings(image)
    if not image.complete_names or any(sibling.complete_names for sibling in siblings):
        return []
    return siblings


# --- manifests -------------------------------------------------------------------------------------------------------


def image_variants(services: Services, image: Image) -> list[Variant]:
    """The manifests of the index that the image came with, or its own; none if it came without."""
    family = {member.record.manifest: member for member in [image, *services.catalogue.siblings(image)]}
    found = [_variant(services, entry, family) for entry in _leaves(services, image.record.index, 0)]
    if not found and _has(services, image.record.manifest):
        record = image.record
        entry = Descriptor(record.manifest_type, record.manifest, services.content.size(record.manifest))
        found = [_variant(services, entry, family)]
    return found


def _leaves(services: Services, index: str, depth: int) -> Iterator[Descriptor]:
    """The descriptors of an index, those of indexes within it too."""
    if not _has(services, index) or depth > _DEPTH:
        return
    for entry in _read(services, index).manifests or []:
        if entry.media_type in oci.INDEXES:
            yield from _leaves(services, entry.digest, depth + 1)
        else:
            yield entry


def _variant(services: Services, entry: Descriptor, family: dict[str, Image]) -> Variant:
    content = services.content
    image = family.get(entry.digest)
    if image is None:
        blobs = _attached(services, entry, set(_any(family).record.attached))
        attests = (entry.annotations or {}).get(_ATTESTED, "") if oci.is_attestation(entry) else ""
        size = sum(content.size(digest) for digest in blobs or ())
        return Variant(entry, entry.platform or Platform(), size, 0, [], blobs is not None, attests)
    layers = services.snapshots.chain(image.chain_id)
    kept = [layer.blob for layer in layers if layer.blob and content.has(layer.blob)]
    size = entry.size + content.size(image.id) + sum(content.size(digest) for digest in kept)
    containers = [container_id for container_id, _ in services.users(image)]
    return Variant(entry, entry.platform or platform_of(image), size, image.size, containers)


def _any(family: dict[str, Image]) -> Image:
    return next(iter(family.values()))


def _attached(services: Services, entry: Descriptor, attached: set[str]) -> list[str] | None:
    """All blobs of a manifest that is no image's, if they are here."""
    if entry.digest not in attached or not _has(services, entry.digest):
        return None
    manifest = _read(services, entry.digest)
    parts = [*([manifest.config] if manifest.config else []), *(manifest.layers or ())]
    blobs = list(dict.fromkeys([entry.digest, *(part.digest for part in parts)]))
    return blobs if all(_has(services, digest) for digest in blobs) else None


def attached_blobs(services: Services, image: Image, branch: Branch) -> list[str]:
    """All blobs of a branch that is no image."""
    return _attached(services, branch.descriptor, set(image.record.attached)) or []


# --- what can leave as it came ---------------------------------------------------------------------------------------


def kept_manifest(services: Services, image: Image, *, blobs: bool = True) -> Manifest | None:
    """The manifest that the image came with, if the layers are those that it tells of. `blobs`: and all its blobs are
    here, or can be made again."""
    if not _has(services, image.record.manifest):
        return None
    manifest = _read(services, image.record.manifest)
    layers = list(reversed(services.snapshots.chain(image.chain_id)))
    descriptors = manifest.layers or []
    if len(descriptors) != len(layers):
        return None
    for descriptor, layer in zip(descriptors, layers, strict=True):
        if blobs and not _can_be_had(services, descriptor, layer):
            return None
    return manifest


def _can_be_had(services: Services, descriptor: Descriptor, layer: Layer) -> bool:
    if descriptor.digest == layer.diff_id:
        return True
    return descriptor.digest == layer.blob and services.content.has(descriptor.digest)


def index_tree(services: Services, image: Image, *, blobs: bool = True) -> Branch | None:
    """The index that the image came with, if everything that it refers to is here. `blobs`: as for `kept_manifest`."""
    record = image.record
    if not _has(services, record.index):
        return None
    top = Descriptor(record.index_type, record.index, services.content.size(record.index))
    family = {member.record.manifest: member for member in [image, *services.catalogue.siblings(image)]}
    return _branch(services, top, family, set(record.attached), blobs, 0)


def _branch(
    services: Services, entry: Descriptor, family: dict[str, Image], attached: set[str], blobs: bool, depth: int
) -> Branch | None:
    if entry.media_type in oci.INDEXES:
        if depth > _DEPTH or not _has(services, entry.digest):
            return None
        below = _read(services, entry.digest).manifests or []
        children = [_branch(services, child, family, attached, blobs, depth + 1) for child in below]
        return Branch(entry, None, [child for child in children if child]) if all(children) else None
    image = family.get(entry.digest)
    if image is not None:
        return Branch(entry, image, []) if kept_manifest(services, image, blobs=blobs) is not None else None
    return Branch(entry, None, []) if _attached(services, entry, attached) is not None else None


def _has(services: Services, digest: str) -> bool:
    return bool(digest) and services.content.has(digest)


def _read(services: Services, digest: str) -> Manifest:
    return oci.parse_manifest(services.content.read(digest), f"manifest {digest}")
