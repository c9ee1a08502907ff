"""Starting the zygote so that nothing in a container can ever write to the interpreter it runs on.

Owns: the detached read-only clones of the interpreter's prefix and of site-packages, and the one process the daemon
executes. Does not own: what is said to the zygote (`runtime.client`), the copy of our own package (`runtime.sealed`).

open_tree(OPEN_TREE_CLONE), mount_setattr(read-only), then exec of the path beneath the descriptor with argv[0] the same
path: Python finds its library relative to it, so that everything it maps lies on a mount that answers writes with EROFS
(S1, CVE-2019-5736 with the interpreter as the target). The zygote stays in the host's mount namespace.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from typing import Any

from dockyard.linux import abi, mounts
from dockyard.runtime import importer

_CONTROL, _PREFIX, _CODE, _SITE = 3, 4, 5, 6  # descriptors in the zygote


def clone_read_only(path: str) -> int:
    """A descriptor of a detached, read-only, nosuid copy of the mounts at `path`."""
    tree = mounts.open_tree(abi.AT_FDCWD, path)
    try:
        mounts.set_attributes(tree, abi.MOUNT_ATTR_RDONLY | abi.MOUNT_ATTR_NOSUID, recursive=True)
    except OSError:
        os.close(tree)
        raise
    return tree


def start_zygote(control: socket.socket, errors: str, package: int) -> int:
    """Execute the zygote with `control` as its socket, `errors` as the file for what goes wrong in it and its children,
    `package` (a descriptor) as the copy of our modules; its pid (a child of this process). OSError."""
    prefix = os.path.realpath(sys.base_prefix)
    executable = os.path.realpath(f"/proc/{os.getpid()}/exe")
    sites = [p for p in sys.path if p.endswith(("site-packages", "dist-packages")) and os.path.isdir(p)]
    trees = [clone_read_only(path) for path in (prefix, *sites)]
    high: list[int] = []
    try:
        # first out of the way of the numbers they shall have, and open across the exec
        high = [_duplicate_high(fd) for fd in (control.fileno(), trees[0], package, *trees[1:])]
        places = range(_CONTROL, _CONTROL + len(high))
        actions: list[Any] = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, place) for fd, place in zip(high, places, strict=True)]
        python = f"/proc/self/fd/{_PREFIX}/{os.path.relpath(executable, prefix)}"
        code = importer.BEGIN % (_CODE, _CODE) + "from dockyard.runtime.zygote import main; main()"
        site_paths = [f"/proc/self/fd/{_SITE + i}" for i in range(len(sites))]
        arguments = [python, "-I", "-S", "-c", code, str(_CONTROL), errors, *site_paths]
        environment = {"LD_LIBRARY_PATH": f"/proc/self/fd/{_PREFIX}/lib"}  # libpython, where it is a shared object
        return os.posix_spawn(python, arguments, environment, file_actions=actions, setsigmask=[])
    finally:
        for fd in (*trees, *high):
            os.close(fd)


def _duplicate_high(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)
