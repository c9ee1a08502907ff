"""Images and platforms: which platform an image is for, and the manifest that it came with as clients may ask for it.

Owns: refusing an image that is for another platform than was asked for, `Variant`. An image here is one platform's; its
index is not kept. Does not own: the choice out of an index (`proto.platforms`), Docker's JSON.
"""

from __future__ import annotations

import platform as machine
from typing import NamedTuple

from dockyard.engine.images.catalogue import Image
from dockyard.engine.images.services import Services
from dockyard.model.errors import NotFound
from dockyard.model.oci import Descriptor, Platform
from dockyard.proto import platforms


class Variant(NamedTuple):
    """A manifest of an image. Sizes in bytes: of the blobs that are here, of the unpacked layers."""

    descriptor: Descriptor
    platform: Platform
    content: int
    unpacked: int
    containers: list[str]


def host_platform() -> Platform:
    return platforms.normal(Platform(machine.machine(), "linux"))


def platform_of(image: Image) -> Platform:
    config = image.record.config
    host = host_platform()
    return Platform(
        config.architecture or host.architecture, config.os or host.os, config.os_version, config.os_features,
        config.variant,
    )  # fmt: skip


def check_platform(image: Image, wanted: Platform | None, ref: str) -> Image:
    """The image, if it is for that platform (or none was asked for). NotFound saying what it is for."""
    if wanted is None or platforms.rank(platform_of(image), wanted) is not None:
        return image
    shown, actual = platforms.show(wanted), platforms.show(platforms.normal(platform_of(image)))
    raise NotFound(
        f"image with reference {ref} was found but its platform ({actual}) "
        f"does not match the specified platform ({shown})"
    )


def image_variants(services: Services, image: Image) -> list[Variant]:
    """The manifest that the image came with; none if it was made here or came without one."""
    record, content = image.record, services.content
    if not record.manifest or not content.has(record.manifest):
        return []
    descriptor = Descriptor(record.manifest_type, record.manifest, content.size(record.manifest))
    layers = services.snapshots.chain(image.chain_id)
    blobs = [layer.blob for layer in layers if layer.blob and content.has(layer.blob)]
    size = descriptor.size + content.size(image.id) + sum(content.size(digest) for digest in blobs)
    containers = [container_id for container_id, _ in services.users(image)]
    return [Variant(descriptor, platform_of(image), size, image.size, containers)]
