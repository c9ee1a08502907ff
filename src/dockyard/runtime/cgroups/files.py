"""Small file operations that both cgroup versions share."""

from __future__ import annotations

import os
import signal
import time
from typing import Any


def write(path: str, value: str) -> None:
    """Write one control file; the OSError names the file and the value."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {value!r} to {path}: {os.strerror(error.errno or 0)}") from error


def read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    finally:
        os.close(fd)


def tree_pids(directory: str) -> list[int]:
    """The pids in a cgroup directory and all beneath it."""
    found: list[int] = []
    for current, _, _ in os.walk(directory):
        try:
            found.extend(int(line) for line in read(f"{current}/cgroup.procs").split())
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != 95:  # EOPNOTSUPP: a threaded v2 cgroup has no processes of its own
                raise
    return found


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def remove_tree(directory: str, patience: float = 1.0) -> None:
    """rmdir a cgroup and its children, deepest first; EBUSY is waited out for `patience` seconds."""
    try:
        os.rmdir(directory)  # the usual case: no children
        return
    except FileNotFoundError:
        return
    except OSError:
        pass
    deadline = time.monotonic() + patience
    for current, _, _ in os.walk(directory, topdown=False):
        while True:
            try:
                os.rmdir(current)
                break
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.001)


def rdma_lines(resources: dict[str, Any]) -> list[str]:
    """OCI's rdma limits as the lines of rdma.max."""
    lines = []
    for device, limits in (resources.get("rdma") or {}).items():
        words = [(n, limits.get(k)) for n, k in (("hca_handle", "hcaHandles"), ("hca_object", "hcaObjects"))]
        lines.append(" ".join([device, *(f"{name}={value}" for name, value in words if value is not None)]))
    return lines
