"""Directory trees with a limit: `--storage-opt size` on overlay, `size` of a local volume.

Owns: choosing a project for a tree, whether a file system can do that. Does not own: the system calls (`linux.quota`),
btrfs's own way (`store.snapshots.btrfs`).

A project's number is random and unused, so nothing has to be kept: the directory itself says which it has.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dockyard.linux import quota

_FIRST: Final = 1 << 20  # numbers below are left to administrators
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def supported(directory: Path) -> bool:
    """Whether trees on this file system can have limits: mounted with project quotas (xfs: pquota, ext4: prjquota)."""
    fd = os.open(directory, _DIRECTORY)
    try:
        quota.project(fd)
        quota.project_in_use(fd, _FIRST - 1)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def limit(directories: Sequence[Path], size: int) -> None:
    """These directories, empty yet, share a limit of `size` bytes. OSError."""
    fds = [os.open(directory, _DIRECTORY) for directory in directories]
    try:
        number = _FIRST + secrets.randbelow((1 << 31) - _FIRST)
        while quota.project_in_use(fds[0], number):
            number = _FIRST + secrets.randbelow((1 << 31) - _FIRST)
        quota.limit_project(fds[0], number, size)
        for fd in fds:
            quota.set_project(fd, number)
    finally:
        for fd in fds:
            os.close(fd)


def release(directory: Path) -> None:
    """Forget the limit of a tree that is about to go. One without a limit, or a missing one, is fine."""
    try:
        fd = os.open(directory, _DIRECTORY)
    except OSError:
        return
    try:
        number = quota.project(fd)
        if number >= _FIRST:
            quota.limit_project(fd, number, 0)
    except OSError:
        return
    finally:
        os.close(fd)
