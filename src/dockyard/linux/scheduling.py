"""How the kernel schedules a process, and as what system it presents itself to it.

Owns: sched_setattr(2), ioprio_set(2), personality(2) with the names of the OCI runtime-spec. Does not own: when.
Everything is bound at import. Standard library only.
"""

from __future__ import annotations

import ctypes
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
_IOPRIO_WHO_PROCESS: Final = 1


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
