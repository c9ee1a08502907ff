"""Limits on how much a directory tree may hold: project quotas (xfs, ext4) and quota groups (btrfs).

Owns: the ioctls and quotactl_fd(2) that this takes. Does not own: which trees are limited (`store.quotas`).
Sources: linux/fs.h (struct fsxattr), linux/dqblk_xfs.h (struct fs_disk_quota), linux/btrfs.h; quotactl_fd since 5.14.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

from dockyard.linux import abi

_FSXATTR = struct.Struct("=5I8s")  # xflags, extsize, nextents, projid, cowextsize, pad
_FSGETXATTR, _FSSETXATTR = 0x801C581F, 0x401C5820
_PROJINHERIT = 0x200
_PROJECT = 2  # PRJQUOTA
_XSETQLIM, _XGETQUOTA = 0x5804, 0x5803
_QUOTA = struct.Struct("=bBHI6QiiHHbbbb3QiHh8s")  # struct fs_disk_quota
_BSOFT, _BHARD = 1 << 2, 1 << 3
_PROJ_QUOTA_FLAG = 2
_BLOCK = 512
_BTRFS_QUOTA_CTL, _BTRFS_QGROUP_LIMIT, _BTRFS_RESCAN_WAIT = 0xC0109428, 0x8030942B, 0x942E
_BTRFS_MAX_REFERENCED = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def project(fd: int) -> int:
    """The project that a file or directory belongs to; 0: none."""
    return int(_get(fd)[3])


def set_project(fd: int, number: int) -> None:
    """A directory and what will be made in it belong to a project. OSError where there are no projects."""
    flags, extsize, nextents, _, cow, pad = _get(fd)
    fcntl.ioctl(fd, _FSSETXATTR, _FSXATTR.pack(flags | _PROJINHERIT, extsize, nextents, number, cow, pad))


def _get(fd: int) -> tuple[int, int, int, int, int, bytes]:
    return _FSXATTR.unpack(fcntl.ioctl(fd, _FSGETXATTR, bytes(_FSXATTR.size)))


def limit_project(fd: int, number: int, size: int) -> None:
    """All files of a project on the file system of `fd` may take `size` bytes; 0: no limit. OSError without quotas."""
    blocks = -(-size // _BLOCK)
    record = (1, _PROJ_QUOTA_FLAG, _BSOFT | _BHARD, number, blocks, blocks, 0, 0, 0, 0, *[0] * 8, 0, 0, 0, 0, 0, 0, b"")
    _quotactl(fd, _XSETQLIM, number, bytearray(_QUOTA.pack(*record)))


def project_in_use(fd: int, number: int) -> bool:
    """Whether a project has files or a limit. OSError ENOSYS, ESRCH… where project quotas are not on."""
    buffer = bytearray(_QUOTA.size)
    try:
        _quotactl(fd, _XGETQUOTA, number, buffer)
    except FileNotFoundError:
        return False  # ENOENT: nothing is known of this one
    found = _QUOTA.unpack(buffer)
    return bool(found[4] or found[8] or found[9])


def _quotactl(fd: int, command: int, number: int, buffer: bytearray) -> None:
    address = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    whole = ctypes.c_uint(command << 8 | _PROJECT)
    if _libc.syscall(abi.NR["quotactl_fd"], fd, whole, ctypes.c_uint(number), address) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"quotactl_fd({fd}, {command:#x}, project {number}): {os.strerror(error)}")


def limit_subvolume(fd: int, size: int) -> None:
    """The btrfs subvolume whose root `fd` is may refer to `size` bytes, shared ones included. Turns quotas on."""
    fcntl.ioctl(fd, _BTRFS_QUOTA_CTL, struct.pack("=QQ", 1, 0))
    fcntl.ioctl(fd, _BTRFS_RESCAN_WAIT)
    limit = struct.pack("=Q5Q", 0, _BTRFS_MAX_REFERENCED, size, 0, 0, 0)  # group 0: the subvolume's own
    fcntl.ioctl(fd, _BTRFS_QGROUP_LIMIT, limit)
