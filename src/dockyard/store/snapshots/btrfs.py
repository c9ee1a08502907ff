"""The snapshot driver btrfs: every layer and every container's root is a subvolume, a snapshot of what it lies on.

Owns: `Btrfs`, and whether a place can have subvolumes. Does not own: the ioctls (`linux.btrfs`), deletion (the trash of
`store.layout` takes a subvolume away in one step).
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import Any

from dockyard.linux import btrfs, quota
from dockyard.store.inline import Call
from dockyard.store.snapshots.directories import Directories
from dockyard.store.snapshots.layers import Layer

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class Btrfs:
    """As vfs, every layer has everything below it; but nothing is copied."""

    name = "btrfs"
    overlay = False

    def __init__(self, directories: Directories, call: Call) -> None:
        self.directories = directories

    async def begin_layer(self, short: str, parent: Layer | None) -> None:
        os.mkdir(self.directories.recipe(short), 0o700)
        source = self.directories.tree(parent.directory) if parent is not None else None
        await asyncio.to_thread(_subvolume, self.directories.tree(short), source)

    async def prepare(
        self, container_id: str, chain_id: str | None, lower: list[Layer], copy_of: str | None = None
    ) -> None:
        place = self.directories.make_place(container_id, chain_id)
        source = self.directories.tree(lower[0].directory) if lower else None
        if copy_of is not None:
            source = self.directories.container(copy_of) / "fs"
        await asyncio.to_thread(_subvolume, Path(place) / "fs", source)

    async def fill(self, container_id: str, copy_of: str) -> None:
        """Its subvolume is a snapshot of the other's from the beginning."""

    def rootfs(self, container_id: str, lower: list[Layer]) -> dict[str, Any]:
        return {"type": "directory", "path": str(self.directories.container(container_id) / "fs")}

    def why_no_limit(self) -> str:
        return ""

    def limit(self, container_id: str, size: int) -> None:
        """What the image takes counts, too, as with Docker's driver."""
        fd = os.open(self.directories.container(container_id) / "fs", _DIRECTORY)
        try:
            quota.limit_subvolume(fd, size)
        finally:
            os.close(fd)

    async def take(self, container_id: str, short: str, *, consume: bool) -> None:
        os.mkdir(self.directories.recipe(short), 0o700)
        source, target = self.directories.container(container_id) / "fs", self.directories.tree(short)
        if consume:
            os.rename(source, target)
        else:
            await asyncio.to_thread(_subvolume, target, source)


def works(place: Path) -> str:
    """Why no subvolume can be made in `place`; "" if one can."""
    parent = os.open(place, _DIRECTORY)
    name = f"probe-{secrets.token_hex(4)}"
    try:
        if not btrfs.is_btrfs(parent):
            return "it is not on btrfs"
        btrfs.create(parent, name)
        btrfs.delete(parent, name)
    except OSError as error:
        return f"{error.strerror}"
    finally:
        os.close(parent)
    return ""


def _subvolume(path: Path, source: Path | None) -> None:
    """Make the subvolume `path`: a snapshot of `source` with its root's owner and mode, or empty with 0755."""
    parent = os.open(path.parent, _DIRECTORY)
    try:
        if source is None:
            btrfs.create(parent, path.name)
            os.chmod(path.name, 0o755, dir_fd=parent)
            return
        original = os.open(source, _DIRECTORY)
        try:
            btrfs.snapshot(original, parent, path.name)
        finally:
            os.close(original)
    finally:
        os.close(parent)
