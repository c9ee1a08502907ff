"""The working directory of a new container, made in its writable layer before anything runs or is copied there.

Owns: the worker function `make`, and `exists`: whether layers have it already. Does not own: whose layers they are
(`store.snapshots`), what a start makes of it on a volume (`runtime.program`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any

from dockyard.model.errors import InvalidArgument
from dockyard.store import roots
from dockyard.store.mergedtree import MergedTree


def exists(layers: Sequence[str], path: str) -> bool:
    """Whether `path` leads to a directory in these layers (topmost first). OSError of damaged layers."""
    with MergedTree(layers) as tree:
        found = tree.lookup(os.fsencode(path), follow=True)
        return found is not None and found.is_directory


def make(*, fds: Sequence[int], place: dict[str, Any], path: str) -> dict[str, Any]:
    """Worker: make the directory `path`, and what is missing above it, for root (mode 0755), as Docker does.

    InvalidArgument in Docker's words if something else is there.
    """
    with roots.standing(place, mounted=False) as root:
        try:
            target = roots.make_target(root, path, directory=True)
        except (NotADirectoryError, FileExistsError):
            raise _in_the_way(path) from None
        try:
            if not stat.S_ISDIR(os.fstat(target).st_mode):
                raise _in_the_way(path)
        finally:
            os.close(target)
    return {}


def _in_the_way(path: str) -> InvalidArgument:
    return InvalidArgument(f"Cannot mkdir: {path} is not a directory")
