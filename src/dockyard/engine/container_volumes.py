"""What a container's life means for its volumes and its image mounts: found or made with it, filled, mounted while it
runs.

Owns: `Making` (the volumes of a container that is being created), `begin` and `end` of a run, the events about that.
Does not own: volumes themselves (`engine.volumes`), which mounts a container has (`engine.creation`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from dockyard.engine.extensions import with_lease
from dockyard.model.container import DriverConfig, VolumeOptions
from dockyard.model.errors import DockyardError, InvalidArgument, NotFound
from dockyard.model.mounts import MountPoint

if TYPE_CHECKING:
    from dockyard.engine.container import Container
    from dockyard.engine.context import Context
    from dockyard.engine.volumes import Volume
    from dockyard.store.containers import ContainerSpec

log = logging.getLogger(__name__)

_COPY = "dockyard.store.copytree:copy"


class Making:
    """The volumes of one container between its request and its row. Use in `async with`: without `done`, what was made
    for it alone goes again (a named volume stays, as with Docker)."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stack = AsyncExitStack()
        self.new: list[Volume] = []  # anonymous ones, whose rows are written with the container's

    async def __aenter__(self) -> Making:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._context.volumes.drop(self.new)
        await self._stack.aclose()

    async def resolve(self, spec: ContainerSpec, copy_of: Container | None = None) -> None:
        """Give every volume's mount point its name and source, making and filling what is new.

        `copy_of`: a container whose anonymous volumes are copied into those at the same places.
        """
        layers: Sequence[str] | None = None
        others = {point.destination: point for point in copy_of.mounts if point.anonymous} if copy_of else {}
        for point in spec.mounts:
            if point.type != "volume":
                continue
            volume = await self._find(point, spec.config.labels)
            point.name, point.source, point.driver = volume.name, volume.path, "local"
            if volume in self.new and (other := others.get(point.destination)) is not None:
                await self._context.runtime.call(_COPY, {"source": other.source, "target": point.source})
                continue
            if point.no_copy or point.subpath or volume.is_mount:
                continue
            if layers is None:
                layers = image_layers(self._context, spec.chain_id)
            await self._context.volumes.fill(volume, layers, point.destination, seen=_seen(self._context, volume.name))

    async def _find(self, point: MountPoint, owner: Mapping[str, str] | None) -> Volume:
        volumes = self._context.volumes
        try:
            volumes.check_driver(point.driver)
        except NotFound as error:  # not 404: clients take that for a missing image
            raise InvalidArgument(f"create {point.name}: {error}") from None
        wanted = point.volume or VolumeOptions()
        options = (wanted.driver_config or DriverConfig()).options or None
        if not point.name:
            volume = volumes.begin(options, wanted.labels)
            self.new.append(volume)
            return volume
        self._stack.enter_context(volumes.claim([point.name]))
        labels = with_lease(wanted.labels, owner)
        volume, is_new = await volumes.make(point.name, options, labels)
        if is_new:
            publish_created(self._context, volume.name)
        return volume

    def done(self) -> None:
        """The container's row is written, and those of the anonymous volumes with it."""
        self._context.volumes.keep(self.new)
        for volume in self.new:
            publish_created(self._context, volume.name)
        self.new = []


def publish_created(context: Context, name: str) -> None:
    context.events.publish("volume", "create", name, {"driver": "local"})


def image_layers(context: Context, chain_id: str | None) -> list[str]:
    """Trees of an image, topmost first, that together are its files."""
    snapshots = context.snapshots
    trees = [snapshots.tree_of(layer) for layer in snapshots.chain(chain_id)]
    return trees if snapshots.driver == "overlay" else trees[:1]


def _seen(context: Context, name: str) -> bool:
    return any(other.running for other in context.registry.of_volume(name))


async def begin(context: Context, container: Container) -> None:
    """The container is about to start: mount those of its volumes that are mounts. SystemFailure in Docker's words."""
    for point in container.mounts:
        if point.type != "volume":
            continue
        volume = context.volumes.find(point.name)
        if volume is None:
            raise NotFound(f"get {point.name}: no such volume")
        fresh = await context.volumes.attach(volume, container.id)
        if fresh and not point.no_copy and not point.subpath:
            await context.volumes.fill(
                volume, image_layers(context, container.spec.chain_id), point.destination, seen=True
            )
        attributes = {
            "container": container.id,
            "destination": point.destination,
            "driver": "local",
            "propagation": point.propagation,
            "read/write": "true" if point.rw else "false",
        }
        context.events.publish("volume", "mount", point.name, attributes)


async def end(context: Context, container: Container) -> None:
    """It has ended, or could not start. What cannot be unmounted is tried again at the daemon's next start."""
    for name in sorted(container.volumes):
        context.events.publish("volume", "unmount", name, {"container": container.id, "driver": "local"})
        try:
            await context.volumes.detach(name, container.id)
        except (DockyardError, OSError) as error:
            log.warning("container %s: %s", container.id, error)


def is_mount(context: Context, point: MountPoint) -> bool:
    """Whether a volume is mounted from elsewhere while it is used, and no directory of ours."""
    volume = context.volumes.find(point.name)
    return volume is not None and volume.is_mount


def image_rootfs(context: Context, point: MountPoint) -> dict[str, Any]:
    """How the files of an image mount are put together: a `launch.Rootfs` without a writable part."""
    return context.snapshots.view(point.chain_id)
