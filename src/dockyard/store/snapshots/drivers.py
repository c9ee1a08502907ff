"""How layers become a root file system: overlay, btrfs, and vfs where nothing else works.

Owns: `Driver`, the drivers overlay and vfs, and the probe that chooses one. Does not own: where things lie
(`directories`), the driver btrfs, which layers there are (`store.snapshots`).
"""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path
from typing import Any, Protocol

from dockyard.linux.paths import probe_overlay
from dockyard.store import quotas
from dockyard.store.inline import Call
from dockyard.store.snapshots.btrfs import Btrfs, works
from dockyard.store.snapshots.directories import NO_LAYER, SHORT, Directories
from dockyard.store.snapshots.layers import Layer


class Driver(Protocol):
    """`lower` lists a chain's layers from the topmost down."""

    name: str
    overlay: bool
    directories: Directories

    async def begin_layer(self, short: str, parent: Layer | None) -> None: ...

    async def prepare(
        self, container_id: str, chain_id: str | None, lower: list[Layer], copy_of: str | None = None
    ) -> None:
        """A container's writable tree. `copy_of`: `fill` is going to be asked for a copy of that container's."""

    async def fill(self, container_id: str, copy_of: str) -> None:
        """What the container `copy_of` has written comes into the tree just prepared."""

    def rootfs(self, container_id: str, lower: list[Layer]) -> dict[str, Any]: ...

    def why_no_limit(self) -> str:
        """Why a container's writable tree cannot have a size, in Docker's words; "" if it can."""

    def limit(self, container_id: str, size: int) -> None:
        """Let a container's writable tree, just prepared, hold `size` bytes. OSError."""

    async def take(self, container_id: str, short: str, *, consume: bool) -> None:
        """A container's writable tree becomes the tree of layer `short`: moved there (`consume`), or copied."""


class Overlay:
    """Layers by themselves, put together by overlayfs when a container starts."""

    name = "overlay"
    overlay = True

    def __init__(self, directories: Directories, call: Call) -> None:
        self.directories = directories
        self._call = call

    async def begin_layer(self, short: str, parent: Layer | None) -> None:
        self.directories.make_layer(short)

    async def prepare(
        self, container_id: str, chain_id: str | None, lower: list[Layer], copy_of: str | None = None
    ) -> None:
        self.directories.make_container(container_id, chain_id, lower[0].document if lower else None)

    async def fill(self, container_id: str, copy_of: str) -> None:
        source, target = (self.directories.container(each) / "fs" for each in (copy_of, container_id))
        arguments = {"source": str(source), "target": str(target), "marks": True}
        await self._call("dockyard.store.copytree:copy", arguments)

    def rootfs(self, container_id: str, lower: list[Layer]) -> dict[str, Any]:
        short = container_id[:SHORT]
        return {
            "type": "overlay",
            "base": str(self.directories.base),
            "lower": [f"l/{layer.directory}" for layer in lower] or [f"l/{NO_LAYER}"],
            "upper": f"c/{short}/fs",
            "work": f"c/{short}/work",
        }

    def why_no_limit(self) -> str:
        if quotas.supported(self.directories.base):
            return ""
        return "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"

    def limit(self, container_id: str, size: int) -> None:
        place = self.directories.container(container_id)
        quotas.limit([place, place / "fs", place / "work"], size)

    async def take(self, container_id: str, short: str, *, consume: bool) -> None:
        await take_directory(self.directories, self._call, container_id, short, consume=consume)


class Vfs:
    """Every layer and every container is a whole copy: slow and big, and works on any file system."""

    name = "vfs"
    overlay = False

    def __init__(self, directories: Directories, call: Call) -> None:
        self.directories = directories
        self._call = call

    async def begin_layer(self, short: str, parent: Layer | None) -> None:
        self.directories.make_layer(short)
        if parent is not None:
            await self._copy(self.directories.tree(parent.directory), self.directories.tree(short))

    async def prepare(
        self, container_id: str, chain_id: str | None, lower: list[Layer], copy_of: str | None = None
    ) -> None:
        target = self.directories.make_container(container_id, chain_id, lower[0].document if lower else None)
        if lower and copy_of is None:
            await self._copy(self.directories.tree(lower[0].directory), target)

    async def fill(self, container_id: str, copy_of: str) -> None:
        source, target = (self.directories.container(each) / "fs" for each in (copy_of, container_id))
        await self._copy(source, target)

    def rootfs(self, container_id: str, lower: list[Layer]) -> dict[str, Any]:
        return {"type": "directory", "path": str(self.directories.container(container_id) / "fs")}

    def why_no_limit(self) -> str:
        return "--storage-opt is not supported for vfs"

    def limit(self, container_id: str, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    async def take(self, container_id: str, short: str, *, consume: bool) -> None:
        await take_directory(self.directories, self._call, container_id, short, consume=consume)

    async def _copy(self, source: Path, target: Path) -> None:
        arguments = {"source": str(source), "target": str(target)}
        await self._call("dockyard.store.copytree:copy", arguments)


async def take_directory(directories: Directories, call: Call, container_id: str, short: str, *, consume: bool) -> None:
    """`Driver.take` for plain directories."""
    source = directories.container(container_id) / "fs"
    if consume:
        os.mkdir(directories.recipe(short), 0o700)
        os.rename(source, directories.tree(short))
        return
    directories.make_layer(short)
    arguments = {"source": str(source), "target": str(directories.tree(short)), "marks": True}
    await call("dockyard.store.copytree:copy", arguments)


DRIVERS: dict[str, type[Overlay] | type[Btrfs] | type[Vfs]] = {"overlay": Overlay, "btrfs": Btrfs, "vfs": Vfs}


def choose(base: Path) -> tuple[str, str]:
    """(driver, why not overlay): overlay, or btrfs on a btrfs, or vfs. Tries in a directory beneath `base`."""
    place = base / f"probe-{secrets.token_hex(4)}"
    place.mkdir(parents=True)
    try:
        reason = _overlay_fails(place)
        if not reason:
            return "overlay", ""
        return ("vfs" if (no_btrfs := works(place)) else "btrfs"), reason if no_btrfs else ""
    finally:
        place.rmdir()


def why_not(name: str, base: Path) -> str:
    """Why a driver that was asked for cannot work beneath `base`; "" if it can."""
    place = base / f"probe-{secrets.token_hex(4)}"
    place.mkdir(parents=True)
    try:
        return _overlay_fails(place) if name == "overlay" else works(place) if name == "btrfs" else ""
    finally:
        place.rmdir()


def _overlay_fails(place: Path) -> str:
    """Mounts an overlay of directories in `place`, attached nowhere; why that fails, or ""."""
    parts = [place / name for name in ("lower", "upper", "work")]
    fds: list[int] = []
    try:
        for path in parts:
            path.mkdir()
            fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        os.setxattr(parts[0], "trusted.overlay.opaque", b"y")  # needs a file system with trusted attributes
        probe_overlay(*fds)
    except OSError as error:
        return f"{error.strerror}"
    finally:
        for fd in fds:
            os.close(fd)
        for path in (parts[2] / "work", *parts):
            try:
                path.rmdir()
            except OSError:
                pass
    return ""
