"""Volumes, as far as containers need them: a directory with a name that outlives its containers.

Owns: making and removing the directories behind named and anonymous volumes. Does not own (yet): listing, drivers,
labels, copying the image's content into a new volume.
"""

from __future__ import annotations

import secrets

from dockyard.model.errors import InvalidArgument, NotFound, SystemFailure
from dockyard.model.mounts import MountPoint, check_volume_name
from dockyard.store.layout import Layout


class Volumes:
    """Local volumes under the data root: `volumes/NAME/_data`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def resolve(self, point: MountPoint) -> bool:
        """Give a volume's mount point its name and source, making the directory. Whether it is new.

        InvalidArgument for a driver other than "local" or a bad name, SystemFailure if it cannot be made.
        """
        if point.driver not in ("", "local"):
            raise InvalidArgument(f'error looking up volume plugin {point.driver}: plugin "{point.driver}" not found')
        point.driver = "local"
        if not point.name:
            point.name = secrets.token_hex(32)
        check_volume_name(point.name)
        directory = self._layout.volume(point.name)
        data = directory / "_data"
        point.source = str(data)
        if data.is_dir():
            return False
        try:
            directory.mkdir(mode=0o701, exist_ok=True)
            data.mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            raise SystemFailure(f"volume {point.name}: {error.strerror}: {error.filename}") from error
        return True

    def remove(self, name: str) -> None:
        """Take a volume away. NotFound "get NAME: no such volume"."""
        directory = self._layout.volume(name)
        if not directory.exists():
            raise NotFound(f"get {name}: no such volume")
        self._layout.discard(directory)
