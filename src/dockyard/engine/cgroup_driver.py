"""Who makes the containers' control groups: we, in the file system ("cgroupfs"), or systemd ("systemd").

Owns: the choice, with dockerd's default and texts, and what `--cgroup-parent` may be with each. Does not own: making
groups (`runtime.cgroups`), where a container's lies (`runtime.bundle.cgroup_path`).
"""

from __future__ import annotations

from typing import Final

from dockyard.model.errors import InvalidArgument
from dockyard.runtime.cgroups import systemd, version

CGROUPFS: Final = "cgroupfs"
SYSTEMD: Final = "systemd"


def choose(asked: str) -> str:
    """The driver; `asked` is "" for the default: systemd where it is PID 1, answers and has cgroup v2 (a tree has one
    writer, and there it is systemd), else cgroupfs. InvalidArgument if systemd is asked for and cannot."""
    if asked == SYSTEMD and version() != 2:
        raise InvalidArgument("native.cgroupdriver=systemd needs cgroup v2 alone: this host has cgroup v1")
    if asked == SYSTEMD and not systemd.available():
        raise InvalidArgument("native.cgroupdriver=systemd: systemd is not PID 1 here, or does not answer on D-Bus")
    if asked:
        return asked
    return SYSTEMD if version() == 2 and systemd.available() else CGROUPFS


def check_parent(parent: str, driver: str) -> None:
    """InvalidArgument in Docker's words for a parent that the driver cannot have."""
    if driver == SYSTEMD and parent and not systemd.is_slice(parent):
        raise InvalidArgument('cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"')
