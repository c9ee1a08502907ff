"""Control groups: make, limit, join, freeze, kill, remove; v1 (and hybrid), v2 and systemd's behind one Protocol.

Owns: the choice of the hierarchy and the interface. `v1`, `v2` and `systemd` are the implementations.
Standard library only: the monitor uses it. Does not own: which limits a container has (its OCI config says).

On a hybrid host (v1 controllers beside an empty v2 tree) the v1 implementation serves.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Protocol

from dockyard.runtime.cgroups import v1, v2

ROOT = "/sys/fs/cgroup"


class Cgroup(Protocol):
    """One control group of one container. `path`: relative to the root of each hierarchy; a scope's is its notation."""

    path: str

    def create(self) -> None:
        """Make the directories. FileExistsError if it exists already and holds processes."""

    def limit(self, resources: dict[str, Any]) -> None:
        """Apply an OCI `linux.resources` object. OSError names file and value."""

    def update(self, resources: dict[str, Any]) -> None:
        """Change limits while processes live in it, all but those of devices. OSError names file and value."""

    def adopt(self, pid: int, resources: dict[str, Any]) -> bool:
        """Make it with the process `pid` in it and apply the limits, where that is how a group begins (systemd's
        scopes: the process must wait until then); False elsewhere."""

    def join(self) -> None:
        """Move the calling process in."""

    def directories(self) -> dict[str, str]:
        """Where it lies, by controller; on v2 it is one directory, named ""."""

    def part(self, name: str) -> str:
        """The directory of a part of the group, for processes that are to be ended together. It has no limits of its
        own: on v1 it is in the freezer's hierarchy alone. "" where there can be none."""

    def pids(self) -> list[int]:
        """Host pids of all processes in it and beneath it."""

    def freeze(self, frozen: bool) -> None:
        """Stop or continue every process in it; returns when that has happened."""

    def kill(self) -> None:
        """SIGKILL every process in it and beneath it, also such as fork while it runs."""

    def oom_kills(self, since: int = 0) -> int:
        """How many processes the kernel has killed in it for lack of memory. `since`: the container's start (wall
        clock, ns), needed where the group may be gone already."""

    def oom_file(self) -> str:
        """What the kernel changes when it kills in it for lack of memory (v2: memory.events, v1: memory.oom_control);
        "" without a memory controller."""

    def remove(self) -> None:
        """Remove it and what is beneath; a missing one is no error. OSError (EBUSY) if processes live in it."""

    def rename(self, path: str) -> None:
        """Give it another name in the same parent, its processes in it (v1 only: OSError on v2)."""

    def descriptor(self) -> int:
        """A descriptor for a process to be born in it (CLONE_INTO_CGROUP), -1 on v1, where that is not to be had."""

    def hierarchies(self) -> list[tuple[str, str]]:
        """(directory name under /sys/fs/cgroup, mount options) of each hierarchy, for the container's own view;
        empty on v2, where the one tree is mounted."""


@functools.cache
def version(root: str = ROOT) -> int:
    """2 on a unified host, else 1 (also on a hybrid one)."""
    return 2 if os.path.exists(f"{root}/cgroup.controllers") else 1


def open_cgroup(path: str, root: str = ROOT) -> Cgroup:
    """The control group `path` (OCI's cgroupsPath: absolute, or systemd's notation) on this host's hierarchy.
    OSError for a notation that cannot be served."""
    if is_notation(path):
        return _open_scope(path, root)
    relative = os.path.normpath("/" + path).strip("/")
    return v2.CgroupV2(relative, root) if version(root) == 2 else v1.CgroupV1(relative, root)


def is_notation(path: str) -> bool:
    """Whether a cgroupsPath is `slice:prefix:name`, a scope of systemd's (`systemd`)."""
    return path.count(":") == 2 and "/" not in path


def location(path: str) -> str:
    """Where the group of a cgroupsPath lies, relative to the root of each hierarchy. ValueError."""
    if is_notation(path):
        from dockyard.runtime.cgroups import systemd

        return systemd.location(path)
    return os.path.normpath("/" + path).strip("/")


def _open_scope(notation: str, root: str) -> Cgroup:
    from dockyard.runtime.cgroups import systemd  # only where it is used: a monitor stays lean

    if version(root) != 2:
        raise OSError(95, f"cgroup {notation}: control groups are made by systemd with cgroup v2 only")
    try:
        return systemd.Scope(notation, root)
    except ValueError as error:
        raise OSError(22, f"cgroup {notation}: {error}") from error


def kill_part(directory: str) -> None:
    """SIGKILL everything in a part of a group, also such as fork while it runs. A part that is gone is fine."""
    try:
        if version() == 2:
            v2.kill(directory)
        else:
            v1.kill(directory)
    except FileNotFoundError:
        return


def sweep(parent: str, prefix: str, root: str = ROOT) -> None:
    """Remove the v1 groups `parent`/`prefix`PID of processes that are gone: spares that were killed at once."""
    if version(root) == 1:
        v1.sweep(parent.strip("/"), prefix, root)
