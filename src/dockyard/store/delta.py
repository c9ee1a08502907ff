"""What a whole tree (btrfs, vfs) has that the tree it was made from has not, as a layer's tar.

Owns: `pack_changes` and the comparison. Does not own: single entries (`store.pack`).

Two files are the same if type, mode, owner, device, size, time, link target and attributes are: as Docker compares
where no overlay tells it. A directory is in the tar if its own attributes have changed or something in it has.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Any

from dockyard.model.errors import SystemFailure
from dockyard.proto import tarformat as fmt
from dockyard.proto.tarformat import TarError
from dockyard.proto.tarread import show
from dockyard.store.layertree import allowed_xattr
from dockyard.store.pack import Packer
from dockyard.store.recipe import RecipeWriter

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Changes:
    """`changed`: paths that are new or different, and the directories above them; `gone`: names by directory."""

    def __init__(self) -> None:
        self.changed: set[bytes] = set()
        self.gone: dict[bytes, list[bytes]] = {}

    def add(self, path: bytes) -> None:
        while path not in self.changed:
            self.changed.add(path)
            if not path:
                return
            path = path.rpartition(b"/")[0]


def pack_changes(tree: str, before: str, recipe: str) -> dict[str, Any]:
    """Hash the tar of what `tree` changes of `before`, and write its recipe. As `store.pack.pack`; entries may be 0."""
    root, old = os.open(tree, _DIRECTORY), os.open(before, _DIRECTORY)
    try:
        changes = compare(root, old)
        with RecipeWriter(recipe) as writer:
            packer = _DeltaPacker(root, writer, changes)
            try:
                packer.run()
                writer.finish()
            except (OSError, TarError) as error:
                cause = error.strerror if isinstance(error, OSError) else error
                raise SystemFailure(f"packing {show(packer.at or b'/')}: {cause}") from error
        return packer.outcome()
    except OSError as error:
        raise SystemFailure(f"comparing layers: {error.strerror}") from error
    finally:
        os.close(root)
        os.close(old)


def compare(new: int, old: int) -> Changes:
    """What the directory `new` (a descriptor) changes of `old`."""
    changes = Changes()
    if _attributes(new, b".") != _attributes(old, b"."):
        changes.add(b"")
    waiting = [b""]
    while waiting:
        path = waiting.pop()
        now = os.open(path or b".", _DIRECTORY, dir_fd=new)
        try:
            then = os.open(path or b".", _DIRECTORY, dir_fd=old)
        except OSError:
            then = -1  # everything in it is new
        try:
            waiting += _compare_directory(path, now, then, changes)
        finally:
            os.close(now)
            if then >= 0:
                os.close(then)
    return changes


def _compare_directory(path: bytes, now: int, then: int, changes: Changes) -> list[bytes]:
    names = {os.fsencode(name) for name in os.listdir(now)}
    old_names = {os.fsencode(name) for name in os.listdir(then)} if then >= 0 else set()
    if gone := old_names - names:
        changes.gone[path] = sorted(gone)
        changes.add(path)
    inner = []
    for name in names:
        below = path + b"/" + name if path else name
        mine = _attributes(now, name)
        if name not in old_names or mine != _attributes(then, name):
            changes.add(below)
        if stat.S_ISDIR(mine[0]):
            inner.append(below)
    return inner


def _attributes(directory: int, name: bytes) -> tuple[Any, ...]:
    """What two entries are compared by; the file's type and mode come first."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    mode = found.st_mode
    common = (mode, found.st_uid, found.st_gid)
    if stat.S_ISLNK(mode):
        return (*common, os.readlink(name, dir_fd=directory))
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        path = b"/proc/self/fd/%d/%s" % (directory, name)
        kept = sorted(key for key in map(os.fsencode, os.listxattr(path, follow_symlinks=False)) if allowed_xattr(key))
        xattrs = tuple((key, os.getxattr(path, key, follow_symlinks=False)) for key in kept)
    if stat.S_ISDIR(mode):
        return (*common, xattrs)
    return (*common, found.st_rdev, found.st_size, found.st_mtime_ns, xattrs)


class _DeltaPacker(Packer):
    """Packs only what has changed; what has gone becomes whiteouts at the place where it was."""

    def __init__(self, root: int, recipe: RecipeWriter, changes: Changes) -> None:
        super().__init__(root, None, recipe, overlay=False)
        self._changes = changes

    def run(self) -> None:
        if self._changes.changed:
            super().run()
        else:
            self.hash = hashlib.sha256()

    def wanted(self, path: bytes) -> bool:
        return path in self._changes.changed

    def gone(self, path: bytes) -> list[bytes]:
        return [fmt.WHITEOUT + name for name in self._changes.gone.get(path, ())]
