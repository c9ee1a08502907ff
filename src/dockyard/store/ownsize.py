"""What a container's whole tree (btrfs, vfs) takes beyond the tree that it was made from.

Owns: the worker function `own_size`. Does not own: which trees those are (`store.snapshots`), trees that are only what
a container has written (`store.copytree.usage`).

Files are compared by type, mode, owner, size and time, as Docker does where no overlay tells what was written. Both
trees are only looked at; the first one may be changing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any

from dockyard.linux import abi
from dockyard.linux.calls import openat2
from dockyard.linux.walking import walk

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = abi.RESOLVE_BENEATH | abi.RESOLVE_NO_SYMLINKS | abi.RESOLVE_NO_MAGICLINKS


def own_size(*, fds: Sequence[int], path: str, base: str) -> dict[str, Any]:
    """Worker: {"size": bytes of the regular files beneath `path` that `base` has not, or has otherwise, each once}."""
    total = 0
    seen: set[int] = set()
    top = os.open(base, _DIRECTORY)
    try:
        for directory in walk(path):
            below = _beneath(top, directory.path)
            try:
                for name in directory.names:
                    found = _attributes(name, directory.fd)
                    if found is None or not stat.S_ISREG(found.st_mode) or found.st_ino in seen:
                        continue
                    before = _attributes(name, below) if below >= 0 else None
                    if before is None or _differs(found, before):
                        seen.add(found.st_ino)
                        total += found.st_size
            finally:
                if below >= 0:
                    os.close(below)
    finally:
        os.close(top)
    return {"size": total}


def _beneath(top: int, path: bytes) -> int:
    """The directory of that name in the other tree; -1: it has none."""
    try:
        return openat2(top, path or b".", _DIRECTORY, 0, _RESOLVE)
    except OSError:
        return -1


def _attributes(name: bytes, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None  # it went meanwhile


def _differs(one: os.stat_result, other: os.stat_result) -> bool:
    def told(found: os.stat_result) -> tuple[int, ...]:
        return found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns

    return told(one) != told(other)
