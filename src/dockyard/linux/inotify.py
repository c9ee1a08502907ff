"""Be told when files grow, move or go: inotify(7).

Owns: one inotify instance and the parsing of its events. Does not own: who is interested (`store.journal.follow`).
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final, NamedTuple

from dockyard.linux.calls import failure, libc

# include/uapi/linux/inotify.h
IN_MODIFY: Final = 0x00000002
IN_ATTRIB: Final = 0x00000004
IN_MOVE_SELF: Final = 0x00000800
IN_DELETE_SELF: Final = 0x00000400
IN_Q_OVERFLOW: Final = 0x00004000
IN_IGNORED: Final = 0x00008000

_HEADER: Final = struct.Struct("iIII")  # wd, mask, cookie, length of the name
_BUFFER: Final = 16 * 1024


class Change(NamedTuple):
    watch: int  # what `add` returned; -1 when events were lost (IN_Q_OVERFLOW)
    mask: int


class Inotify:
    """One inotify instance. Non-blocking; `fileno()` is readable when there are changes."""

    def __init__(self) -> None:
        """OSError EMFILE at the user's limit of instances (fs.inotify.max_user_instances)."""
        self._fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if self._fd < 0:
            raise failure("inotify_init1")

    def fileno(self) -> int:
        return self._fd

    def add(self, path: str | os.PathLike[str], mask: int) -> int:
        """Watch what `path` names. The same file gives the same number again, with the new mask.

        OSError ENOSPC at the user's limit of watches (fs.inotify.max_user_watches).
        """
        name = os.fsencode(path)
        watch = int(libc.inotify_add_watch(self._fd, name, ctypes.c_uint32(mask)))
        if watch < 0:
            raise failure("inotify_add_watch", name, hex(mask))
        return watch

    def remove(self, watch: int) -> None:
        """Stop watching; a watch that the kernel removed itself (its file is gone) is fine."""
        libc.inotify_rm_watch(self._fd, watch)

    def read(self) -> list[Change]:
        """What has changed since; empty when nothing has."""
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return []
        changes, at = [], 0
        while at < len(data):
            watch, mask, _, length = _HEADER.unpack_from(data, at)
            changes.append(Change(watch, mask))
            at += _HEADER.size + length
        return changes

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
