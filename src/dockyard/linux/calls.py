"""System calls that Python's standard library does not offer, one thin typed wrapper each.

Owns: the ctypes call into libc, `OSError` with the call's name and arguments. Knows nothing of containers. Everything
is bound at import: after a fork and a pivot_root nothing here imports, opens or looks up anything.
Does not own: mounts (`linux.mounts`), namespaces and processes (`linux.process`).
"""

from __future__ import annotations

import ctypes
import os

from dockyard.linux import abi

# PyDLL keeps the GIL: these calls are short, and a raw clone must not drop the GIL in between.
libc = ctypes.PyDLL(None, use_errno=True)
_syscall = libc.syscall
_syscall.restype = ctypes.c_long
_prctl = libc.prctl
_prctl.restype = ctypes.c_int


def failure(call: str, *arguments: object) -> OSError:
    """The OSError for a call that just failed: errno from ctypes, the call in the text."""
    number = ctypes.get_errno()
    shown = ", ".join(repr(a) for a in arguments)
    return OSError(number, f"{call}({shown}): {os.strerror(number)}")


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_OPEN_HOW_SIZE = ctypes.c_size_t(ctypes.sizeof(_OpenHow))


def openat2(directory: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = abi.RESOLVE_IN_ROOT) -> int:
    """openat2(2): a descriptor, close-on-exec. `resolve` are RESOLVE_* flags. EAGAIN is tried again."""
    name = os.fsencode(path)
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(1000):
        fd = int(_syscall(abi.NR["openat2"], directory, name, ctypes.byref(how), _OPEN_HOW_SIZE))
        if fd >= 0:
            return fd
        if ctypes.get_errno() != 11:  # EAGAIN: a rename raced with the walk beneath the root
            break
    raise failure("openat2", directory, path, oct(flags), hex(resolve))


def prctl(option: int, argument: int | bytes = 0) -> int:
    """prctl(2) with one argument."""
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    result = int(_prctl(option, value, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))
    if result < 0:
        raise failure("prctl", option, argument)
    return result


def set_filesystem_ids(uid: int, gid: int) -> None:
    """setfsgid(2), setfsuid(2): whose files it makes. They report no failure: it is looked for."""
    for call, wanted in ((libc.setfsgid, gid), (libc.setfsuid, uid)):
        call(ctypes.c_uint(wanted))
        if call(ctypes.c_uint(0xFFFFFFFF)) != wanted:  # an id that cannot be tells the one that is
            raise OSError(1, "the file system ids of a process cannot be set")


def close_range_cloexec(first: int) -> None:
    """Mark every descriptor from `first` on close-on-exec: close_range(2), Linux 5.11."""
    if _syscall(abi.NR["close_range"], ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), abi.CLOSE_RANGE_CLOEXEC) < 0:
        raise failure("close_range", first)


def sethostname(name: bytes) -> None:
    if libc.sethostname(name, ctypes.c_size_t(len(name))) < 0:
        raise failure("sethostname", name)


def setdomainname(name: bytes) -> None:
    if libc.setdomainname(name, ctypes.c_size_t(len(name))) < 0:
        raise failure("setdomainname", name)


def join_session_keyring(name: bytes) -> None:
    """A session keyring of our own: keyctl(2) KEYCTL_JOIN_SESSION_KEYRING."""
    if _syscall(abi.NR["keyctl"], abi.KEYCTL_JOIN_SESSION_KEYRING, name, 0, 0, 0) < 0:
        raise failure("keyctl", "JOIN_SESSION_KEYRING", name)


def default_internal_signals() -> None:
    """SIG_DFL for the two signals that libc keeps to itself (32, 33): its posix_spawn leaves them ignored, and an
    ignored signal stays so through fork and execve. libc's own sigaction refuses them."""
    action = ctypes.create_string_buffer(32)  # struct kernel_sigaction: handler SIG_DFL, no flags, empty mask
    for number in (32, 33):
        if _syscall(abi.NR["rt_sigaction"], number, action, None, ctypes.c_size_t(8)) < 0:
            raise failure("rt_sigaction", number)


def keep_heap_small() -> None:
    """mallopt(3): buffers of 16 KiB and more are mapped and unmapped one by one, free memory at the top goes back."""
    for parameter, value in ((_M_MMAP_THRESHOLD, 16384), (_M_TRIM_THRESHOLD, 32768), (_M_TOP_PAD, 0)):
        libc.mallopt(parameter, value)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


class _Statfs(ctypes.Structure):
    _fields_ = [("f_type", ctypes.c_long), ("rest", ctypes.c_char * 256)]


def keep_heap() -> None:
    """Let large blocks that are freed be used again instead of going back to the kernel, mallopt(3).

    For a short-lived process that moves much data: fresh pages cost it more than all that it does with them.
    """
    libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TOP_PAD, 1 << 20)


def filesystem_type(fd: int) -> int:
    """The magic number of the file system that `fd` lies on: fstatfs(2)."""
    buffer = _Statfs()
    if libc.fstatfs(fd, ctypes.byref(buffer)) < 0:
        raise failure("fstatfs", fd)
    return int(buffer.f_type)
