"""/dev of a container: the nodes and links that every container has, and those that its configuration names.

Owns: making them, or binding the host's where none may be made. Does not own: the mount at /dev (`runtime.rootfs`), the
rules of who may use them (`runtime.cgroups`). Runs in the container's first process before the root is changed;
standard library only. Source: OCI runtime-spec 1.3, config-linux.md, "Devices".
"""

from __future__ import annotations

import os
import stat
from typing import Any

from dockyard.linux import mounts
from dockyard.linux.calls import openat2
from dockyard.runtime.places import INSIDE, PATH, make_directories, open_target
from dockyard.runtime.users import Users

_DEV_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
_DEVICES = (  # those that every OCI container has: config-linux.md, "Default Devices"
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)


def make(root: int, devices: list[dict[str, Any]], users: Users | None = None, *, bound: bool = False) -> None:
    """/dev of the container: the default nodes and links, then config.linux.devices. Only on a /dev of its own.

    `bound`: nodes are the host's, bound, because the caller may make none.
    """
    os.close(make_directories(root, "dev"))
    dev = openat2(root, "dev", PATH | os.O_DIRECTORY, resolve=INSIDE)
    for name, major, minor in _DEVICES:
        if bound:
            _bind_node(root, f"dev/{name}", stat.S_IFCHR, os.makedev(major, minor), {})
            continue
        try:
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
        except FileExistsError:
            continue  # a bind put one there
    for device in devices:
        kind = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}[device["type"]]
        number = os.makedev(device["major"], device["minor"]) if kind != stat.S_IFIFO else 0
        if bound and number:
            _bind_node(root, device["path"].lstrip("/"), kind, number, device)
            continue
        mode = kind | (0o666 if device.get("fileMode") is None else device["fileMode"])
        uid, gid = device.get("uid") or 0, device.get("gid") or 0
        if users is not None:
            uid, gid = users.uid(uid), users.gid(gid)
        _make_node(root, device["path"].lstrip("/"), mode, number, uid, gid)
    for target, name in _DEV_LINKS:
        try:
            os.symlink(target, name, dir_fd=dev)
        except FileExistsError:
            continue
    os.close(dev)


def _bind_node(root: int, name: str, kind: int, number: int, wanted: dict[str, Any]) -> None:
    """The host's node of this name. OSError if it is another one, or has not the mode and owner that are wanted."""
    try:
        node = os.open(f"/{name}", PATH | os.O_NOFOLLOW)
    except OSError as error:
        raise OSError(error.errno, f"/{name} cannot be made without root, and the host has none") from error
    found = os.fstat(node)
    if (stat.S_IFMT(found.st_mode), found.st_rdev) != (kind, number):
        raise OSError(1, f"/{name} cannot be made without root, and that of the host is another device")
    mode = wanted.get("fileMode")
    if (mode is not None and mode & 0o777 != stat.S_IMODE(found.st_mode)) or wanted.get("uid") or wanted.get("gid"):
        raise OSError(1, f"/{name}: fileMode, uid and gid of a device cannot be set without root")
    target = open_target(root, name, False)
    status = os.fstat(target)
    if (stat.S_IFMT(status.st_mode), status.st_rdev) != (kind, number):  # else a mount put it there
        tree = mounts.open_tree(node, "", recursive=False)
        mounts.move_mount(tree, target)
        os.close(tree)
    os.close(target)
    os.close(node)


def _make_node(root: int, name: str, mode: int, number: int, uid: int, gid: int) -> None:
    head, _, tail = name.rpartition("/")
    parent = make_directories(root, head)
    try:
        os.mknod(tail, mode, number, dir_fd=parent)
        os.chown(tail, uid, gid, dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        pass  # a bind put one there
    finally:
        os.close(parent)
