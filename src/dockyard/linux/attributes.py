"""/proc/thread-self/attr: where a thread says which security label it, its next program and its keyrings get.

Owns: writing there and nowhere else, whatever a container has mounted. Does not own: what is written
(`linux.apparmor`, `linux.selinux`). Source: proc(5), openat2(2). Standard library only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from dockyard.linux import abi, calls

_ROOT_INODE = 1  # of the root of every proc file system (PROC_ROOT_INO)
_RESOLVE = abi.RESOLVE_BENEATH | abi.RESOLVE_NO_XDEV | abi.RESOLVE_NO_MAGICLINKS


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
    root = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if calls.filesystem_type(root) != abi.PROC_SUPER_MAGIC or os.fstat(root).st_ino != _ROOT_INODE:
            raise OSError(errno.EPERM, "/proc is not a proc file system")
        for name in names:
            try:
                return calls.openat2(root, f"thread-self/attr/{name}", os.O_WRONLY | os.O_CLOEXEC, resolve=_RESOLVE)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise OSError(errno.EPERM, f"/proc/thread-self/attr/{name} has something mounted over it") from None
                raise
    finally:
        os.close(root)
    raise OSError(errno.ENOENT, "this kernel has no such security attribute")
