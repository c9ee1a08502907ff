"""What takes space: for `system df`.

Owns: adding up what images, containers and volumes hold, and who uses them. Does not own: measuring a directory (a
worker does), Docker's JSON (`edge.api.system`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from dockyard.engine.container import Container
    from dockyard.engine.containers import Containers, Sizes
    from dockyard.engine.context import Context
    from dockyard.engine.images import Images, Listed
    from dockyard.engine.volumes import Volume


class ImageUsage(NamedTuple):
    image: Listed  # with `shared_size`
    containers: int  # made of it


class ContainerUsage(NamedTuple):
    container: Container
    sizes: Sizes


class VolumeUsage(NamedTuple):
    volume: Volume
    size: int  # bytes
    containers: int  # that have it


@dataclass(slots=True)
class DiskUsage:
    """Sizes in bytes. A list is None when it was not asked for."""

    layers_size: int = 0  # of every unpacked layer once
    images: list[ImageUsage] | None = None
    containers: list[ContainerUsage] | None = None
    volumes: list[VolumeUsage] | None = None
    kinds: frozenset[str] = field(default_factory=frozenset)


KINDS: Final = frozenset({"image", "container", "volume", "build-cache"})


class Disk:
    """Measures on request. One per engine."""

    def __init__(self, context: Context, containers: Containers, images: Images) -> None:
        self._context = context
        self._containers = containers
        self._images = images

    async def usage(self, kinds: Iterable[str] = ()) -> DiskUsage:
        """`kinds`: some of `KINDS`; none is all. Directories are measured by workers."""
        wanted = frozenset(kinds) or KINDS
        found = DiskUsage(kinds=wanted)
        if "image" in wanted:
            found.images = self._image_usage()
            found.layers_size = self._layers_size()
        if "container" in wanted:
            containers = self._containers.list(all=True)
            sizes = await self._containers.sizes(containers)
            found.containers = [ContainerUsage(*pair) for pair in zip(containers, sizes, strict=True)]
        if "volume" in wanted:
            found.volumes = await self._volume_usage()
        return found

    def _image_usage(self) -> list[ImageUsage]:
        made_of = self._context.registry.of_image
        return [ImageUsage(listed, len(made_of(listed.image.id))) for listed in self._images.list(shared_size=True)]

    def _layers_size(self) -> int:
        snapshots = self._context.snapshots
        layers = {
            layer.chain_id: layer.document.size
            for listed in self._images.list(every=True)
            for layer in snapshots.chain(listed.image.chain_id)
        }
        return sum(layers.values())

    async def _volume_usage(self) -> list[VolumeUsage]:
        volumes = [volume for volume in self._context.volumes.list() if not volume.is_mount]  # as Docker
        sizes = await self._context.volumes.usages(volumes)
        users = self._context.registry.of_volume
        return [VolumeUsage(volume, sizes[volume.name], len(users(volume.name))) for volume in volumes]
