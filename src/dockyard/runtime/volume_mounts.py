"""Volumes that are mounts of their own: `type`, `o` and `device` of the local driver, as worker functions.

Owns: mounting and unmounting on the host, finding what is mounted. Does not own: when (`engine.volumes`), names of
hosts in `addr=` (they are looked up before). A worker, because a network file system may let one wait.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from dockyard.linux import abi, mounts
from dockyard.model.errors import SystemFailure


def mount(*, fds: Sequence[int], device: str, path: str, kind: str, options: str) -> dict[str, Any]:
    """Worker: mount `device` at `path`. SystemFailure in Docker's words."""
    wanted = mounts.Options([option for option in options.split(",") if option])
    data = ",".join(wanted.data)
    try:
        mounts.mount(device, path, kind, wanted.flags, data)
        rest = wanted.flags & ~(abi.MS_BIND | abi.MS_REC)
        if wanted.flags & abi.MS_BIND and rest:
            _or_undo(path, wanted.flags | abi.MS_REMOUNT)  # a bind takes its flags with a second call only
        for change in wanted.propagation:
            _or_undo(path, change)
    except OSError as error:
        flags = f", flags: {wanted.flags:#x}" if wanted.flags else ""
        text = f"mount {device}:{path}{flags}" + (f", data: {data}" if data else "")
        reason = os.strerror(error.errno or 0).lower()
        raise SystemFailure(
            f"error while mounting volume '{path}': failed to mount local volume: {text}: {reason}"
        ) from error
    return {}


def _or_undo(path: str, flags: int) -> None:
    try:
        mounts.mount("", path, "", flags)
    except OSError:
        mounts.umount(path, abi.MNT_DETACH)
        raise


def unmount(*, fds: Sequence[int], path: str) -> dict[str, Any]:
    """Worker: take away what is mounted at `path`; fine if nothing is. SystemFailure naming it."""
    try:
        mounts.umount(path, abi.MNT_DETACH)
    except (FileNotFoundError, OSError) as error:
        if error.errno not in (2, 22):  # not there, not a mount
            raise SystemFailure(f"volume '{path}' cannot be unmounted: {os.strerror(error.errno or 0)}") from error
    return {}


def mounted_below(directory: str) -> set[str]:
    """Mount points of this namespace below a directory."""
    found = set()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            point = line.split(" ", 5)[4]
            if "\\" in point:
                point = point.encode("latin-1", "replace").decode("unicode_escape")
            if point.startswith(f"{directory}/"):
                found.add(point)
    return found
