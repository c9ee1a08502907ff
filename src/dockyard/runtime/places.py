"""Places inside a root that is not ours: where things are mounted, made if they are missing.

Owns: finding and making them by openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS) from the root's descriptor, so that no
link of an image leads out of it (S8, S9); what may be mounted in /proc. Does not own: what is mounted there
(`runtime.rootfs`, `runtime.devices`). Standard library only.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from dockyard.linux import abi, calls
from dockyard.linux.calls import openat2

INSIDE = abi.RESOLVE_IN_ROOT | abi.RESOLVE_NO_MAGICLINKS
PATH = os.O_PATH | os.O_CLOEXEC
_MOST_LINKS = 40  # as the kernel has it (path_resolution(7))
_REPLACEABLE: Final = frozenset((  # as with runc: what lxcfs serves, and what checkpoints and FIPS need
    "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
    "/proc/slabinfo", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
))  # fmt: skip


def open_target(root: int, path: str, directory: bool) -> int:
    """A descriptor of the mount point `path` inside `root`, made if it is missing (a directory or an empty file)."""
    try:
        return openat2(root, path, PATH, resolve=INSIDE)
    except FileNotFoundError:
        path = _followed(root, path)  # made where a link leads, if that is nowhere yet (/etc/resolv.conf of images)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    parent = make_directories(root, "/".join(parts if directory else parts[:-1]))
    if directory:
        return parent
    try:
        made = openat2(parent, parts[-1], os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644, INSIDE)
        os.close(made)
    except FileExistsError:
        pass
    finally:
        os.close(parent)
    return openat2(root, path, PATH, resolve=INSIDE)


def guard_proc(root: int, target: int, path: str, tree: int = -1) -> None:
    """Nothing with content that somebody chose is mounted at or in /proc, wherever links of the image led (S6, S7).

    `target`: what `path` was found to be; `tree`: what is to be bound there. Files and directories there are written to
    and trusted by everybody who sets up processes in the container (CVE-2019-19921, CVE-2025-52881). Procfs itself may
    be bound to /proc, and files that only tell something may be replaced (lxcfs). OSError in runc's words.
    """
    base = os.readlink(f"/proc/self/fd/{root}").rstrip("/")
    place = os.readlink(f"/proc/self/fd/{target}")[len(base) :]
    if (place != "/proc" and not place.startswith("/proc/")) or place in _REPLACEABLE:
        return
    if place == "/proc" and tree >= 0 and calls.filesystem_type(tree) == abi.PROC_SUPER_MAGIC:
        return
    reason = "it is not of type proc" if place == "/proc" else "it is inside /proc"
    raise OSError(errno.EPERM, f'error mounting to rootfs at "{path}": "{place}" cannot be mounted because {reason}')


def _followed(root: int, path: str) -> str:
    """`path` inside `root` without links, as far as it exists; what is beyond that are plain names. Who changes the
    tree meanwhile changes what is made, but not that it is made inside: that is up to who opens it."""
    done: list[str] = []
    ahead, links = path.split("/")[::-1], 0
    while ahead:
        part = ahead.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del done[-1:]
            continue
        done.append(part)
        try:
            found = openat2(root, "/".join(done), PATH | os.O_NOFOLLOW, resolve=INSIDE)
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(os.fstat(found).st_mode):
            target = os.readlink("", dir_fd=found)
            ahead.extend(target.split("/")[::-1])
            del done[0 if target.startswith("/") else -1 :]
            links += 1
        os.close(found)
        if links > _MOST_LINKS:
            raise OSError(40, "too many symbolic links", path)
    return "/".join(done)


def make_directories(root: int, path: str, mode: int = 0o755) -> int:
    """A descriptor of the directory `path` inside `root`; missing components are made."""
    current = os.dup(root)
    done = ""
    for part in path.split("/"):
        if part in ("", "."):
            continue
        done = f"{done}/{part}"
        try:
            below = openat2(root, done, PATH | os.O_DIRECTORY, resolve=INSIDE)
        except FileNotFoundError:
            if part == "..":
                raise
            try:
                os.mkdir(part, mode, dir_fd=current)
            except FileExistsError:
                pass
            below = openat2(root, done, PATH | os.O_DIRECTORY, resolve=INSIDE)
        os.close(current)
        current = below
    return current


def open_part(whole: int, path: str, what: str) -> int:
    """A descriptor of `path` below the directory `whole`; a link that leads out of it is an error, as a missing one."""
    try:
        return openat2(whole, path, PATH, resolve=abi.RESOLVE_BENEATH | abi.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        reason = "it leads out of it" if error.errno == 18 else os.strerror(error.errno or 0).lower()
        raise OSError(error.errno, f"subpath {path} of {what}: {reason}") from error
