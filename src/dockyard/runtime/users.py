"""A container's user namespace: its ids and the host's, and the steps of a process into it.

Owns: `Users` (numbers inside → numbers of the host), acting as the container's root on the host's ground, becoming it.
Does not own: making the namespace (`linux.userns`), which ids these are (`runtime.remap`), mounting (`rootfs`).
Standard library only; runs in the container's first process and in exec'd ones.

The first process stays root of the host until it has made the container's ground: mounts, devices and cgroups need
that. What it makes there is the container root's all the same, because its file system ids are (setfsuid(2)): the
kernel makes no file on a mount with mapped owners for an id that has no place there. Then it joins the namespace, is
root there and nobody on the host, and takes its mounts into a mount namespace that belongs to it: there they are
locked.
"""

from __future__ import annotations

import os

from dockyard.linux import abi, calls, process, userns
from dockyard.runtime.program import ProgramFailed

OWN_KINDS = ("network", "ipc", "uts")  # namespaces that belong to the container's user namespace


class Users:
    """`uids`, `gids`: OCI's mappings. `namespace`: a descriptor of it, or a pidfd of a process in it."""

    __slots__ = ("_gids", "_uids", "mapped", "namespace")

    def __init__(self, uids: list[dict[str, int]], gids: list[dict[str, int]], namespace: int) -> None:
        self._uids = uids
        self._gids = gids
        self.namespace = namespace
        self.mapped: set[str] = set()  # directories of the store that are mounts with mapped owners in this process

    @classmethod
    def of_process(cls, pidfd: int) -> Users | None:
        """Those of a process; None if it is in the caller's namespace."""
        seen = userns.pid_in_procfs(pidfd)
        if os.stat(f"/proc/{seen}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino:
            return None
        return cls(userns.read_map(f"/proc/{seen}/uid_map"), userns.read_map(f"/proc/{seen}/gid_map"), pidfd)

    def uid(self, inside: int) -> int:
        """The host's number. ProgramFailed if it has none."""
        return _outside(self._uids, inside, "user")

    def gid(self, inside: int) -> int:
        return _outside(self._gids, inside, "group")

    def has_mapped(self, path: str) -> bool:
        """Whether what is at `path` is on a mount with mapped owners already: those cannot be mapped again."""
        return any(path.startswith(f"{base}/") for base in self.mapped)

    def act(self) -> None:
        """What this process makes from here on is the container root's; it may do what it could before."""
        calls.prctl(abi.PR_SET_SECUREBITS, abi.SECBIT_NO_SETUID_FIXUP)
        calls.set_filesystem_ids(self.uid(0), self.gid(0))

    def rest(self) -> None:
        """The end of `act`: what it makes is root's of the host again."""
        calls.set_filesystem_ids(0, 0)
        calls.prctl(abi.PR_SET_SECUREBITS, 0)

    def enter(self, *, own_mounts: bool) -> None:
        """Be the container's root and nothing else. `own_mounts`: and have the mounts in a namespace of its own."""
        process.setns(self.namespace, abi.CLONE_NEWUSER)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        if own_mounts:
            process.unshare(abi.CLONE_NEWNS)

    def option(self, text: str) -> str:
        """A mount's option: `uid=` and `gid=` are meant inside."""
        name, _, value = text.partition("=")
        if name == "uid" and value.isdecimal():
            return f"uid={self.uid(int(value))}"
        if name == "gid" and value.isdecimal():
            return f"gid={self.gid(int(value))}"
        return text


def ranges(mappings: list[dict[str, int]]) -> list[tuple[int, int, int]]:
    """As `linux.userns` wants them."""
    return [(each["containerID"], each["hostID"], each["size"]) for each in mappings]


def _outside(mappings: list[dict[str, int]], inside: int, what: str) -> int:
    for each in mappings:
        if 0 <= inside - each["containerID"] < each["size"]:
            return each["hostID"] + inside - each["containerID"]
    raise ProgramFailed(f"{what} {inside} is not among the ids of the container's user namespace", 126)
