"""What takes space: for `system df`.

Owns: adding up what images, containers and volumes hold, and who uses them. Does not own: measuring a directory (a
worker does), Docker's JSON (`edge.api.system`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from dockyard.engine.container import Container
    from dockyard.engine.containers import Containers, Sizes
    from dockyard.engine.context import Context
    from dockyard.engine.images import Images, Listed
    from dockyard.engine.volumes import Volume

T = TypeVar("T")
_AT_ONCE: Final = 4  # workers that measure directories


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
        """`kinds`: some of `KINDS`; none is all. Directories are measured by workers, a few at a time."""
        wanted = frozenset(kinds) or KINDS
        found = DiskUsage(kinds=wanted)
        if "image" in wanted:
            found.images = self._image_usage()
            found.layers_size = self._layers_size()
        if "container" in wanted:
            containers = self._containers.list(all=True)
            sizes = await _few_at_once([self._containers.sizes(container) for container in containers])
            found.containers = [ContainerUsage(*pair) for pair in zip(containers, sizes, strict=True)]
        if "volume" in wanted:
            found.volumes = await self._volume_usage()
        return found

    def _image_usage(self) -> list[ImageUsage]:
        users = Counter(container.image_id for container in self._context.registry)
        return [ImageUsage(listed, users[listed.image.id]) for listed in self._images.list(shared_size=True)]

    def _layers_size(self) -> int:
        snapshots = self._context.snapshots
        layers = {
            layer.chain_id: layer.document.size
            for listed in self._images.list(every=True)
            for layer in snapshots.chain(listed.image.chain_id)
        }
        return sum(layers.values())

    async def _volume_usage(self) -> list[VolumeUsage]:
        users = Counter(
            name
            for container in self._context.registry
            for name in {point.name for point in container.mounts if point.type == "volume"}
        )
        volumes = [volume for volume in self._context.volumes.list() if not volume.is_mount]  # as Docker
        sizes = await _few_at_once([self._context.volumes.usage(volume) for volume in volumes])
        return [VolumeUsage(volume, size, users[volume.name]) for volume, size in zip(volumes, sizes, strict=True)]


async def _few_at_once(work: Iterable[Awaitable[T]]) -> list[T]:
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(awaitable: Awaitable[T]) -> T:
        async with limit:
            return await awaitable

    return list(await asyncio.gather(*(one(awaitable) for awaitable in work)))
