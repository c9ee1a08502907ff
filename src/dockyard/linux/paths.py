"""File-system calls that Python's standard library does not offer and that may take long.

Owns: syncfs(2), the probe of overlayfs, the mark that spreads a directory's children. Does not own: openat2
(`linux.calls`). The interpreter's lock is given up during the call: it waits for the disk.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys

from dockyard.linux import abi

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def syncfs(fd: int) -> None:
    """Wait until everything on the file system of `fd` is on disk: syncfs(2)."""
    if _libc.syncfs(fd) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"syncfs({fd}): {os.strerror(number)}")


_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000


def spread_children(fd: int) -> bool:
    """Let the directory's children lie all over the disk: FS_TOPDIR_FL of ioctl_iflags(2). Whether that was possible.

    ext4 puts what lies in a directory near it, and passes over inodes that were deleted a moment ago one by one: where
    one tree has just gone, making the next takes three times as long.
    """
    flags = bytearray(8)
    try:
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
        wanted = int.from_bytes(flags[:4], sys.byteorder) | _FS_TOPDIR_FL
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, wanted.to_bytes(4, sys.byteorder) + bytes(4))
    except OSError:
        return False  # a file system that knows no such mark, or a user who may not set it
    return True


def probe_overlay(lower: int, upper: int, work: int) -> None:
    """Mount an overlay of three directories (descriptors), attached nowhere, and let it go. OSError: it does not work.

    The options are those that containers are mounted with.
    """
    options = [(b"source", b"overlay"), (b"index", b"off"), (b"metacopy", b"off"), (b"redirect_dir", b"off")]
    for key, fd in ((b"lowerdir", lower), (b"upperdir", upper), (b"workdir", work)):
        options.append((key, b"/proc/self/fd/%d" % fd))
    context = _call("fsopen", b"overlay", abi.FSOPEN_CLOEXEC)
    try:
        for key, value in options:
            _call("fsconfig", context, abi.FSCONFIG_SET_STRING, key, value, 0)
        _call("fsconfig", context, abi.FSCONFIG_CMD_CREATE, None, None, 0)
        os.close(_call("fsmount", context, abi.FSMOUNT_CLOEXEC, 0))
    finally:
        os.close(context)


def _call(name: str, *arguments: bytes | int | None) -> int:
    result = int(_libc.syscall(abi.NR[name], *arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")
    return result
