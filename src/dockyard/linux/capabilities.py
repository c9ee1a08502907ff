"""Linux capabilities: names and numbers, and giving them up.

Owns: the table of names, the bounding set, capset(2) and the ambient set of the calling thread.
Does not own: which capabilities a container gets (`runtime.bundle`), changing user and group (`runtime.init`).

The order that holds (capabilities(7)), in a process that still has CAP_SETPCAP:

1. `apply_bounding(names)`: needs CAP_SETPCAP, so it comes before the change of user.
2. `keep_capabilities(True)`: otherwise leaving uid 0 empties the permitted set.
3. setgroups, setresgid, setresuid (they need CAP_SETGID and CAP_SETUID).
4. `set_capabilities(...)`: capset, then the ambient set, which must be within permitted and inheritable.
5. `keep_capabilities(False)`; execve clears the flag anyway, but a failed execve should not leave it.

A seccomp filter that is loaded without no_new_privs needs CAP_SYS_ADMIN and so goes before step 1; with it, after 4.

Everything here is callable after pivot_root: it imports nothing and opens nothing once the module is loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Final

# include/uapi/linux/capability.h; the index is the number.
NAMES: Final[tuple[str, ...]] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
NUMBERS: Final = {name: number for number, name in enumerate(NAMES)}

_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_EINVAL = 22
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    """struct __user_cap_data_struct; version 3 takes two, low and high 32 bits."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_DataPair = _Data * 2
_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_capset = _libc.capset
_capset.argtypes = (ctypes.POINTER(_Header), ctypes.POINTER(_Data))
_capget = _libc.capget
_capget.argtypes = (ctypes.POINTER(_Header), ctypes.POINTER(_Data))


def known() -> frozenset[str]:
    """Every capability that has a name, whether or not this kernel or process has it."""
    return frozenset(NAMES)


def bounding() -> frozenset[str]:
    """The names in the calling thread's bounding set: what a child can be given at most."""
    return frozenset(name for number, name in enumerate(NAMES) if _prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1)


def permitted() -> int:
    """The calling thread's permitted set as a bit mask. Raises OSError."""
    header, data = _Header(_VERSION_3, 0), _DataPair()
    if _capget(ctypes.byref(header), data) != 0:
        _fail("capget")
    return int(data[0].permitted) | int(data[1].permitted) << 32


def to_mask(names: Iterable[str]) -> int:
    """The bit mask of `names`. Names that the table does not have are left out: a kernel newer or older than the
    caller's idea of it must not keep a container from starting (the OCI runtime spec asks for a warning at most)."""
    mask = 0
    for name in names:
        number = NUMBERS.get(name)
        if number is not None:
            mask |= 1 << number
    return mask


def apply_bounding(names: Iterable[str]) -> None:
    """Take out of the bounding set everything that `names` does not have. Raises OSError (EPERM: no CAP_SETPCAP)."""
    keep = to_mask(names)
    for number in range(64):
        if not keep >> number & 1 and _prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            if ctypes.get_errno() == _EINVAL:
                return  # the kernel has no more
            _fail("prctl(PR_CAPBSET_DROP)")


def keep_capabilities(keep: bool) -> None:
    """PR_SET_KEEPCAPS: whether leaving uid 0 keeps the permitted set. Raises OSError."""
    if _prctl(_PR_SET_KEEPCAPS, int(keep), 0, 0, 0) != 0:
        _fail("prctl(PR_SET_KEEPCAPS)")


def set_capabilities(
    effective: Iterable[str], permitted_names: Iterable[str], inheritable: Iterable[str], ambient: Iterable[str]
) -> None:
    """Set the calling thread's capability sets; ambient comes last.

    What the thread has not permitted itself is left out rather than failed on: an engine that runs in a container
    lacks some, and «all capabilities» there means all that are left. Raises OSError.
    """
    available = permitted()
    allowed = to_mask(permitted_names) & available
    eff, inh = to_mask(effective) & allowed, to_mask(inheritable) & available
    low, high = 0xFFFFFFFF, 32
    data = _DataPair(_Data(eff & low, allowed & low, inh & low), _Data(eff >> high, allowed >> high, inh >> high))
    if _capset(ctypes.byref(_Header(_VERSION_3, 0)), data) != 0:
        _fail("capset")
    _set_ambient(to_mask(ambient) & allowed & inh)


def _set_ambient(mask: int) -> None:
    if _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0:
        _fail("prctl(PR_CAP_AMBIENT_CLEAR_ALL)")
    for number in range(len(NAMES)):
        if mask >> number & 1 and _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0) != 0:
            _fail("prctl(PR_CAP_AMBIENT_RAISE)")


def _fail(call: str) -> None:
    """Raise OSError for `call` with errno; no strerror, which may look for a message catalogue."""
    raise OSError(ctypes.get_errno(), call)
