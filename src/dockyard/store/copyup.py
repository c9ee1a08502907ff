"""What an image has where a new volume is mounted becomes the volume's content.

Owns: finding it in the layers (`look`), copying it so that a volume is never left half filled (`fill`, a worker
function), finishing or undoing what a kill has cut (`recover`). Does not own: when that is done (`engine.volumes`).

The copy is made aside, in `STAGED`. If nobody uses the volume, that directory takes the place of the empty one at once.
Otherwise (others see it, or it is a mount) it is renamed to `COMPLETE`, which says that all is there, and its entries
are moved one by one; who finds `COMPLETE` goes on with that.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from dockyard.model.errors import SystemFailure
from dockyard.store.copytree import Copier, copy_attributes
from dockyard.store.mergedtree import MergedTree
from dockyard.store.trees import remove_tree

STAGED: Final = ".dockyard-staged"
COMPLETE: Final = ".dockyard-complete"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Look(NamedTuple):
    """What the image has there: a directory (`empty` or not) with its attributes, or something else."""

    is_directory: bool
    empty: bool
    mode: int
    uid: int
    gid: int


def look(layers: Sequence[str], path: str) -> Look | None:
    """`layers`: trees, topmost first. Links are followed inside the image. None: nothing there."""
    with MergedTree(layers) as tree:
        try:
            found = tree.lookup(os.fsencode(path), follow=True)
        except OSError:
            return None  # a loop of links
        if found is None:
            return None
        status = found.status
        empty = not found.is_directory or not tree.names(found.path)
        return Look(found.is_directory, empty, status.st_mode & 0o7777, status.st_uid, status.st_gid)


def is_empty(data: str) -> bool:
    """Whether a volume has no content of its own."""
    return set(os.listdir(data)) <= {STAGED, COMPLETE}


def fill(*, fds: Sequence[int], layers: list[str], path: str, place: str, data: str, swap: bool) -> dict[str, Any]:
    """Worker: fill the empty volume `data` with what `layers` have at `path`; {"filled": whether that was possible}.

    `place`: the directory to copy in, on the same file system. `swap`: nobody sees `data` yet. SystemFailure (a full
    disk) leaves the volume empty.
    """
    recover(place, data)
    staged = os.path.join(place, STAGED)
    try:
        _stage(layers, path, staged)
        if swap:
            os.rename(staged, data)
            return {"filled": True}
        os.rename(staged, os.path.join(place, COMPLETE))
    except OSError as error:
        _remove(place, STAGED)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return {"filled": False}  # somebody was quicker
        raise SystemFailure(f"copying the image's {path} into a volume: {error.strerror}") from error
    recover(place, data)
    return {"filled": True}


def recover(place: str, data: str) -> None:
    """Finish what a kill has cut: a copy that was complete is moved into `data`, another one is taken away."""
    complete = os.path.join(place, COMPLETE)
    if os.path.isdir(complete):
        _move(complete, data)
        _remove(place, COMPLETE)
    if os.path.lexists(os.path.join(place, STAGED)):
        _remove(place, STAGED)


def _remove(place: str, name: str) -> None:
    parent = os.open(place, _DIRECTORY)
    try:
        remove_tree(parent, name)
    except OSError:
        pass  # it is tried again by the next who looks
    finally:
        os.close(parent)


def _move(complete: str, data: str) -> None:
    source, target = os.open(complete, _DIRECTORY), os.open(data, _DIRECTORY)
    try:
        for name in os.listdir(source):
            try:
                os.stat(name, dir_fd=target, follow_symlinks=False)
            except FileNotFoundError:
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        copy_attributes(source, target)
    finally:
        os.close(source)
        os.close(target)


def _stage(layers: list[str], path: str, staged: str) -> None:
    os.mkdir(staged, 0o700)
    target = os.open(staged, _DIRECTORY)
    try:
        with MergedTree(layers) as tree:
            found = tree.lookup(os.fsencode(path), follow=True)
            if found is not None and found.is_directory:
                _MergedCopier(tree).tree(found.path, target)
    finally:
        os.close(target)


class _MergedCopier:
    """Copies a directory as the layers together show it."""

    def __init__(self, tree: MergedTree) -> None:
        self._tree = tree
        self._copier = Copier()

    def tree(self, path: bytes, target: int) -> None:
        """Everything in the directory that really is at `path` into `target`, then its own attributes."""
        for name in self._tree.names(path):
            found = self._tree.child(path, name)
            if found is None:
                continue
            if found.is_directory:
                os.mkdir(name, 0o700, dir_fd=target)
                inner = os.open(name, _DIRECTORY, dir_fd=target)
                try:
                    self.tree(found.path, inner)
                finally:
                    os.close(inner)
            else:
                place, its_name = self._tree.place(found)
                self._copier.entry(its_name, place, target, name)
        own = self._tree.lookup(path)
        if own is not None:
            source = self._tree.open(own)
            try:
                copy_attributes(source, target)
            finally:
                os.close(source)
