"""A child on its way to its program, followed by its parent.

Owns: `Spawned`, what the child says over their socket (`runtime.init` has the messages), ending one that does not get
there. Does not own: making it (`runtime.spawn`, `runtime.entering`). Standard library only.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable

from dockyard.linux import process
from dockyard.runtime.cgroups import Cgroup

_BUFFER = 8192
_ENDING = 200  # ms that a child may take to be gone when its namespaces are already


class SpawnFailed(Exception):
    """The container or the process could not be made; nothing of it is left. `code` as Docker's exit code."""

    def __init__(self, message: str, code: int = 128) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Spawned:
    """A child whose program runs, or (with a gate) is about to."""

    __slots__ = ("cgroup", "master", "on_listener", "pid", "pidfd", "place", "slave", "sync")

    def __init__(self, pid: int, pidfd: int, sync: socket.socket, cgroup: Cgroup | None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.sync = sync
        self.cgroup = cgroup
        self.place = ""  # the name of the cgroup before it became the container's
        self.master = -1  # terminal, or -1
        self.slave = -1
        self.on_listener: Callable[[int, int], None] | None = None


def describe(error: OSError) -> str:
    """An OSError's text without "[Errno N]", with the file that it names."""
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename is not None else text


def await_program(spawned: Spawned) -> None:
    """Follow the child until its program runs or waits at the gate. Raises SpawnFailed with its report."""
    while True:
        message, ancillary = receive(spawned.sync)
        if message == b"T":
            spawned.master, spawned.slave = struct.unpack("ii", ancillary[0][2])
            os.set_inheritable(spawned.master, False)
            os.set_inheritable(spawned.slave, False)
        elif message[:1] == b"L":
            _lend_listener(spawned, int(message[1:]))
        elif message == b"C":
            return
        elif not message:
            spawned.sync.close()
            return
        elif message[:1] == b"E":
            raise _failure(message)


def await_birth(spawned: Spawned) -> None:
    """The child makes another one and ends: that one is followed from now on. Raises SpawnFailed with its report."""
    message, ancillary = receive(spawned.sync)
    if message[:1] != b"P":
        raise _failure(message, "the process ended before its program")
    tell(spawned.sync, b"G")
    os.waitpid(spawned.pid, 0)  # it ends while the other goes on
    os.close(spawned.pidfd)
    spawned.pid, (spawned.pidfd,) = int(message[1:]), struct.unpack("i", ancillary[0][2])
    os.set_inheritable(spawned.pidfd, False)


def await_mounts(spawned: Spawned) -> None:
    """Hooks may add mounts of their own to those of the container. Raises SpawnFailed with the child's report."""
    message, _ = receive(spawned.sync)
    if message != b"M":
        raise _failure(message, "the container's first process ended")


def _failure(message: bytes, silent: str = "") -> SpawnFailed:
    """The child's report; `silent`: what is said of one that ended without."""
    code, _, text = message[1:].partition(b"\0")
    return SpawnFailed(text.decode("utf-8", "replace") or silent, int(code or 128))


def report(spawned: Spawned) -> SpawnFailed | None:
    """What the child has said if it is gone: that is why something that is done to it fails. None: it is there."""
    poll = select.poll()
    poll.register(spawned.pidfd, select.POLLIN)
    if not poll.poll(_ENDING):
        return None
    try:
        await_program(spawned)
    except SpawnFailed as failed:
        return failed
    return SpawnFailed("the container's first process ended before its program ran")


def _lend_listener(spawned: Spawned, number: int) -> None:
    fd = process.pidfd_getfd(spawned.pidfd, number)
    try:
        if spawned.on_listener is not None:
            spawned.on_listener(spawned.pid, fd)
    finally:
        os.close(fd)
    tell(spawned.sync, b"L")


def receive(sync: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """A message and what came with it. A child that ends before it reads what we sent has its end told first, as an
    error that passes, and then what it said."""
    for _ in range(2):
        try:
            return sync.recvmsg(_BUFFER, 64)[:2]
        except ConnectionResetError:
            continue
    return b"", []


def tell(sync: socket.socket, message: bytes) -> None:
    """Say something to the child, unless it is gone."""
    try:
        sync.send(message)
    except OSError:
        pass  # the child has failed already: its report is in the socket


def abandon(spawned: Spawned) -> None:
    """End a child that did not get to its program and let go of its descriptors."""
    spawned.sync.close()
    try:
        process.pidfd_send_signal(spawned.pidfd, 9)
    except ProcessLookupError:
        pass
    try:
        os.waitpid(spawned.pid, 0)
    except ChildProcessError:
        pass
    for fd in (spawned.pidfd, spawned.master, spawned.slave):
        if fd >= 0:
            os.close(fd)
