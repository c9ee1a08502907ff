"""Files of /proc that are written to in a container, whatever that has mounted there.

Owns: opening the very file that was meant, or nothing (S6, CVE-2025-52881). Does not own: what is written
(`linux.attributes`, `runtime.sysctls`). Source: proc(5), openat2(2). Standard library only.
"""

from __future__ import annotations

import errno
import os

from dockyard.linux import abi, calls

_ROOT_INODE = 1  # of the root of every proc file system (PROC_ROOT_INO)
_RESOLVE = abi.RESOLVE_BENEATH | abi.RESOLVE_NO_XDEV | abi.RESOLVE_NO_MAGICLINKS


def open_to_write(path: str, *, links: bool = False) -> int:
    """A descriptor of `path` below /proc.

    /proc has to be a whole proc file system, with nothing mounted on the way: a container that can choose what is
    mounted there must not choose what is written to. `links`: symbolic links of procfs itself (thread-self) are
    followed. OSError: EPERM when it is not so, else open(2)'s.
    """
    root = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if calls.filesystem_type(root) != abi.PROC_SUPER_MAGIC or os.fstat(root).st_ino != _ROOT_INODE:
            raise OSError(errno.EPERM, "/proc is not a proc file system")
        resolve = _RESOLVE if links else _RESOLVE | abi.RESOLVE_NO_SYMLINKS
        return calls.openat2(root, path, os.O_WRONLY | os.O_CLOEXEC, resolve=resolve)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.ELOOP):
            raise OSError(errno.EPERM, f"/proc/{path} has something mounted over it") from None
        raise
    finally:
        os.close(root)
