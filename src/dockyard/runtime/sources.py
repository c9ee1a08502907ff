"""What a container binds, opened in the host's mount namespace: copies of trees, mounted nowhere yet.

Owns: opening them, a part of one beneath it, what lies in another mount namespace; the mapped owners that our own
mounts ask for. Does not own: mounting them (`runtime.rootfs`). Standard library only.
"""

from __future__ import annotations

import os
from typing import Any

from dockyard.linux import abi, mounts, process
from dockyard.runtime.following import SpawnFailed
from dockyard.runtime.job import Job
from dockyard.runtime.places import open_part


def open_sources(config: dict[str, Any], job: Job) -> None:
    """Those of every bind of `config.mounts` into the job. Raises SpawnFailed."""
    for index, entry in enumerate(config.get("mounts") or []):
        options = entry.get("options") or []
        recursive = "rbind" in options
        if not recursive and "bind" not in options and entry.get("type") != "bind":
            continue
        job.sources[index] = open_bind_source(entry, recursive)
        if (entry.get("dockyard") or {}).get("chown"):
            job.given.append(open_bind_source(entry, False))
        if job.users is not None and (entry.get("dockyard") or {}).get("remap"):
            for tree in (job.sources[index], *(job.given[-1:] if entry["dockyard"].get("chown") else ())):
                mounts.set_attributes(tree, abi.MOUNT_ATTR_IDMAP, userns=job.users.namespace)


def open_bind_source(entry: dict[str, Any], recursive: bool) -> int:
    """A detached copy of what the mount `entry` binds. SpawnFailed in Docker's words."""
    source, destination, own = entry["source"], entry["destination"], entry.get("dockyard") or {}
    try:
        if "namespace" in own:
            return _open_elsewhere(own["namespace"], source, recursive)
        return _open_source(source, own.get("subpath") or "", recursive)
    except OSError as error:
        reason = str(error.strerror if "subpath" in str(error) else os.strerror(error.errno or 0).lower())
        raise SpawnFailed(f'error mounting "{source}" to rootfs at "{destination}": {reason}') from error


def _open_elsewhere(namespace: str, source: str, recursive: bool) -> int:
    """A detached copy of what lies at `source` in another mount namespace: the kernel copies only out of one's own."""
    there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with process.in_mounts(there):
            return mounts.open_tree(abi.AT_FDCWD, source, recursive=recursive)
    finally:
        os.close(there)


def _open_source(source: str, subpath: str, recursive: bool) -> int:
    """A detached copy of the tree at `source`, or of what lies at `subpath` inside it."""
    if not subpath:
        return mounts.open_tree(abi.AT_FDCWD, source, recursive=recursive)
    whole = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        part = open_part(whole, subpath, source)
    finally:
        os.close(whole)
    try:
        return mounts.open_tree(part, "", recursive=recursive)
    finally:
        os.close(part)
