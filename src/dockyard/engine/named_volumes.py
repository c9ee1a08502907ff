"""What a client may do with volumes by name: list, inspect, create, remove, prune.

Owns: who uses a volume, that a used one stays, filters and events. Does not own: directories and records
(`engine.volumes`), mounting.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Sequence
from typing import Final

from dockyard.engine.container_volumes import publish_created
from dockyard.engine.context import Context
from dockyard.engine.volumes import Volume
from dockyard.model.errors import Conflict, DockyardError, NotFound
from dockyard.proto.filters import Filters

log = logging.getLogger(__name__)

LIST_FILTERS: Final = frozenset({"dangling", "driver", "label", "name"})
PRUNE_FILTERS: Final = frozenset({"all", "label", "label!"})


class NamedVolumes:
    """Volumes as clients see them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def _users(self, name: str) -> list[str]:
        """Ids of the containers that have it, running or not."""
        return [container.id for container in self._context.registry.of_volume(name)]

    def get(self, name: str) -> Volume:
        """NotFound "get NAME: no such volume"."""
        return self._context.volumes.get(name)

    def list(self, filters: Filters) -> list[Volume]:
        """`filters`: name (a part of it, or a pattern), driver, label, dangling."""
        dangling = filters.boolean("dangling")
        return [
            volume
            for volume in self._context.volumes.list()
            if filters.regex("name", volume.name)
            and filters.exact("driver", "local")
            and filters.labels(volume.labels)
            and (dangling is None or dangling == (not self._users(volume.name)))
        ]

    async def create(
        self, name: str, driver: str, options: dict[str, str] | None, labels: dict[str, str] | None
    ) -> Volume:
        """Make it, or find it made; "" gives it a name. NotFound for an unknown driver, else as `Volumes.make`."""
        try:
            self._context.volumes.check_driver(driver)
        except NotFound as error:
            raise NotFound(f"create {name}: {error}") from None
        making = self._context.volumes.make(name, options, labels)
        volume, is_new = await self._context.finish(making, f"volume {name}: making it")
        if is_new:
            publish_created(self._context, volume.name)
        return volume

    async def remove(self, name: str, *, force: bool) -> None:
        """Conflict if a container uses it; NotFound, unless `force`."""
        if force and self._context.volumes.find(name) is None:
            return

        def unused() -> None:
            users = self._users(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            if self._context.volumes.claimed(name):
                raise Conflict(f"remove {name}: volume is in use - [a container that is being created]")

        await self._context.finish(self._context.volumes.remove(name, unused), f"volume {name}: removing it")
        self._context.events.publish("volume", "destroy", name, {"driver": "local"})

    async def prune(self, filters: Filters) -> tuple[Sequence[str], int]:
        """Remove what no container uses: anonymous ones, with the filter `all` every one. Names and bytes freed.

        Volumes with driver options stay, as with Docker: they are mounts of something else.
        """
        every = bool(filters.boolean("all", False))
        unused = [
            volume
            for volume in self._context.volumes.list()
            if (every or volume.row.anonymous) and not volume.options and not self._users(volume.name)
            if filters.labels(volume.labels) and filters.not_labels(volume.labels)
        ]
        sizes = await self._context.volumes.usages(unused)
        removed: builtins.list[str] = []
        freed = 0
        for volume in unused:
            try:
                await self.remove(volume.name, force=True)
            except DockyardError as error:
                log.warning("prune: volume %s stays: %s", volume.name, error)
                continue
            removed.append(volume.name)
            freed += sizes[volume.name]
        self._context.events.publish("volume", "prune", "", {"reclaimed": str(freed)})
        return removed, freed
