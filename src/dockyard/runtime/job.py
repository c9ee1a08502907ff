"""What the child that becomes a container's process is told, filled by its parent before the fork.

Owns: `Job` and `Place`. Does not own: what is done with them (`runtime.init`). Standard library only.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from dockyard.linux import userns
from dockyard.runtime import network, users
from dockyard.runtime.cgroups import Cgroup


class Place:
    """Where an exec'd process goes in a container that is not as every other.

    `namespaces`: CLONE_NEW* to join beyond the usual ones; `shared`: those that the parent is in already; `root`: a
    descriptor of the directory that is the root, -1: that of the mount namespace; `groups`: the directories of control
    groups to be in instead of the container's; `beside`: that of its first process, for a group that takes none.
    """

    __slots__ = ("beside", "groups", "namespaces", "root", "shared")

    def __init__(self, namespaces: int = 0, shared: int = 0, root: int = -1) -> None:
        self.namespaces = namespaces
        self.shared = shared
        self.root = root
        self.groups: list[str] = []
        self.beside = ""


class Job:
    """What a child needs; filled by the parent before the fork."""

    __slots__ = (
        "among_hosts",
        "cgroup",
        "config",
        "console_size",
        "detached",
        "gate",
        "given",
        "held",
        "hierarchies",
        "init",
        "joins",
        "limited",
        "mounts",
        "network",
        "new_keyring",
        "new_network",
        "on_listener",
        "part",
        "pidfd",
        "pivot",
        "place",
        "preserved",
        "process",
        "rootfs",
        "seccomp",
        "sources",
        "state",
        "stdio",
        "step",
        "sync",
        "target",
        "terminal",
        "told",
        "unshare_cgroup",
        "users",
    )  # fmt: skip

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.process: dict[str, Any] = {}
        self.rootfs: dict[str, Any] = {}
        self.target = ""  # the directory the root is mounted over, in the new mount namespace
        self.sources: dict[int, int] = {}  # index in config.mounts -> detached tree
        self.given: list[int] = []  # detached trees that are given to the container's user
        self.cgroup: Cgroup | None = None
        self.part = ""  # exec: the part of the group to be in, made by the joining
        self.hierarchies: list[tuple[str, str]] = []
        self.unshare_cgroup = True
        self.joins: list[tuple[int, int]] = []  # (descriptor, CLONE_NEW* flag)
        self.mounts = -1  # a mount namespace to be in
        self.among_hosts = False  # there is none: its mounts are the host's
        self.held: userns.Held | None = None  # keeps the user namespace and what belongs to it until the child has them
        self.users: users.Users | None = None  # a user namespace of the container's own
        self.place: Place | None = None  # exec: where it goes, if not as in every container
        self.network: network.NetworkPlan | None = None
        self.new_network = False
        self.seccomp: bytes | None = None
        self.stdio: tuple[int, int, int] | None = None  # None: a terminal
        self.terminal = False
        self.console_size: list[int] | None = None
        self.init = False  # PID 1 is a reaper, the program its child
        self.gate = -1  # a FIFO to read one byte from before execve
        self.told = -1  # a FIFO for what fails behind the gate
        self.pidfd = -1  # of the container's first process: exec joins its namespaces
        self.detached = False  # it outlives its parent (the OCI command), instead of being killed with it
        self.preserved = 0  # descriptors above 2 that the program is given
        self.limited = False  # the caller is root of a user namespace only: no devices, no control groups that it likes
        self.pivot = True  # else the root is moved over the old one, for hosts whose root is a ramfs
        self.new_keyring = True
        self.on_listener: Callable[[int, int], None] | None = None  # the parent's, for a filter that notifies
        self.state: dict[str, Any] = {}  # what hooks are told, without status and pid
        self.step = "clone"  # what is being done, for the report of a failure
        self.sync: socket.socket
