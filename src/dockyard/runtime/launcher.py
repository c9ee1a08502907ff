"""Starting the zygote so that nothing in a container can ever write to the interpreter it runs on.

Owns: the detached read-only clones of the interpreter's prefix, of this package and of site-packages, and the one
process the daemon executes. Does not own: what is said to the zygote (`runtime.client`).

open_tree(OPEN_TREE_CLONE), mount_setattr(read-only), then exec of the path beneath the descriptor with argv[0] the same
path: Python finds its library relative to it, so that everything it maps lies on a mount that answers writes with EROFS
(S1, CVE-2019-5736 with the interpreter as the target). The zygote stays in the host's mount namespace.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from pathlib import Path
from typing import Any

import dockyard
from dockyard.linux import abi, mounts

_CONTROL, _PREFIX, _PACKAGE, _SITE = 3, 4, 5, 6  # descriptors in the zygote


def clone_read_only(path: str) -> int:
    """A descriptor of a detached, read-only, nosuid copy of the mounts at `path`."""
    tree = mounts.open_tree(abi.AT_FDCWD, path)
    try:
        mounts.set_attributes(tree, abi.MOUNT_ATTR_RDONLY | abi.MOUNT_ATTR_NOSUID, recursive=True)
    except OSError:
        os.close(tree)
        raise
    return tree


def start_zygote(control: socket.socket, errors: str) -> int:
    """Execute the zygote with `control` as its socket, `errors` as the file for what goes wrong in it and its children;
    its pid (a child of this process). OSError."""
    prefix = os.path.realpath(sys.base_prefix)
    executable = os.path.realpath(f"/proc/{os.getpid()}/exe")
    package = str(Path(dockyard.__file__).resolve().parent.parent)
    sites = [p for p in sys.path if p.endswith(("site-packages", "dist-packages")) and os.path.isdir(p)]
    trees = [clone_read_only(prefix), clone_read_only(package), *(clone_read_only(site) for site in sites)]
    high: list[int] = []
    try:
        # first out of the way of the numbers they shall have, and open across the exec
        high = [_duplicate_high(fd) for fd in (control.fileno(), *trees)]
        places = range(_CONTROL, _CONTROL + len(high))
        actions: list[Any] = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, place) for fd, place in zip(high, places, strict=True)]
        python = f"/proc/self/fd/{_PREFIX}/{os.path.relpath(executable, prefix)}"
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from dockyard.runtime.zygote import main; main()"
        site_paths = [f"/proc/self/fd/{_SITE + i}" for i in range(len(sites))]
        arguments = [python, "-I", "-S", "-c", code, f"/proc/self/fd/{_PACKAGE}", str(_CONTROL), errors]
        arguments += site_paths
        environment = {"LD_LIBRARY_PATH": f"/proc/self/fd/{_PREFIX}/lib"}  # libpython, where it is a shared object
        return os.posix_spawn(python, arguments, environment, file_actions=actions, setsigmask=[])
    finally:
        for fd in (*trees, *high):
            os.close(fd)


def _duplicate_high(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)
