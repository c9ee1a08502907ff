"""Which limits this host's control groups can hold.

Owns: `CgroupFacts` and looking once. Does not own: what follows for a container that asks for another limit
(`engine.resources`).

Some files are in children only (`io.weight`, `blkio.bfq.weight`): it looks into our own parent group, which it makes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dockyard.runtime import hostfiles
from dockyard.runtime.cgroups import ROOT, open_cgroup, version

PARENT = "dockyard"  # of every container that names no other


@dataclass(frozen=True, slots=True)
class CgroupFacts:
    """What can be limited on this host."""

    version: int
    memory_limit: bool = False
    memory_reservation: bool = False
    swap_limit: bool = False
    swappiness: bool = False
    oom_kill_disable: bool = False
    kernel_memory_tcp: bool = False
    cpu_shares: bool = False
    cpu_quota: bool = False
    cpu_realtime: bool = False
    cpuset: bool = False
    pids_limit: bool = False
    blkio_weight: bool = False
    blkio_weight_device: bool = False
    blkio_throttle: bool = False
    mems: str = ""  # the memory nodes that a cpuset may have, as the kernel lists them; "": not known


# Each fact with the files (without their controller's directory on v1) any one of which is needed.
_V1 = {
    "memory_limit": ("memory/memory.limit_in_bytes",),
    "memory_reservation": ("memory/memory.soft_limit_in_bytes",),
    "swap_limit": ("memory/memory.memsw.limit_in_bytes",),
    "swappiness": ("memory/memory.swappiness",),
    "oom_kill_disable": ("memory/memory.oom_control",),
    "kernel_memory_tcp": ("memory/memory.kmem.tcp.limit_in_bytes",),
    "cpu_shares": ("cpu/cpu.shares",),
    "cpu_quota": ("cpu/cpu.cfs_quota_us",),
    "cpu_realtime": ("cpu/cpu.rt_runtime_us",),
    "cpuset": ("cpuset/cpuset.cpus",),
    "pids_limit": ("pids/pids.max",),
    "blkio_weight": ("blkio/blkio.weight", "blkio/blkio.bfq.weight"),
    "blkio_weight_device": ("blkio/blkio.weight_device", "blkio/blkio.bfq.weight_device"),
    "blkio_throttle": ("blkio/blkio.throttle.read_bps_device",),
}
_V2 = {
    "memory_limit": ("memory.max",),
    "memory_reservation": ("memory.low",),
    "swap_limit": ("memory.swap.max",),
    "cpu_shares": ("cpu.weight",),
    "cpu_quota": ("cpu.max",),
    "cpuset": ("cpuset.cpus",),
    "pids_limit": ("pids.max",),
    "blkio_weight": ("io.weight", "io.bfq.weight"),
    "blkio_weight_device": ("io.weight", "io.bfq.weight"),
    "blkio_throttle": ("io.max",),
}


def read_facts(root: str = ROOT) -> CgroupFacts:
    """Look at this host. Where our parent group cannot be made, what is seen in the roots counts."""
    try:
        open_cgroup(PARENT, root).create()
    except OSError:
        pass
    if version(root) == 2:
        found = {fact: any(os.path.exists(f"{root}/{PARENT}/{n}") for n in names) for fact, names in _V2.items()}
        return CgroupFacts(version=2, mems=hostfiles.text(f"{root}/cpuset.mems.effective").strip(), **found)
    found = {fact: any(_in_v1(root, n) for n in names) for fact, names in _V1.items()}
    return CgroupFacts(version=1, mems=hostfiles.text(f"{root}/cpuset/cpuset.mems").strip(), **found)


def _in_v1(root: str, name: str) -> bool:
    controller, _, file = name.partition("/")
    return any(os.path.exists(f"{root}/{controller}{place}/{file}") for place in (f"/{PARENT}", ""))
