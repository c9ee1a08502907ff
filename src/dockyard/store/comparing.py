"""What a container has made of its image's files: `docker diff`.

Owns: the worker function `changes`: paths that were modified, added or deleted, found in overlay's upper directory or
by comparing trees. Does not own: what of it becomes a layer (`store.commit`, `store.delta`).

As Docker tells it where an overlay knows: a directory that was only copied up is no change, unless something was added
or deleted in it; what mounting left there and is still empty is not told at all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Final

from dockyard.linux import abi
from dockyard.linux.calls import openat2
from dockyard.model.errors import SystemFailure
from dockyard.store.delta import compare
from dockyard.store.layertree import OPAQUE_XATTR
from dockyard.store.mergedtree import Found, MergedTree

MODIFIED, ADDED, DELETED = 0, 1, 2

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH: Final = abi.RESOLVE_BENEATH | abi.RESOLVE_NO_SYMLINKS | abi.RESOLVE_NO_MAGICLINKS


def changes(
    *, fds: Sequence[int], tree: str, lower: Sequence[str], overlay: bool, stubs: Sequence[str] = ()
) -> list[tuple[str, int]]:
    """Worker: (path, kind) of everything that `tree` changes of `lower`, in the order of a walk by names.

    `stubs`: mount points that the container was given. SystemFailure naming the cause.
    """
    root = os.open(tree, _DIRECTORY)
    try:
        hidden = {os.fsencode(stub.strip("/")) for stub in stubs}
        with MergedTree(lower) as below:
            finder = _Finder(below, hidden)
            if overlay or not lower:
                finder.upper(root)
            else:
                finder.whole(root, lower[0])
        return [(f"/{path.decode('utf-8', 'replace')}", kind) for path, kind in finder.sorted()]
    except OSError as error:
        raise SystemFailure(f"comparing files: {error.strerror}") from error
    finally:
        os.close(root)


class _Finder:
    def __init__(self, below: MergedTree, stubs: set[bytes]) -> None:
        self._below = below
        self._stubs = stubs
        self._above_stubs = {stub.rpartition(b"/")[0] for stub in stubs} - {b""}
        self._found: dict[bytes, int] = {}

    def sorted(self) -> list[tuple[bytes, int]]:
        """By the components of the paths: a directory right before what is in it."""
        return sorted(self._found.items(), key=lambda change: change[0].split(b"/"))

    # --- a writable layer by itself: overlay -------------------------------------------------------------------------

    def upper(self, root: int) -> None:
        waiting = [b""]
        while waiting:
            path = waiting.pop()
            try:
                fd = openat2(root, path or b".", _DIRECTORY, 0, _BENEATH)
            except OSError:
                continue  # a running container goes on changing it
            try:
                waiting += self._upper_directory(path, fd)
            finally:
                os.close(fd)

    def _upper_directory(self, path: bytes, fd: int) -> list[bytes]:
        inner = []
        names = {os.fsencode(name) for name in os.listdir(fd)}
        for name in names:
            below = path + b"/" + name if path else name
            try:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if (below in self._stubs or below in self._above_stubs) and self._is_stub(below, name, fd, found):
                continue
            if stat.S_ISDIR(found.st_mode):
                inner.append(below)
            self._entry(path, below, found)
        if path and _is_opaque(fd) and self._beneath(path) is not None:
            for name in set(self._below.names(path)) - names:
                self._add(path, path + b"/" + name, DELETED)
        return inner

    def _entry(self, parent: bytes, path: bytes, found: os.stat_result) -> None:
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            self._add(parent, path, DELETED)
            return
        before = self._beneath(path)
        if before is None:
            self._add(parent, path, ADDED)
        elif not (stat.S_ISDIR(found.st_mode) and _same_directory(found, before, path in self._above_stubs)):
            self._found.setdefault(path, MODIFIED)

    def _add(self, parent: bytes, path: bytes, kind: int) -> None:
        if parent:
            self._found.setdefault(parent, MODIFIED)
        self._found[path] = kind

    def _is_stub(self, path: bytes, name: bytes, directory: int, found: os.stat_result) -> bool:
        if self._beneath(path) is not None:
            return False
        if stat.S_ISREG(found.st_mode):
            return found.st_size == 0
        if not stat.S_ISDIR(found.st_mode):
            return False
        fd = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            inside = {path + b"/" + os.fsencode(inner) for inner in os.listdir(fd)}
        finally:
            os.close(fd)
        return inside <= self._stubs and bool(inside or path in self._stubs)

    def _beneath(self, path: bytes) -> Found | None:
        """What the layers below have at `path` itself, whatever links lie on the way."""
        head, _, name = path.rpartition(b"/")
        return self._below.child(head, name)

    # --- a tree that has everything: btrfs, vfs ----------------------------------------------------------------------

    def whole(self, root: int, before: str) -> None:
        old = os.open(before, _DIRECTORY)
        try:
            found = compare(root, old)
        finally:
            os.close(old)
        for directory, names in found.gone.items():
            for name in names:
                self._add(directory, directory + b"/" + name if directory else name, DELETED)
        for path in sorted(found.changed - {b""}):
            if self._beneath(path) is not None:
                self._found.setdefault(path, MODIFIED)
            elif not (path in self._stubs and self._is_empty(root, path)):
                self._add(path.rpartition(b"/")[0], path, ADDED)
        self._forget_stubs_parents(found.changed)

    def _forget_stubs_parents(self, changed: set[bytes]) -> None:
        """A directory that was changed only by the mount points made in it."""
        for parent in self._above_stubs:
            inner = {path for path in changed if path.startswith(parent + b"/")}
            if inner and not any(path in self._found for path in inner) and self._found.get(parent) == MODIFIED:
                del self._found[parent]

    @staticmethod
    def _is_empty(root: int, path: bytes) -> bool:
        try:
            fd = openat2(root, path, os.O_PATH | os.O_NOFOLLOW, 0, _BENEATH)
        except OSError:
            return False
        try:
            found = os.fstat(fd)
            if stat.S_ISDIR(found.st_mode):
                return not os.listdir(f"/proc/self/fd/{fd}")
            return stat.S_ISREG(found.st_mode) and found.st_size == 0
        finally:
            os.close(fd)


def _same_directory(found: os.stat_result, before: Found, any_time: bool) -> bool:
    """Whether a directory was only copied up. `any_time`: mount points were made in it."""
    then = before.status
    if (found.st_mode, found.st_uid, found.st_gid) != (then.st_mode, then.st_uid, then.st_gid):
        return False
    return any_time or found.st_mtime_ns == then.st_mtime_ns


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE_XATTR) == b"y"
    except OSError:
        return False
