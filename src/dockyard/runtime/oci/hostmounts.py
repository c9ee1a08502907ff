"""A container without a mount namespace of its own: its root is mounted where the host sees it, and is a chroot.

Owns: that mount, which carries all others of the container, its identity in the container's directory, and taking it
away. Does not own: what is mounted in it (`runtime.rootfs`), that it is entered by chroot(2) (`runtime.init`).

All that such a container mounts lies upon this one mount, which is private: nothing of it spreads to other namespaces
but the mount itself, and one lazy unmount takes everything away. Its number is written down before it is mounted
anywhere, so that whoever is killed in between leaves nothing that `delete` does not find.
"""

from __future__ import annotations

import os
from typing import Any, Final

from dockyard.linux import abi, mounts
from dockyard.runtime.oci.containers import Container, write_whole

_FILE: Final = "ground"


def needed(linux: dict[str, Any]) -> bool:
    """Whether there is no mount namespace in `linux.namespaces`: the runtime's is inherited (config-linux.md)."""
    return not any(entry["type"] == "mount" for entry in linux.get("namespaces") or [])


def detach(container: Container, path: str, target: str) -> int:
    """A detached copy of the tree at `path`, for the container's first process to mount over `target`."""
    tree = mounts.open_tree(abi.AT_FDCWD, path)
    write_whole(container.file(_FILE), f"{_number(tree)} {target}".encode(errors="surrogateescape"))
    return tree


def take_away(container: Container) -> None:
    """Unmount it, if it is mounted, with all upon it."""
    try:
        with open(container.file(_FILE), encoding="utf-8", errors="surrogateescape") as file:
            number, _, target = file.read().partition(" ")
        at = os.open(target, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if _number(at) == int(number):
            mounts.umount(f"/proc/self/fd/{at}", abi.MNT_DETACH)
    finally:
        os.close(at)


def _number(fd: int) -> int:
    """The ID of the mount that `fd` is on: proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
