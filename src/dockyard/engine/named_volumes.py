"""What a client may do with volumes by name: list, inspect, create, remove, prune.

Owns: who uses a volume, and that a used one stays. Does not own: the directories (`engine.volumes`), mounting.
Labels and driver options are not kept yet: asking for them is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from dockyard.engine.context import Context
from dockyard.engine.volumes import Volume
from dockyard.model.errors import Conflict, NotFound, NotServed
from dockyard.model.mounts import MountPoint
from dockyard.proto.filters import Filters

LIST_FILTERS: Final = frozenset({"dangling", "driver", "label", "name"})
PRUNE_FILTERS: Final = frozenset({"all", "label", "label!"})
_ANONYMOUS_NAME: Final = 64  # hex digits, as given to a volume without a name


class NamedVolumes:
    """Volumes as clients see them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def _users(self, name: str) -> list[str]:
        """Ids of the containers that mount it, running or not."""
        return [
            container.id
            for container in self._context.registry
            if any(point.type == "volume" and point.name == name for point in container.mounts)
        ]

    def get(self, name: str) -> Volume:
        """NotFound "get NAME: no such volume"."""
        for volume in self._context.volumes.list():
            if volume.name == name:
                return volume
        raise NotFound(f"get {name}: no such volume")

    def list(self, filters: Filters) -> list[Volume]:
        """`filters`: name (a part of it), driver, dangling; no volume has labels."""
        found = []
        for volume in self._context.volumes.list():
            names, drivers = filters.get("name"), filters.get("driver")
            if names and not any(part in volume.name for part in names):
                continue
            if (drivers and "local" not in drivers) or filters.get("label"):
                continue
            dangling = filters.boolean("dangling")
            if dangling is not None and dangling == bool(self._users(volume.name)):
                continue
            found.append(volume)
        return found

    def create(self, name: str, driver: str, options: bool, labels: bool) -> Volume:
        """Make it, or find it made; "" gives it a name. NotServed for options and labels."""
        if options or labels:
            raise NotServed("volume options and labels are not served by this engine yet")
        point = MountPoint(
            type="volume", destination="/", name=name or secrets.token_hex(_ANONYMOUS_NAME // 2), driver=driver
        )
        known = {volume.name for volume in self._context.volumes.list()}
        self._context.volumes.resolve(point)
        if point.name not in known:
            self._context.events.publish("volume", "create", point.name, {"driver": "local"})
        return self.get(point.name)

    def remove(self, name: str, *, force: bool) -> None:
        """Conflict if a container uses it; NotFound, unless `force`."""
        try:
            self.get(name)
        except NotFound:
            if force:
                return
            raise
        users = self._users(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        self._context.volumes.remove(name)
        self._context.events.publish("volume", "destroy", name, {"driver": "local"})

    async def prune(self, filters: Filters) -> tuple[Sequence[str], int]:
        """Remove what no container uses: anonymous ones, with the filter `all` every one. Names and bytes freed."""
        every = bool(filters.boolean("all", False))
        removed: Sequence[str] = ()
        freed = 0
        for volume in self._context.volumes.list():
            anonymous = len(volume.name) == _ANONYMOUS_NAME and set(volume.name) <= set("0123456789abcdef")
            if self._users(volume.name) or filters.get("label") or not (every or anonymous):
                continue
            freed += await self._context.volumes.usage(volume.name)
            self.remove(volume.name, force=True)
            removed = (*removed, volume.name)
        return removed, freed
