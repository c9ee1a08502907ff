"""Files that must never be on a disk: the secrets of a RUN, while it runs.

Owns: where they lie (the container's run directory if that is on a tmpfs, else a directory of ours in /dev/shm), taking
them away, sweeping what a killed daemon left. Does not own: mounting them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from dockyard.linux.calls import filesystem_type

_TMPFS: Final = 0x01021994  # statfs(2), TMPFS_MAGIC
_SHARED: Final = Path("/dev/shm")


class SecretFiles:
    """For one exec root."""

    def __init__(self, exec_root: Path, shared: Path = _SHARED) -> None:
        tag = hashlib.sha256(os.fsencode(exec_root)).hexdigest()[:12]
        self._prefix = f"dockyard-secrets-{tag}-"
        self._shared = shared
        self._in_memory = _is_tmpfs(exec_root)

    def directory(self, run_directory: str, stack: ExitStack) -> str:
        """A directory (0700) for the secrets of one container; `stack` takes it away with all that is in it."""
        place = run_directory
        if not self._in_memory and _is_tmpfs(self._shared):
            place = str(self._shared)
        made = tempfile.mkdtemp(prefix=self._prefix, dir=place)
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        return made

    def sweep(self) -> None:
        """Delete what a daemon that was killed has left in shared places (run directories are swept as they are)."""
        try:
            entries = list(os.scandir(self._shared))
        except OSError:
            return
        for entry in entries:
            if not entry.name.startswith(self._prefix):
                continue
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                shutil.rmtree(entry.path, ignore_errors=True)


def write(path: str, data: bytes, mode: int, uid: int, gid: int) -> None:
    """A new file. OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)


def _is_tmpfs(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return filesystem_type(fd) == _TMPFS
    finally:
        os.close(fd)
