"""How the kernel schedules a process, where its memory comes from, and as what system it presents itself to it.

Owns: sched_setattr(2), ioprio_set(2), set_mempolicy(2), sched_setaffinity(2), personality(2) with the names of the OCI
runtime-spec. Does not own: when.
Everything is bound at import. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Final

from dockyard.linux import abi
from dockyard.linux.calls import _syscall, failure, libc

PERSONALITIES: Final = {"LINUX": 0x0, "LINUX32": 0x8}
POLICIES: Final = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
SCHEDULER_FLAGS: Final = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip
IO_CLASSES: Final = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
MEMORY_MODES: Final = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
MEMORY_FLAGS: Final = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
_IOPRIO_WHO_PROCESS: Final = 1
_HIGHEST: Final = 1 << 16  # of a node or a CPU


class _SchedAttr(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32), ("policy", ctypes.c_uint32), ("flags", ctypes.c_uint64), ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32), ("runtime", ctypes.c_uint64), ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    ]  # fmt: skip


def set_personality(domain: str) -> None:
    """Of the calling process and what it executes."""
    if libc.personality(ctypes.c_ulong(PERSONALITIES[domain])) < 0:
        raise failure("personality", domain)


def set_scheduler(wanted: dict[str, Any]) -> None:
    """`process.scheduler` for the calling process."""
    flags = 0
    for name in wanted.get("flags") or ():
        flags |= SCHEDULER_FLAGS[name]
    attributes = _SchedAttr(
        ctypes.sizeof(_SchedAttr), POLICIES[wanted["policy"]], flags, wanted.get("nice") or 0,
        wanted.get("priority") or 0, wanted.get("runtime") or 0, wanted.get("deadline") or 0,
        wanted.get("period") or 0,
    )  # fmt: skip
    if _syscall(abi.NR["sched_setattr"], 0, ctypes.byref(attributes), 0) < 0:
        raise failure("sched_setattr", wanted["policy"])


def set_io_priority(wanted: dict[str, Any]) -> None:
    """`process.ioPriority` for the calling process."""
    value = IO_CLASSES[wanted["class"]] << 13 | (wanted.get("priority") or 0)
    if _syscall(abi.NR["ioprio_set"], _IOPRIO_WHO_PROCESS, 0, value) < 0:
        raise failure("ioprio_set", wanted["class"])


def set_memory_policy(wanted: dict[str, Any]) -> None:
    """`linux.memoryPolicy` for the calling process and what it executes."""
    mode = MEMORY_MODES[wanted["mode"]]
    for name in wanted.get("flags") or ():
        mode |= MEMORY_FLAGS[name]
    nodes = parse_list(wanted.get("nodes") or "")
    mask = sum(1 << node for node in set(nodes))
    size = max(nodes) // 64 + 1 if nodes else 0
    words = (ctypes.c_ulong * size)(*(mask >> 64 * at & (1 << 64) - 1 for at in range(size))) if size else None
    if _syscall(abi.NR["set_mempolicy"], mode, words, ctypes.c_ulong(size * 64 + 1 if size else 0)) < 0:
        raise failure("set_mempolicy", wanted["mode"], wanted.get("nodes") or "")


def set_affinity(cpus: str) -> None:
    """The CPUs that the calling process runs on, as `parse_list` has them. Nothing for "". OSError."""
    if cpus:
        try:
            os.sched_setaffinity(0, parse_list(cpus))
        except OSError as error:
            raise OSError(error.errno, f"sched_setaffinity({cpus}): {os.strerror(error.errno or 0)}") from error


def parse_list(text: str) -> list[int]:
    """ "0-2, 7" → [0, 1, 2, 7]. ValueError."""
    found: list[int] = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        first, dash, last = (each.strip() for each in part.partition("-"))
        low, high = int(first), int(last) if dash else int(first)
        if not 0 <= low <= high < _HIGHEST:
            raise ValueError(f"{part!r} is not a number or a range")
        found.extend(range(low, high + 1))
    return found
