"""Kernel parameters that a container may set: those of namespaces that are not the host's.

Owns: which namespace a parameter belongs to, where it lies below /proc/sys, writing them from inside. Does not own:
which parameters a container gets by default (`runtime.bundle`). Standard library only. Sources: namespaces(7),
ipc_namespaces(7), sysctl(8), the kernel's Documentation/admin-guide/sysctl.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from dockyard.linux import procfs
from dockyard.runtime.program import ProgramFailed
from dockyard.runtime.users import Users

_OF_IPC: Final = ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
_FIELDS: Final = {"kernel/hostname": "hostname"}  # parameters that have a field of their own in config.json


def path_of(name: str) -> str:
    """Where a parameter lies below /proc/sys. With a slash as the first separator dots are part of the names, as in
    `net/ipv4/conf/eth0.100/forwarding`; else slashes are: `net.ipv4.conf.eth0/100.forwarding` (sysctl(8))."""
    dot, slash = name.find("."), name.find("/")
    if dot >= 0 and (slash < 0 or dot < slash):
        return name.translate({ord("."): "/", ord("/"): "."})
    return name


def refusal(sysctls: dict[str, str], namespaces: list[dict[str, Any]]) -> str:
    """Why the first of `sysctls` that would change the host cannot be set, or "". `namespaces`: linux.namespaces."""
    own = {each["type"] for each in namespaces if not _is_ours(each)}
    for name in sysctls:
        path = path_of(name)
        kind = _namespace_of(path)
        if not kind or {"", ".", ".."} & set(path.split("/")):
            return f"sysctl {name!r} is not in a separate kernel namespace"
        if field := _FIELDS.get(path):
            return f"sysctl {name!r} is not allowed: it conflicts with the field {field}"
        if kind not in own:
            return f"sysctl {name!r} is not allowed in the host's {kind} namespace"
    return ""


def _namespace_of(path: str) -> str:
    top, _, rest = path.partition("/")
    if top == "net" and rest:
        return "network"
    if path.startswith("fs/mqueue/") or (top == "kernel" and rest in _OF_IPC):
        return "ipc"
    return "uts" if path in ("kernel/domainname", "kernel/hostname") else ""


def _is_ours(entry: dict[str, Any]) -> bool:
    """Whether the namespace to join is that of the calling process."""
    if not entry.get("path"):
        return False
    try:
        name = "net" if entry["type"] == "network" else entry["type"]
        there, here = os.stat(entry["path"]), os.stat(f"/proc/self/ns/{name}")
    except OSError:
        return False  # joining it will say why
    return os.path.samestat(there, here)


def write(sysctls: dict[str, str], inside: Users | None = None) -> None:
    """Set them, in the container. Raises ProgramFailed.

    `inside`: some of the namespaces belong to the container's root, who alone may write some of these.
    """
    if inside is not None and sysctls:
        os.seteuid(inside.uid(0))
        try:
            write(sysctls)
        finally:
            os.seteuid(0)
            inside.act()
        return
    for name, value in sysctls.items():
        path = "sys/" + path_of(name)
        try:
            fd = procfs.open_to_write(path)
        except OSError as error:
            reason = error.strerror if error.errno == errno.EPERM else os.strerror(error.errno or 0)
            raise ProgramFailed(f"open sysctl {name} file: open /proc/{path}: {reason}") from None
        try:
            os.write(fd, value.encode())
        except OSError as error:
            raise ProgramFailed(f"write sysctl {name}={value!r}: {os.strerror(error.errno or 0)}") from None
        finally:
            os.close(fd)
