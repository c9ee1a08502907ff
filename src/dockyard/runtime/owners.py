"""Whose files are on a mount: mapped to the container's user, or given to it.

Owns: the mapping of an idmapped bind (an OCI mount's uidMappings and gidMappings, or our "owner"), `:U`. Does not own:
who the container's user is (`runtime.program`), mounting (`runtime.rootfs`). Runs in the container's first process;
standard library only.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from dockyard.linux import abi, mounts, userns
from dockyard.linux.walking import walk
from dockyard.runtime import program
from dockyard.runtime.users import Users

_IDS = (1 << 32) - 1


def map_tree(
    tree: int, entry: dict[str, Any], process: dict[str, Any], root: int, recursive: bool, users: Users | None = None
) -> None:
    """Map the owners on the detached tree `tree` as the mount `entry` of config.json asks. `users`: the ids of the
    container's own; its mappings are written with the host's. OSError naming it."""
    own = entry.get("dockyard") or {}
    if own.get("idmap"):
        uid, gid = program.resolve_user(process, root)[:2]
        uids, gids = _exchange(os.fstat(tree), *((uid, gid) if users is None else (users.uid(uid), users.gid(gid))))
    else:
        uids, gids = _ranges(entry.get("uidMappings")), _ranges(entry.get("gidMappings"))
    namespace = userns.open_mapping(uids, gids)
    try:
        map_as(tree, entry, namespace, recursive)
    finally:
        os.close(namespace)


def map_as(tree: int, entry: dict[str, Any], namespace: int, recursive: bool) -> None:
    """Map the owners on `tree` as a user namespace does. OSError naming the mount."""
    try:
        mounts.set_attributes(tree, abi.MOUNT_ATTR_IDMAP, recursive=recursive, userns=namespace)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise OSError(
            error.errno,
            f"{entry['source']} cannot be mounted with mapped owners (its file system may not do that): {reason}",
        ) from error


def is_mapped(entry: dict[str, Any]) -> bool:
    return bool((entry.get("dockyard") or {}).get("idmap") or entry.get("uidMappings") or entry.get("gidMappings"))


def _ranges(mappings: list[dict[str, int]] | None) -> list[tuple[int, int, int]]:
    if not mappings:
        return [(0, 0, _IDS)]
    return [(each["containerID"], each["hostID"], each["size"]) for each in mappings]


def _exchange(owner: os.stat_result, uid: int, gid: int) -> tuple[list[tuple[int, int, int]], ...]:
    return exchange(owner.st_uid, uid), exchange(owner.st_gid, gid)


def exchange(one: int, other: int) -> list[tuple[int, int, int]]:
    """Ranges that swap two ids and leave all others: a mapping has to be one to one."""
    low, high = min(one, other), max(one, other)
    if low == high:
        return [(0, 0, _IDS)]
    ranges = [(0, 0, low), (low, high, 1), (low + 1, low + 1, high - low - 1), (high, low, 1)]
    ranges.append((high + 1, high + 1, _IDS - high - 1))
    return [each for each in ranges if each[2]]


def give(tree: int, uid: int, gid: int) -> None:
    """Let everything on the mount at `tree` belong to uid and gid. Nothing is followed, no other mount entered."""
    if not stat.S_ISDIR(os.fstat(tree).st_mode):
        os.chown(f"/proc/self/fd/{tree}", uid, gid)
        return
    for directory in walk(".", dir_fd=tree):
        for name in directory.names:
            _give_one(name, directory.fd, uid, gid)
        if _differs(os.fstat(directory.fd), uid, gid):
            os.fchown(directory.fd, uid, gid)


def _give_one(name: bytes, at: int, uid: int, gid: int) -> None:
    try:
        if _differs(os.stat(name, dir_fd=at, follow_symlinks=False), uid, gid):
            os.chown(name, uid, gid, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        pass  # somebody else removed it meanwhile


def _differs(found: os.stat_result, uid: int, gid: int) -> bool:
    return (found.st_uid, found.st_gid) != (uid, gid)
