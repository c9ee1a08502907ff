"""What `RUN --mount=type=bind` and the first content of a cache mount are made of.

Owns: `locate` (where files of a tree really lie, so that they can be mounted), the worker function `fill` (a copy of
them that may be written to). Does not own: mounting.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any, NamedTuple

from dockyard.model.errors import NotFound, SystemFailure
from dockyard.proto.tarread import show
from dockyard.store.builds.copying import Writer
from dockyard.store.builds.selecting import open_source, walk
from dockyard.store.mergedtree import MergedTree


class Place(NamedTuple):
    """`directories`: what has to be merged, topmost first (for a file: one, its layer). `path`: within each of them,
    without symbolic links. `layers`: indices of the tree's layers that they are."""

    is_directory: bool
    path: str
    layers: tuple[int, ...]


def locate(layers: Sequence[str], path: str) -> Place:
    """Where `path` of a tree lies, links followed within its root. NotFound naming it."""
    with MergedTree(layers) as tree:
        found = tree.lookup(os.fsencode(path), follow=True)
        if found is None:
            raise NotFound(f'"{path}": not found')
        real = os.fsdecode(found.path)
        if not found.is_directory:
            return Place(False, real, (found.layer,))
        return Place(True, real, tuple(tree.parts(found.path)))


def fill(*, fds: Sequence[int], source: dict[str, Any], path: str, target: str) -> dict[str, Any]:
    """Worker: copy what is at `path` of a tree (`selecting.open_source`) into `target`: a directory's contents into the
    empty directory, or a file to that name. Nothing is linked, so that it may be written to. NotFound; SystemFailure
    naming the file."""
    at = path
    try:
        with open_source(source) as tree:
            found = tree.lookup(os.fsencode(path), follow=True)
            if found is None:
                raise NotFound(f'"{path}": not found')
            root = target if found.is_directory else os.path.dirname(target)
            with MergedTree([root]) as view:
                writer = Writer(root, view, (0, 0), "", None, keep_owners=True, link=False)
                try:
                    if not found.is_directory:
                        writer.file(os.fsencode(os.path.basename(target)), tree, found)
                    for entry in walk(tree, found, lambda _: False) if found.is_directory else ():
                        at = show(entry.path)
                        if entry.found.is_directory:
                            if entry.path:
                                writer.directory(entry.path, entry.found.status, overwrite=True)
                        elif not stat.S_ISSOCK(entry.found.status.st_mode):
                            writer.file(entry.path, tree, entry.found)
                    writer.finish()
                finally:
                    writer.close()
    except OSError as error:
        raise SystemFailure(f"copying {at}: {error.strerror}") from error
    return {}
