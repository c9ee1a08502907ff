"""Places inside a root that is not ours: where things are mounted, made if they are missing.

Owns: finding and making them by openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS) from the root's descriptor, so that no
link of an image leads out of it (S8, S9). Does not own: what is mounted there (`runtime.rootfs`, `runtime.devices`).
Standard library only.
"""

from __future__ import annotations

import os
import stat

from dockyard.linux import abi
from dockyard.linux.calls import openat2

INSIDE = abi.RESOLVE_IN_ROOT | abi.RESOLVE_NO_MAGICLINKS
PATH = os.O_PATH | os.O_CLOEXEC
_MOST_LINKS = 40  # as the kernel has it (path_resolution(7))


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
