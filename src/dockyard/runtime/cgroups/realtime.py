"""Real time for the groups above a container's (cgroup v1, kernels with CONFIG_RT_GROUP_SCHED).

Owns: `--cpu-rt-period` and `--cpu-rt-runtime` of the daemon: a group can only give what the one above it has, and a new
one has none. Does not own: a container's own share (`v1`). Source: Documentation/scheduler/sched-rt-group.rst.
"""

from __future__ import annotations

import os

from dockyard.runtime.cgroups import ROOT, v1, version
from dockyard.runtime.cgroups.files import write


def give_real_time(parent: str, period: int, runtime: int, root: str = ROOT) -> None:
    """Every group down to `parent` gets `runtime` µs of each `period` µs; 0 leaves a value as it is. Groups that are
    not there are made. OSError where the host has not got so much; nothing where it has no such groups."""
    top = v1.hierarchies(root).get("cpu") if version(root) == 1 else None
    if not (period or runtime) or top is None or not os.path.exists(f"{top}/cpu.rt_runtime_us"):
        return
    directory = top
    for part in parent.strip("/").split("/"):
        directory = f"{directory}/{part}"
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            pass
        if period:
            write(f"{directory}/cpu.rt_period_us", str(period))
        if runtime:
            write(f"{directory}/cpu.rt_runtime_us", str(runtime))
