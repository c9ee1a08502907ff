"""A network namespace for an engine under test, and sockets made in it.

Owns: `NetNamespace`, a namespace held open by one child process that ends with us. Does not own: what happens in it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

CLONE_NEWNET = 0x40000000


def setns(fd: int) -> None:
    """Move the calling thread into the network namespace behind `fd`. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


@contextmanager
def entered(path: str) -> Iterator[None]:
    """The calling thread is in the network namespace at `path` inside the block, back where it was after it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            setns(home)
    finally:
        os.close(home)


class NetNamespace:
    """A private network namespace with `lo` up. The holder reads a pipe of ours, so it dies with this process."""

    def __init__(self) -> None:
        self._holder: subprocess.Popen[bytes] = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        output: IO[bytes] | None = self._holder.stdout
        assert output is not None
        if output.readline() != b"ready\n":
            raise RuntimeError("cannot make a network namespace (root, unshare and ip are needed)")
        self.path = f"/proc/{self._holder.pid}/ns/net"

    def close(self) -> None:
        for pipe in (self._holder.stdin, self._holder.stdout):
            if pipe is not None:
                pipe.close()
        self._holder.wait(timeout=10)

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command inside the namespace."""
        return subprocess.run(
            ["nsenter", f"--net={self.path}", *argv], capture_output=True, text=True, check=check, timeout=30
        )


def connect(path: str | None, host: str, port: int, timeout: float = 5.0) -> socket.socket:
    """A TCP connection made inside the namespace at `path` (None: ours), tried until `timeout` seconds are over."""
    end = time.monotonic() + timeout
    while True:
        try:
            if path is None:
                return socket.create_connection((host, port), timeout=timeout)
            with entered(path):
                return socket.create_connection((host, port), timeout=timeout)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
