"""Mounts: mount(2) and the mount API by descriptors.

Owns: thin wrappers of mount, umount2, pivot_root, open_tree, move_mount, mount_setattr, fsopen, fsconfig, fsmount,
and the parser of fstab-like options. Knows no container.
"""

from __future__ import annotations

import ctypes
import os

from dockyard.linux import abi
from dockyard.linux.calls import _syscall, failure, libc

FLAGS: dict[str, tuple[int, int]] = {  # option -> (mount(2) flags to set, flags to clear)
    "defaults": (0, 0),
    "ro": (abi.MS_RDONLY, 0),
    "rw": (0, abi.MS_RDONLY),
    "suid": (0, abi.MS_NOSUID),
    "nosuid": (abi.MS_NOSUID, 0),
    "dev": (0, abi.MS_NODEV),
    "nodev": (abi.MS_NODEV, 0),
    "exec": (0, abi.MS_NOEXEC),
    "noexec": (abi.MS_NOEXEC, 0),
    "sync": (abi.MS_SYNCHRONOUS, 0),
    "async": (0, abi.MS_SYNCHRONOUS),
    "dirsync": (abi.MS_DIRSYNC, 0),
    "remount": (abi.MS_REMOUNT, 0),
    "mand": (abi.MS_MANDLOCK, 0),
    "nomand": (0, abi.MS_MANDLOCK),
    "atime": (0, abi.MS_NOATIME),
    "noatime": (abi.MS_NOATIME, 0),
    "diratime": (0, abi.MS_NODIRATIME),
    "nodiratime": (abi.MS_NODIRATIME, 0),
    "bind": (abi.MS_BIND, 0),
    "rbind": (abi.MS_BIND | abi.MS_REC, 0),
    "relatime": (abi.MS_RELATIME, 0),
    "norelatime": (0, abi.MS_RELATIME),
    "strictatime": (abi.MS_STRICTATIME, 0),
    "nostrictatime": (0, abi.MS_STRICTATIME),
    "silent": (abi.MS_SILENT, 0),
    "loud": (0, abi.MS_SILENT),
    "lazytime": (abi.MS_LAZYTIME, 0),
    "nolazytime": (0, abi.MS_LAZYTIME),
    "iversion": (abi.MS_I_VERSION, 0),
    "noiversion": (0, abi.MS_I_VERSION),
    "nosymfollow": (abi.MS_NOSYMFOLLOW, 0),
    "symfollow": (0, abi.MS_NOSYMFOLLOW),
}
PROPAGATION = {
    "shared": abi.MS_SHARED,
    "slave": abi.MS_SLAVE,
    "private": abi.MS_PRIVATE,
    "unbindable": abi.MS_UNBINDABLE,
    "rshared": abi.MS_SHARED | abi.MS_REC,
    "rslave": abi.MS_SLAVE | abi.MS_REC,
    "rprivate": abi.MS_PRIVATE | abi.MS_REC,
    "runbindable": abi.MS_UNBINDABLE | abi.MS_REC,
}
ATTRIBUTES = {  # recursive options: mount_setattr attributes to set, to clear (those of atime are one value)
    "rro": (abi.MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, abi.MOUNT_ATTR_RDONLY),
    "rnosuid": (abi.MOUNT_ATTR_NOSUID, 0),
    "rsuid": (0, abi.MOUNT_ATTR_NOSUID),
    "rnodev": (abi.MOUNT_ATTR_NODEV, 0),
    "rdev": (0, abi.MOUNT_ATTR_NODEV),
    "rnoexec": (abi.MOUNT_ATTR_NOEXEC, 0),
    "rexec": (0, abi.MOUNT_ATTR_NOEXEC),
    "rnodiratime": (abi.MOUNT_ATTR_NODIRATIME, 0),
    "rdiratime": (0, abi.MOUNT_ATTR_NODIRATIME),
    "rnosymfollow": (abi.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rsymfollow": (0, abi.MOUNT_ATTR_NOSYMFOLLOW),
    "rnoatime": (abi.MOUNT_ATTR_NOATIME, abi.MOUNT_ATTR_ATIME),
    "ratime": (0, abi.MOUNT_ATTR_ATIME),
    "rrelatime": (abi.MOUNT_ATTR_RELATIME, abi.MOUNT_ATTR_ATIME),
    "rnorelatime": (0, abi.MOUNT_ATTR_ATIME),
    "rstrictatime": (abi.MOUNT_ATTR_STRICTATIME, abi.MOUNT_ATTR_ATIME),
    "rnostrictatime": (0, abi.MOUNT_ATTR_ATIME),
}
_ATTRIBUTE_OF_FLAG = (
    (abi.MS_RDONLY, abi.MOUNT_ATTR_RDONLY),
    (abi.MS_NOSUID, abi.MOUNT_ATTR_NOSUID),
    (abi.MS_NODEV, abi.MOUNT_ATTR_NODEV),
    (abi.MS_NOEXEC, abi.MOUNT_ATTR_NOEXEC),
    (abi.MS_NODIRATIME, abi.MOUNT_ATTR_NODIRATIME),
    (abi.MS_NOSYMFOLLOW, abi.MOUNT_ATTR_NOSYMFOLLOW),
)


class Options:
    """fstab-like options taken apart: mount(2) flags, propagation changes, recursive attributes, file system data."""

    __slots__ = ("clear_recursive", "cleared", "data", "flags", "propagation", "set_recursive")

    def __init__(self, options: list[str]) -> None:
        self.flags = 0
        self.cleared = 0
        self.propagation: list[int] = []
        self.set_recursive = 0
        self.clear_recursive = 0
        self.data: list[str] = []
        for option in options:
            if option in FLAGS:
                add, clear = FLAGS[option]
                self.flags = (self.flags & ~clear) | add
                self.cleared |= clear
            elif option in PROPAGATION:
                self.propagation.append(PROPAGATION[option])
            elif option in ATTRIBUTES:
                add, clear = ATTRIBUTES[option]
                self.set_recursive = (self.set_recursive & ~clear) | add
                self.clear_recursive = (self.clear_recursive & ~add) | clear
            else:
                self.data.append(option)

    def attributes(self) -> tuple[int, int]:
        """The per-mount flags as mount_setattr (set, clear) masks: for binds."""
        add = clear = 0
        for flag, attribute in _ATTRIBUTE_OF_FLAG:
            if self.flags & flag:
                add |= attribute
            elif self.cleared & flag:
                clear |= attribute
        atime = {abi.MS_NOATIME: abi.MOUNT_ATTR_NOATIME, abi.MS_STRICTATIME: abi.MOUNT_ATTR_STRICTATIME}
        for flag, attribute in atime.items():
            if self.flags & flag:
                add |= attribute
                clear |= abi.MOUNT_ATTR_ATIME
        if self.flags & abi.MS_RELATIME:
            clear |= abi.MOUNT_ATTR_ATIME
        return add, clear


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    arguments = (source.encode(), os.fsencode(target), fstype.encode(), ctypes.c_ulong(flags), data.encode() or None)
    if libc.mount(*arguments) < 0:
        raise failure("mount", source, target, fstype, hex(flags), data)


def mount_overlay(target: str, lower: list[str], upper: str, work: str, more: str = "") -> None:
    """A writable overlay; paths may be relative. OSError also where the kernel, for lack of room in `work`, would have
    made it read-only without a word to its caller (ovl_make_workdir)."""
    places = f"lowerdir={':'.join(lower)},upperdir={upper},workdir={work}"
    mount("overlay", target, "overlay", 0, f"{places},index=off,metacopy=off,redirect_dir=off{more}")
    if os.statvfs(target).f_flag & os.ST_RDONLY:
        probe = f"{work}/probe"
        os.mkdir(probe, 0o700)
        os.rmdir(probe)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    if libc.umount2(os.fsencode(target), flags) < 0:
        raise failure("umount2", target, flags)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    if _syscall(abi.NR["pivot_root"], os.fsencode(new), os.fsencode(old)) < 0:
        raise failure("pivot_root", new, old)


def open_tree(directory: int, path: str, *, clone: bool = True, recursive: bool = True, follow: bool = True) -> int:
    """open_tree(2): a descriptor of a (detached copy of a) mount tree."""
    flags = abi.OPEN_TREE_CLOEXEC
    flags |= abi.OPEN_TREE_CLONE if clone else 0
    flags |= abi.AT_RECURSIVE if clone and recursive else 0
    flags |= 0 if follow else abi.AT_SYMLINK_NOFOLLOW
    flags |= 0 if path else abi.AT_EMPTY_PATH
    fd = int(_syscall(abi.NR["open_tree"], directory, os.fsencode(path), flags))
    if fd < 0:
        raise failure("open_tree", directory, path, hex(flags))
    return fd


def new_tree(fstype: str, *, read_only: bool = False, **options: str) -> int:
    """A descriptor of a new file system, mounted nowhere: fsopen(2), fsmount(2). It goes with the descriptor."""
    context = _syscall(abi.NR["fsopen"], ctypes.c_char_p(fstype.encode()), abi.FSOPEN_CLOEXEC)
    if context < 0:
        raise failure("fsopen", fstype)
    try:
        for name, value in options.items():
            if _syscall(abi.NR["fsconfig"], context, abi.FSCONFIG_SET_STRING, name.encode(), value.encode(), 0) < 0:
                raise failure("fsconfig", fstype, name, value)
        if read_only and _syscall(abi.NR["fsconfig"], context, abi.FSCONFIG_SET_FLAG, b"ro", None, 0) < 0:
            raise failure("fsconfig", fstype, "ro")
        if _syscall(abi.NR["fsconfig"], context, abi.FSCONFIG_CMD_CREATE, None, None, 0) < 0:
            raise failure("fsconfig", fstype)
        attributes = abi.MOUNT_ATTR_RDONLY if read_only else 0
        tree = _syscall(abi.NR["fsmount"], context, abi.FSMOUNT_CLOEXEC, attributes)
        if tree < 0:
            raise failure("fsmount", fstype)
        return int(tree)
    finally:
        os.close(context)


def move_mount(tree: int, target: int, path: str = "") -> None:
    """move_mount(2): attach the detached mount `tree` at descriptor `target` (or `path` beneath it)."""
    flags = abi.MOVE_MOUNT_F_EMPTY_PATH | (0 if path else abi.MOVE_MOUNT_T_EMPTY_PATH)
    if _syscall(abi.NR["move_mount"], tree, b"", target, os.fsencode(path), flags) < 0:
        raise failure("move_mount", tree, target, path)


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


_MOUNT_ATTR_SIZE = ctypes.c_size_t(ctypes.sizeof(_MountAttr))


def set_attributes(
    tree: int, add: int, clear: int = 0, *, recursive: bool = False, propagation: int = 0, userns: int = 0
) -> None:
    """mount_setattr(2) on the mount at descriptor `tree`. `userns`: of MOUNT_ATTR_IDMAP."""
    attributes = _MountAttr(add, clear, propagation, userns)
    flags = abi.AT_EMPTY_PATH | (abi.AT_RECURSIVE if recursive else 0)
    if _syscall(abi.NR["mount_setattr"], tree, b"", flags, ctypes.byref(attributes), _MOUNT_ATTR_SIZE) < 0:
        raise failure("mount_setattr", tree, hex(add), hex(clear), recursive)
