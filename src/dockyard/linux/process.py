"""Processes and namespaces: clone, setns, unshare, pidfds.

Owns: creation of processes in namespaces and identities that do not suffer from pid reuse.
Does not own: what runs in them.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from dockyard.linux import abi
from dockyard.linux.calls import _syscall, failure, libc

NAMESPACE_FLAGS = {
    "pid": abi.CLONE_NEWPID,
    "network": abi.CLONE_NEWNET,
    "mount": abi.CLONE_NEWNS,
    "ipc": abi.CLONE_NEWIPC,
    "uts": abi.CLONE_NEWUTS,
    "user": abi.CLONE_NEWUSER,
    "cgroup": abi.CLONE_NEWCGROUP,
    "time": abi.CLONE_NEWTIME,
}
"""OCI namespace type -> CLONE_NEW* flag."""


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


_CLONE_ARGS_SIZE = ctypes.c_size_t(ctypes.sizeof(_CloneArgs))


def clone(flags: int = 0, cgroup: int = -1) -> tuple[int, int]:
    """Fork into new namespaces: clone3(2). Returns (pid, pidfd) in the parent and (0, -1) in the child.

    Only for single-threaded processes: Python's at-fork hooks do not run. `cgroup`: a descriptor of a v2 cgroup to be
    born in (CLONE_INTO_CGROUP).
    """
    pidfd = ctypes.c_int(-1)
    death = 0 if flags & abi.CLONE_PARENT else signal.SIGCHLD  # a sibling takes over ours
    arguments = _CloneArgs(flags | abi.CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, death)
    if cgroup >= 0:
        arguments.flags |= abi.CLONE_INTO_CGROUP
        arguments.cgroup = cgroup
    pid = int(_syscall(abi.NR["clone3"], ctypes.byref(arguments), _CLONE_ARGS_SIZE))
    if pid < 0:
        raise failure("clone3", hex(flags))
    return (pid, pidfd.value) if pid else (0, -1)


def close_others(*keep: int) -> None:
    """Close every descriptor of this process but `keep`: for children that live on by themselves."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                pass  # the directory's own


def unshare(flags: int) -> None:
    if libc.unshare(flags) < 0:
        raise failure("unshare", hex(flags))


def setns(fd: int, flags: int) -> None:
    """Join namespaces: `fd` is a namespace file, or a pidfd with any set of CLONE_NEW* flags (Linux 5.8)."""
    if libc.setns(fd, flags) < 0:
        raise failure("setns", fd, hex(flags))


@contextmanager
def in_mounts(namespace: int) -> Iterator[None]:
    """Be in another mount namespace for a moment: root and working directory are its root meanwhile, and ours
    afterwards. One thread only; whoever looks a name up there looks at what is not ours."""
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(namespace, abi.CLONE_NEWNS)
        try:
            yield
        finally:
            setns(home, abi.CLONE_NEWNS)
    finally:
        os.close(home)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Signal a process by descriptor; any signal number, also real-time ones."""
    if _syscall(abi.NR["pidfd_send_signal"], pidfd, number, None, 0) < 0:
        raise failure("pidfd_send_signal", pidfd, number)


def pidfd_getfd(pidfd: int, number: int) -> int:
    """Our own copy of another process's descriptor `number`, close-on-exec: pidfd_getfd(2), Linux 5.6."""
    fd = int(_syscall(abi.NR["pidfd_getfd"], pidfd, number, 0))
    if fd < 0:
        raise failure("pidfd_getfd", pidfd, number)
    return fd


def start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat in clock ticks since boot; with the pid, a process's identity. OSError if gone."""
    return int(_after_name(pid)[19])


def is_stopped(pid: int, started: int = 0) -> bool:
    """Whether a signal has stopped it, or a tracer. `started`: when it must have been started, 0: whenever."""
    try:
        fields = _after_name(pid)
    except OSError:
        return False
    return fields[0] in (b"T", b"t") and started in (0, int(fields[19]))


def _after_name(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on, which is field 3: proc(5)."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).rpartition(b")")[2].split()
    finally:
        os.close(fd)


def open_process(pid: int, started: int) -> int:
    """A pidfd for exactly the process (pid, start time); ProcessLookupError when it is another or gone."""
    fd = os.pidfd_open(pid)
    try:
        if start_time(pid) == started:
            return fd
    except OSError:
        pass
    os.close(fd)
    raise ProcessLookupError(3, f"process {pid} started at {started} is gone")
