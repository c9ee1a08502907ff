"""The namespaces of a container that is about to be made, seen from its parent.

Owns: which ones are made by clone, which are joined, which belong to a user namespace and are made in it beforehand.
Does not own: the clone (`runtime.spawn`), joining (`runtime.init`). Standard library only.
"""

from __future__ import annotations

import os
from typing import Any

from dockyard.linux import process, userns
from dockyard.runtime import users as users_
from dockyard.runtime.job import Job


def prepare(config: dict[str, Any], job: Job, opened: list[int]) -> int:
    """The flags for clone; joins go into the job, a pid namespace is entered here for the children to come.

    `opened`: descriptors that the caller closes. OSError.
    """
    flags = 0
    job.unshare_cgroup = False
    job.among_hosts = all(entry["type"] != "mount" for entry in config["linux"].get("namespaces") or [])
    # First: a child that is forked for it must not be born in a new pid namespace.
    _make_users(config["linux"], job, opened)
    for entry in config["linux"].get("namespaces") or []:
        kind, path = entry["type"], entry.get("path")
        flag = process.NAMESPACE_FLAGS[kind]
        if kind == "user":
            continue  # joined in the end
        if path:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            opened.append(fd)
            if kind == "pid":
                process.setns(fd, flag)
            elif kind == "mount":
                job.mounts = fd
            else:
                job.joins.append((fd, flag))
        elif job.held is not None and kind in users_.OWN_KINDS:
            opened.append(job.held.open("net" if kind == "network" else kind))
            job.joins.append((opened[-1], flag))
            job.new_network = job.new_network or kind == "network"
        elif kind == "time":
            process.unshare(flag)  # its offsets can be set until a process is born in it
            _set_time_offsets(config["linux"].get("timeOffsets") or {})
        elif kind == "cgroup":
            job.unshare_cgroup = True  # only once the control group is joined
        else:
            flags |= flag
            job.new_network = job.new_network or kind == "network"
    return flags


def _make_users(linux: dict[str, Any], job: Job, opened: list[int]) -> None:
    """A user namespace of the container's own, or another's that it shares namespaces with, and those that belong
    to it. Sharing only with a container that has the host's ids, it has a namespace of its own."""
    kinds = {entry["type"]: entry.get("path") for entry in linux.get("namespaces") or []}
    if "user" not in kinds:
        return
    path, uids, gids = kinds["user"], linux.get("uidMappings"), linux.get("gidMappings")
    flags = 0
    for kind in users_.OWN_KINDS:
        if kind in kinds and not kinds[kind]:
            flags |= process.NAMESPACE_FLAGS[kind]
    if path:
        joined = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        opened.append(joined)
        if os.fstat(joined).st_ino != os.stat("/proc/self/ns/user").st_ino:
            job.held = userns.Held((), (), flags, joined)
            job.users = users_.Users(*job.held.mappings(), joined)
            return
    if uids and gids:
        job.held = userns.Held(users_.ranges(uids), users_.ranges(gids), flags)
        opened.append(job.held.open("user"))
        job.users = users_.Users(uids, gids, opened[-1])


def _set_time_offsets(offsets: dict[str, Any]) -> None:
    """For the children of the calling process. Source: time_namespaces(7)."""
    for clock, offset in offsets.items():
        with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
            file.write(f"{clock} {offset.get('secs') or 0} {offset.get('nanosecs') or 0}")
