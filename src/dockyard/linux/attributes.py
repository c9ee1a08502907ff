"""/proc/thread-self/attr: where a thread says which security label it, its next program and its keyrings get.

Owns: writing there and nowhere else, whatever a container has mounted. Does not own: what is written
(`linux.apparmor`, `linux.selinux`), opening it safely (`linux.procfs`). Source: proc(5). Standard library only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from dockyard.linux import procfs


def write(names: Iterable[str], value: str) -> None:
    """Write `value` into the first of the attributes `names` that this kernel has.

    /proc must be a whole proc file system with nothing mounted over the attribute (S6): a container that can choose
    what is mounted there must not choose what is written to. OSError: EPERM when it is not, ENOENT without such an
    attribute, EINVAL when the kernel knows no such label, EACCES when its policy forbids it.
    """
    fd = _open(names)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _open(names: Iterable[str]) -> int:
    for name in names:
        try:
            return procfs.open_to_write(f"thread-self/attr/{name}", links=True)
        except FileNotFoundError:
            continue
    raise OSError(errno.ENOENT, "this kernel has no such security attribute")
