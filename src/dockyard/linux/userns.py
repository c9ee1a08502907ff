"""User namespaces that nobody lives in: what an idmapped mount is told its mapping by, and a container's own.

Owns: making one with given ranges, with other namespaces that belong to it. Does not own: the mount
(`linux.mounts.set_attributes`), who joins. Standard library only.
Sources: user_namespaces(7), mount_setattr(2), pidfd_open(2).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

from dockyard.linux import abi, calls, process

Ranges = Sequence[
    Sequence[int]
]  # (id on disk, id to be seen, how many); of a container: (inside, on the host, how many)
_OK = b"ok"


def initial() -> bool:
    """Whether the caller's user namespace has every id for itself: the host's, and none that an ordinary user made."""
    with open("/proc/self/uid_map", "rb") as file:
        return file.read().split() == [b"0", b"0", b"4294967295"]


def open_mapping(uids: Ranges, gids: Ranges) -> int:
    """A descriptor of a new user namespace with these mappings. Needs CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID."""
    held = Held(uids, gids)
    try:
        return held.open("user")
    finally:
        held.close()


class Held:
    """A child that keeps a new user namespace, and others that belong to it (`flags`, CLONE_NEW*), until `close`.

    `joined`: a descriptor of a user namespace that is there, for `flags` to belong to. `write(pid, uids, gids)` writes
    the mappings of a process, where the caller may not do so itself. OSError if they cannot be made.
    Its process id is looked up in the procfs that is mounted, which need not be that of the caller's pid namespace.
    """

    def __init__(
        self,
        uids: Ranges,
        gids: Ranges,
        flags: int = 0,
        joined: int = -1,
        write: Callable[[int, Ranges, Ranges], None] | None = None,
    ) -> None:
        self._ready, made = os.pipe()
        wait, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _live_in_one(made, wait, (self._ready, self._go), flags, joined)
        os.close(made)
        os.close(wait)
        try:
            self._expect("a user namespace for a mapping of owners cannot be made")
            pidfd = os.pidfd_open(self.pid)
            try:
                self._seen = pid_in_procfs(pidfd)
            finally:
                os.close(pidfd)
            if joined < 0:
                (write or write_maps)(self._seen, uids, gids)
            if flags:
                os.write(self._go, b"m")
                self._expect("namespaces in a user namespace cannot be made")
        except BaseException:
            self.close()
            raise

    def _expect(self, problem: str) -> None:
        said = os.read(self._ready, 16)
        if said != _OK:
            raise OSError(int(said or b"5"), problem)

    def open(self, kind: str) -> int:
        """A descriptor of one of its namespaces, as /proc/PID/ns names them."""
        return os.open(f"/proc/{self._seen}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)

    def mappings(self) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
        """Of users and of groups, in OCI's shape, with the numbers of the caller's user namespace."""
        return read_map(f"/proc/{self._seen}/uid_map"), read_map(f"/proc/{self._seen}/gid_map")

    def close(self) -> None:
        """The child ends. Twice is once."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)  # the pipe's end would not do: others may have been forked with it
            os.close(self._ready)
            os.close(self._go)
            os.waitpid(self.pid, 0)
            self.pid = 0


def _live_in_one(made: int, wait: int, foreign: tuple[int, int], flags: int, joined: int) -> None:
    """The child: new namespaces until the parent has opened them. Does not return."""
    try:
        for fd in foreign:
            os.close(fd)
        calls.prctl(abi.PR_SET_PDEATHSIG, signal.SIGKILL)
        if joined < 0:
            process.unshare(abi.CLONE_NEWUSER)
        else:
            process.setns(joined, abi.CLONE_NEWUSER)
        os.write(made, _OK)
        if os.read(wait, 1) and flags:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            process.unshare(flags)
            os.write(made, _OK)
            os.read(wait, 1)
    except OSError as error:
        os.write(made, str(error.errno).encode())
    finally:
        os._exit(0)


def pid_in_procfs(pidfd: int) -> int:
    """The number that the mounted procfs has for a process. OSError if it does not show it."""
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        for line in file:
            if line.startswith(b"Pid:"):
                pid = int(line[4:])
                if pid > 0:
                    return pid
    raise OSError(3, "the procfs that is mounted does not show our processes")


def read_map(path: str) -> list[dict[str, int]]:
    """/proc/PID/uid_map in OCI's shape, as it is seen from the caller's user namespace (user_namespaces(7))."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(fd, 65536).decode().splitlines()
    finally:
        os.close(fd)
    return [dict(zip(("containerID", "hostID", "size"), map(int, line.split()), strict=True)) for line in lines]


def write_maps(pid: int, uids: Ranges, gids: Ranges) -> None:
    """Give the user namespace of a process its mappings. OSError."""
    write_map(f"/proc/{pid}/uid_map", uids)
    write_map(f"/proc/{pid}/gid_map", gids)


def write_map(path: str, ranges: Ranges) -> None:
    """One of /proc/PID/uid_map and gid_map. OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, "".join(f"{disk} {seen} {size}\n" for disk, seen, size in ranges).encode())
    finally:
        os.close(fd)
