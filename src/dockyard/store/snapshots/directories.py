"""Where a snapshot driver's layers and containers lie.

Owns: the directories that all drivers share, made and named. Does not own: what a driver does in them (`drivers`,
`btrfs`).

    <base>/l/SHORT    an unpacked layer (overlay: by itself; vfs, btrfs: with everything below it); l/empty: none at all
    <base>/r/SHORT    the recipe of its tar
    <base>/c/SHORT/   fs, work: a container's writable layer; chain: a symbolic link whose text is the chain beneath
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from dockyard.linux.paths import spread_children
from dockyard.store.snapshots.layers import LayerDocument

SHORT = 26  # characters: mount(2) takes a page of options, and 128 layers have to fit
NO_LAYER = "empty"


class Directories:
    """The part that all drivers share."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._trees = f"{base}/l/"
        for part in ("", "l", "r", "c", f"l/{NO_LAYER}"):
            (base / part).mkdir(mode=0o700, exist_ok=True)
        layers = os.open(base / "l", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            spread_children(layers)
        finally:
            os.close(layers)

    def tree(self, short: str) -> Path:
        return self.base / "l" / short

    def tree_path(self, short: str) -> str:
        """`tree` as text: a step of a build asks for all the layers that it lies on."""
        return self._trees + short

    def recipe(self, short: str) -> Path:
        return self.base / "r" / short

    def places(self) -> tuple[Path, Path]:
        """Where all layers and all recipes lie."""
        return self.base / "l", self.base / "r"

    def container(self, container_id: str) -> Path:
        return self.base / "c" / container_id[:SHORT]

    @staticmethod
    def new_name() -> str:
        """A short name that no layer has."""
        return secrets.token_hex(SHORT // 2)

    def make_layer(self, short: str) -> None:
        """Empty directories for a layer and its recipe."""
        os.mkdir(self.tree(short), 0o755)
        os.mkdir(self.recipe(short), 0o700)

    def layers(self) -> set[str]:
        """Short names of everything that looks like a layer or a recipe."""
        return (set(os.listdir(self.base / "l")) | set(os.listdir(self.base / "r"))) - {NO_LAYER}

    def containers(self) -> list[str]:
        """SHORT of every container's directory."""
        return os.listdir(self.base / "c")

    def make_place(self, container_id: str, chain_id: str | None) -> str:
        """A container's directory, which says, to people, on what it lies. FileExistsError if there."""
        place = f"{self.base}/c/{container_id[:SHORT]}"
        os.mkdir(place, 0o700)
        os.symlink(chain_id or "none", f"{place}/chain")
        return place

    def make_container(self, container_id: str, chain_id: str | None, document: LayerDocument | None) -> Path:
        """A container's directories, the upper one like the image's root directory. FileExistsError if there."""
        place = self.make_place(container_id, chain_id)
        os.mkdir(f"{place}/work", 0o700)
        upper = f"{place}/fs"
        os.mkdir(upper, 0o755)
        os.chmod(upper, document.root_mode if document else 0o755)
        if document and (document.root_uid or document.root_gid):
            os.chown(upper, document.root_uid, document.root_gid)
            os.chmod(upper, document.root_mode)
        return Path(upper)
