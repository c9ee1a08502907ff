"""btrfs's subvolumes: made, snapshotted, deleted.

Owns: the three ioctls of linux/btrfs.h that this takes. Each directory is a descriptor, each name one component.
Does not own: where subvolumes lie and what for (`store.snapshots.drivers`).
"""

from __future__ import annotations

import fcntl
import os
import struct

from dockyard.linux.calls import filesystem_type

MAGIC = 0x9123683E  # of fstatfs(2)
ROOT_INODE = 256  # of every subvolume's root directory
_VOL_ARGS = struct.Struct("=q4088s")  # struct btrfs_ioctl_vol_args
_SNAP_CREATE, _SUBVOL_CREATE, _SNAP_DESTROY = 0x50009401, 0x5000940E, 0x5000940F  # _IOW(0x94, 1 | 14 | 15, vol_args)


def is_btrfs(fd: int) -> bool:
    return filesystem_type(fd) == MAGIC


def create(parent: int, name: str) -> None:
    """An empty subvolume, a directory as the umask says. OSError: ENOTTY where the file system is not btrfs."""
    _ioctl("BTRFS_IOC_SUBVOL_CREATE", _SUBVOL_CREATE, parent, name, 0)


def snapshot(source: int, parent: int, name: str) -> None:
    """A writable snapshot of the subvolume whose root `source` is. Takes no longer for a big one."""
    _ioctl("BTRFS_IOC_SNAP_CREATE", _SNAP_CREATE, parent, name, source)


def delete(parent: int, name: str) -> None:
    """Delete a subvolume with all that is in it. OSError ENOTEMPTY if there are subvolumes beneath."""
    _ioctl("BTRFS_IOC_SNAP_DESTROY", _SNAP_DESTROY, parent, name, 0)


def _ioctl(what: str, number: int, parent: int, name: str, source: int) -> None:
    encoded = os.fsencode(name)
    if not encoded or b"/" in encoded or len(encoded) > 255:
        raise ValueError(f"not a name: {name!r}")
    try:
        fcntl.ioctl(parent, number, bytearray(_VOL_ARGS.pack(source, encoded)))
    except OSError as error:
        raise OSError(error.errno, f"{what}({parent}, {name!r}): {os.strerror(error.errno or 0)}") from None
