"""AppArmor's two files that a process needs: is it on, and which profile the next program gets.

Source: Documentation/admin-guide/LSM/apparmor.rst, aa_change_onexec(2). Standard library only.
"""

from __future__ import annotations

import errno
import os

from dockyard.linux import abi, calls

_ENABLED = "/sys/module/apparmor/parameters/enabled"
_PLACES = ("/proc/thread-self/attr/apparmor/exec", "/proc/thread-self/attr/exec")  # Linux 5.8 has the first


def enabled() -> bool:
    """Whether this kernel confines by AppArmor."""
    try:
        with open(_ENABLED) as file:
            return file.read(1) == "Y"
    except OSError:
        return False


def change_on_exec(profile: str) -> None:
    """The next execve(2) of this thread puts it under `profile` ("unconfined": under none).

    Raises OSError: ENOENT when no such profile is loaded, EPERM when /proc is not the kernel's.
    """
    fd = -1
    for path in _PLACES:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            break
        except FileNotFoundError:
            continue
    if fd < 0:
        raise OSError(errno.ENOENT, "this kernel has no AppArmor")
    try:
        if calls.filesystem_type(fd) != abi.PROC_SUPER_MAGIC:
            raise OSError(errno.EPERM, "/proc is not a proc file system")
        os.write(fd, f"exec {profile}".encode())
    finally:
        os.close(fd)
