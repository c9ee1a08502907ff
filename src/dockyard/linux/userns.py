"""User namespaces that nobody lives in: what an idmapped mount is told its mapping by.

Owns: making one with given ranges. Does not own: the mount (`linux.mounts.set_attributes`). Standard library only.
Sources: user_namespaces(7), mount_setattr(2), pidfd_open(2).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from dockyard.linux import abi, calls, process

Ranges = Sequence[Sequence[int]]  # (id on disk, id to be seen, how many)


def open_mapping(uids: Ranges, gids: Ranges) -> int:
    """A descriptor of a new user namespace with these mappings. Needs CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID.

    A child makes it and ends. Its process id is looked up in the procfs that is mounted, which need not be that of
    the caller's pid namespace.
    """
    ready, made = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        _live_in_one(made, wait, (ready, go))
    os.close(made)
    os.close(wait)
    try:
        problem = os.read(ready, 16)
        if problem != b"ok":
            raise OSError(int(problem or b"5"), "a user namespace for a mapping of owners cannot be made")
        pidfd = os.pidfd_open(pid)
        try:
            seen = _pid_in_procfs(pidfd)
        finally:
            os.close(pidfd)
        _write(f"/proc/{seen}/uid_map", uids)
        _write(f"/proc/{seen}/gid_map", gids)
        return os.open(f"/proc/{seen}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.close(go)  # the child ends
        os.waitpid(pid, 0)


def _live_in_one(made: int, wait: int, foreign: tuple[int, int]) -> None:
    """The child: a new user namespace until the parent has opened it. Does not return."""
    try:
        for fd in foreign:
            os.close(fd)
        calls.prctl(abi.PR_SET_PDEATHSIG, signal.SIGKILL)
        process.unshare(abi.CLONE_NEWUSER)
        os.write(made, b"ok")
        os.read(wait, 1)
    except OSError as error:
        os.write(made, str(error.errno).encode())
    finally:
        os._exit(0)


def _pid_in_procfs(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        for line in file:
            if line.startswith(b"Pid:"):
                pid = int(line[4:])
                if pid > 0:
                    return pid
    raise OSError(3, "the procfs that is mounted does not show our processes")


def _write(path: str, ranges: Ranges) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, "".join(f"{disk} {seen} {size}\n" for disk, seen, size in ranges).encode())
    finally:
        os.close(fd)
