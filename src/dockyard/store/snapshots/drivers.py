"""How layers lie in directories and become a root file system: overlay, and vfs where overlay does not work.

Owns: a driver's directories, made and named, and the probe that chooses a driver. Does not own: which layers there are
(`store.snapshots`).

    <base>/l/SHORT    an unpacked layer (overlay: by itself; vfs: with everything below it); l/empty: no layer at all
    <base>/r/SHORT    the recipe of its tar
    <base>/c/SHORT/   fs, work: a container's writable layer; chain: a symbolic link whose text is the chain beneath
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Protocol

from dockyard.linux.paths import probe_overlay
from dockyard.store.inline import Call
from dockyard.store.snapshots.layers import Layer, LayerDocument

_SHORT = 26  # characters: mount(2) takes a page of options, and 128 layers have to fit
_NO_LAYER = "empty"


class Directories:
    """The part that all drivers share."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for part in ("", "l", "r", "c", f"l/{_NO_LAYER}"):
            (base / part).mkdir(mode=0o700, exist_ok=True)

    def tree(self, short: str) -> Path:
        return self.base / "l" / short

    def recipe(self, short: str) -> Path:
        return self.base / "r" / short

    def container(self, container_id: str) -> Path:
        return self.base / "c" / container_id[:_SHORT]

    def new_layer(self) -> str:
        """Fresh directories for a layer and its recipe; their short name."""
        short = secrets.token_hex(_SHORT // 2)
        os.mkdir(self.tree(short), 0o755)
        os.mkdir(self.recipe(short), 0o700)
        return short

    def layers(self) -> set[str]:
        """Short names of everything that looks like a layer or a recipe."""
        return (set(os.listdir(self.base / "l")) | set(os.listdir(self.base / "r"))) - {_NO_LAYER}

    def containers(self) -> dict[str, str | None]:
        """SHORT -> chain of every container's directory."""
        found: dict[str, str | None] = {}
        for short in os.listdir(self.base / "c"):
            try:
                found[short] = os.readlink(self.base / "c" / short / "chain").replace("none", "") or None
            except OSError:
                found[short] = None
        return found

    def make_container(self, container_id: str, chain_id: str | None, document: LayerDocument | None) -> Path:
        """A container's directories, the upper one like the image's root directory. FileExistsError if there."""
        place = f"{self.base}/c/{container_id[:_SHORT]}"
        os.mkdir(place, 0o700)
        os.symlink(chain_id or "none", f"{place}/chain")
        os.mkdir(f"{place}/work", 0o700)
        upper = f"{place}/fs"
        os.mkdir(upper, 0o755)
        os.chmod(upper, document.root_mode if document else 0o755)
        if document and (document.root_uid or document.root_gid):
            os.chown(upper, document.root_uid, document.root_gid)
            os.chmod(upper, document.root_mode)
        return Path(upper)


class Driver(Protocol):
    """`lower` lists a chain's layers from the topmost down."""

    name: str
    overlay: bool
    directories: Directories

    async def begin_layer(self, parent: Layer | None) -> str: ...

    async def prepare(self, container_id: str, chain_id: str | None, lower: list[Layer]) -> None: ...

    def rootfs(self, container_id: str, lower: list[Layer]) -> dict[str, Any]: ...


class Overlay:
    """Layers by themselves, put together by overlayfs when a container starts."""

    name = "overlay"
    overlay = True

    def __init__(self, directories: Directories, call: Call) -> None:
        self.directories = directories

    async def begin_layer(self, parent: Layer | None) -> str:
        return self.directories.new_layer()

    async def prepare(self, container_id: str, chain_id: str | None, lower: list[Layer]) -> None:
        self.directories.make_container(container_id, chain_id, lower[0].document if lower else None)

    def rootfs(self, container_id: str, lower: list[Layer]) -> dict[str, Any]:
        short = container_id[:_SHORT]
        return {
            "type": "overlay",
            "base": str(self.directories.base),
            "lower": [f"l/{layer.directory}" for layer in lower] or [f"l/{_NO_LAYER}"],
            "upper": f"c/{short}/fs",
            "work": f"c/{short}/work",
        }


class Vfs:
    """Every layer and every container is a whole copy: slow and big, and works on any file system."""

    name = "vfs"
    overlay = False

    def __init__(self, directories: Directories, call: Call) -> None:
        self.directories = directories
        self._call = call

    async def begin_layer(self, parent: Layer | None) -> str:
        short = self.directories.new_layer()
        if parent is not None:
            await self._copy(self.directories.tree(parent.directory), self.directories.tree(short))
        return short

    async def prepare(self, container_id: str, chain_id: str | None, lower: list[Layer]) -> None:
        target = self.directories.make_container(container_id, chain_id, lower[0].document if lower else None)
        if lower:
            await self._copy(self.directories.tree(lower[0].directory), target)

    def rootfs(self, container_id: str, lower: list[Layer]) -> dict[str, Any]:
        return {"type": "directory", "path": str(self.directories.container(container_id) / "fs")}

    async def _copy(self, source: Path, target: Path) -> None:
        arguments = {"source": str(source), "target": str(target)}
        await self._call("dockyard.store.snapshots.copytree:copy", arguments)


DRIVERS: dict[str, type[Overlay] | type[Vfs]] = {"overlay": Overlay, "vfs": Vfs}


def choose(base: Path) -> tuple[str, str]:
    """(driver, why not overlay): tries an overlay in a directory beneath `base`, mounted nowhere."""
    place = base / f"probe-{secrets.token_hex(4)}"
    parts = [place / name for name in ("lower", "upper", "work")]
    fds: list[int] = []
    try:
        for path in parts:
            path.mkdir(parents=True)
            fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        os.setxattr(parts[0], "trusted.overlay.opaque", b"y")  # needs a file system with trusted attributes
        probe_overlay(*fds)
    except OSError as error:
        return "vfs", f"{error.strerror}"
    finally:
        for fd in fds:
            os.close(fd)
        for path in (parts[2] / "work", *parts, place):
            try:
                path.rmdir()
            except OSError:
                pass
    return "overlay", ""
