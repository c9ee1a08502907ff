"""Volumes, as far as containers need them: a directory with a name that outlives its containers.

Owns: making and removing the directories behind named and anonymous volumes, which there are, sweeping those that
belong to no container. Does not own (yet): drivers, labels, copying the image's content into a new volume.

An anonymous volume has no record but its container's. Its directory is 0700 while that row is not yet written, and
again before the row is deleted together with it; in between it is 0701. So a daemon that starts knows which of them a
killed one was about to make or to remove (`sweep`), and leaves alone those that `rm` without `-v` has left.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from dockyard.model.errors import DockyardError, InvalidArgument, NotFound, SystemFailure
from dockyard.model.mounts import MountPoint, check_volume_name
from dockyard.store.inline import Call
from dockyard.store.layout import Layout

_KEPT: Final = 0o701
_DOUBTFUL: Final = 0o700  # goes at the next start unless a container's row names it
_USAGE: Final = "dockyard.store.copytree:usage"


class Volume(NamedTuple):
    """A volume that exists."""

    name: str
    path: str  # what containers mount
    created_at: int  # ns


class Volumes:
    """Local volumes under the data root: `volumes/NAME/_data`."""

    def __init__(self, layout: Layout, call: Call) -> None:
        self._layout = layout
        self._call = call

    def resolve(self, point: MountPoint) -> bool:
        """Give a volume's mount point its name and source, making the directory. Whether it is new and anonymous: then
        it is doubtful until `keep`.

        InvalidArgument for a driver other than "local" or a bad name, SystemFailure if it cannot be made.
        """
        if point.driver not in ("", "local"):
            raise InvalidArgument(f'error looking up volume plugin {point.driver}: plugin "{point.driver}" not found')
        point.driver = "local"
        anonymous = not point.name
        if anonymous:
            point.name = secrets.token_hex(32)
        check_volume_name(point.name)
        directory = self._layout.volume(point.name)
        data = directory / "_data"
        point.source = str(data)
        if data.is_dir():
            return False
        try:
            directory.mkdir(mode=_DOUBTFUL if anonymous else _KEPT, exist_ok=True)
            data.mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            raise SystemFailure(f"volume {point.name}: {error.strerror}: {error.filename}") from error
        return anonymous

    def keep(self, names: Iterable[str]) -> None:
        """These anonymous volumes belong to a container whose row is written."""
        self._mark(names, _KEPT)

    def doubt(self, names: Iterable[str]) -> None:
        """The row that these anonymous volumes belong to is about to go, and they with it."""
        self._mark(names, _DOUBTFUL)

    def _mark(self, names: Iterable[str], mode: int) -> None:
        for name in names:
            try:
                os.chmod(self._layout.volume(name), mode)
            except FileNotFoundError:
                continue

    def sweep(self, used: Collection[str]) -> None:
        """Take away what a killed daemon was about to make or to remove. `used`: what containers' rows name."""
        for name in os.listdir(self._layout.volumes):
            directory = self._layout.volume(name)
            if os.stat(directory, follow_symlinks=False).st_mode & 0o777 != _DOUBTFUL:
                continue
            if name in used:
                os.chmod(directory, _KEPT)
            else:
                self._layout.discard(directory)

    def remove(self, name: str) -> None:
        """Take a volume away. NotFound "get NAME: no such volume"."""
        directory = self._layout.volume(name)
        if not directory.exists():
            raise NotFound(f"get {name}: no such volume")
        self._layout.discard(directory)

    def list(self) -> list[Volume]:
        """All of them, by name."""
        found = []
        for name in sorted(os.listdir(self._layout.volumes)):
            directory = self._layout.volume(name)
            try:
                found.append(Volume(name, str(directory / "_data"), os.stat(directory).st_mtime_ns))
            except FileNotFoundError:
                continue
        return found

    async def usage(self, name: str) -> int:
        """Bytes of the files in a volume; 0 for one that is gone."""
        path = self._layout.volume(name) / "_data"
        try:
            result = await self._call(_USAGE, {"path": str(path)})
        except (DockyardError, OSError):
            if path.exists():
                raise
            return 0
        return int(result["size"])
