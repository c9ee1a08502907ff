"""Room in a file system, taken before it is needed.

Owns: fallocate(2) beyond a file's end, which Python's posix_fallocate cannot do. Does not own: whose files.
"""

from __future__ import annotations

import ctypes
import os

from dockyard.linux.calls import failure, libc

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE


def keep_room(fd: int, size: int) -> None:
    """Let the file system set blocks aside for the first `size` bytes of a file, whose own size stays as it is: later
    writes there do not find the disk full. OSError (ENOSPC; EOPNOTSUPP where a file system knows no such thing)."""
    if libc.fallocate(ctypes.c_int(fd), ctypes.c_int(_KEEP_SIZE), ctypes.c_long(0), ctypes.c_long(size)) < 0:
        raise failure("fallocate", os.fspath(f"/proc/self/fd/{fd}"), size)
