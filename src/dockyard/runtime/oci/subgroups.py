"""`exec --cgroup`: parts of the container's control group that its programs have made, for an exec to be in.

Owns: reading `[CONTROLLER[,CONTROLLER…]:]PATH` and finding the directories; where an exec goes when the container's
group takes no processes. Does not own: going there (`runtime.init`). The grammar is runc's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dockyard.runtime.cgroups import ROOT, Cgroup, version
from dockyard.runtime.oci.errors import OciError


def find(cgroup: Cgroup, pid: int, wanted: Sequence[str]) -> tuple[list[str], str]:
    """The directories to be in (none: the container's own) and, with v2 and none wanted, that of the first process
    `pid`, for a group that gives its controllers to parts of it: only those can have processes then (cgroup-v2.rst, "No
    Internal Process Constraint"). Raises OciError."""
    if not wanted:
        return [], _group_of(pid) if version() == 2 else ""
    directories = cgroup.directories()
    parts = dict.fromkeys(directories.values(), "")  # some controllers of v1 share theirs
    for word in wanted:
        names, colon, path = word.rpartition(":")
        if ":" in names or (not colon and len(wanted) > 1):
            raise OciError(f"--cgroup: {word!r} is not [CONTROLLER:]PATH, and only one may be without a controller")
        for name in names.split(",") if colon else directories:
            if name not in directories:
                raise OciError(f"--cgroup: unknown controller {name} in {word!r}")
            parts[directories[name]] = path
    return [_beneath(directory, path) for directory, path in parts.items()], ""


def _beneath(directory: str, path: str) -> str:
    found = os.path.normpath(f"{directory}/{path}")
    if found != directory and not found.startswith(f"{directory}/"):
        raise OciError(f"--cgroup: {path} is not a sub cgroup path")
    if not os.path.isdir(found):
        raise OciError(f"--cgroup: adding pid to {found}/cgroup.procs: no such file or directory")
    return found


def _group_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            return ROOT + next(line[3:].rstrip("\n") for line in file if line.startswith("0::"))
    except (OSError, StopIteration):
        return ""  # it ends: so does the exec
