"""Control groups: make, limit, join, freeze, kill, remove; v1 (and hybrid) and v2 behind one Protocol.

Owns: the choice of the hierarchy and the interface. `v1` and `v2` are the implementations. Standard library only: the
monitor uses it. Does not own: which limits a container has (its OCI config says).

On a hybrid host (v1 controllers beside an empty v2 tree) the v1 implementation serves.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Protocol

from dockyard.runtime.cgroups import v1, v2

ROOT = "/sys/fs/cgroup"


class Cgroup(Protocol):
    """One control group of one container. Paths are relative to the root of each hierarchy."""

    path: str

    def create(self) -> None:
        """Make the directories. FileExistsError if it exists already and holds processes."""

    def limit(self, resources: dict[str, Any]) -> None:
        """Apply an OCI `linux.resources` object. OSError names file and value."""

    def update(self, resources: dict[str, Any]) -> None:
        """Change limits while processes live in it, all but those of devices. OSError names file and value."""

    def join(self, part: str = "") -> None:
        """Move the calling process in; `part`: into a part of it of that name, made now, where that is had (`part`)."""

    def part(self, name: str) -> str:
        """The directory of a part of the group, for processes that are to be ended together. It has no limits of its
        own: on v1 it is in the freezer's hierarchy alone. "" where there can be none."""

    def pids(self) -> list[int]:
        """Host pids of all processes in it and beneath it."""

    def freeze(self, frozen: bool) -> None:
        """Stop or continue every process in it; returns when that has happened."""

    def kill(self) -> None:
        """SIGKILL every process in it and beneath it, also such as fork while it runs."""

    def oom_kills(self) -> int:
        """How many processes the kernel has killed in it for lack of memory."""

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
    """The control group `path` (absolute, as OCI's cgroupsPath) on this host's hierarchy."""
    relative = os.path.normpath("/" + path).strip("/")
    return v2.CgroupV2(relative, root) if version(root) == 2 else v1.CgroupV1(relative, root)


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
