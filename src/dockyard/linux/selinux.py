"""SELinux as a process sees it: is it on, what has which context, what its next program, keyring and files get.

Owns: selinuxfs, the attributes of a thread, the extended attribute of files. Knows no container and no policy: a
context is a text ("user:role:type:level"). Source: Documentation/admin-guide/LSM/SELinux.rst, setexeccon(3),
selinux(8). Standard library only.
"""

from __future__ import annotations

import errno
import os

from dockyard.linux import abi, attributes, calls

XATTR = "security.selinux"
_FILESYSTEM = "/sys/fs/selinux"
_NO_LABELS = (errno.ENOTSUP, errno.EOPNOTSUPP)


def enabled() -> bool:
    """Whether the kernel has SELinux, a policy is loaded, and this process may use it: selinuxfs is there, writable."""
    fd = _filesystem()
    if fd < 0:
        return False
    os.close(fd)
    return process_context() not in ("", "kernel")  # "kernel": there is no policy yet


def enforcing() -> bool:
    """Whether what the policy does not allow is refused, not only logged."""
    try:
        with open(f"{_FILESYSTEM}/enforce") as file:
            return file.read(1) == "1"
    except OSError:
        return False


def known(context: str) -> bool:
    """Whether the loaded policy knows this context."""
    try:
        fd = os.open(f"{_FILESYSTEM}/context", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, context.encode() + b"\0")
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def process_context(pid: int | str = "self") -> str:
    """The context of a process; "" where there is none to be read."""
    try:
        with open(f"/proc/{pid}/attr/current", "rb") as file:
            return file.read().rstrip(b"\n\0").decode(errors="replace")
    except OSError:
        return ""


def file_context(path: str) -> str:
    """The context of what is at `path`, a link itself; "" where it has none."""
    try:
        return os.getxattr(path, XATTR, follow_symlinks=False).rstrip(b"\0").decode(errors="replace")
    except OSError as error:
        if error.errno in (errno.ENODATA, *_NO_LABELS):
            return ""
        raise


def set_file(path: str, context: str) -> bool:
    """Label what is at `path`, a link itself; whether its file system takes labels. OSError."""
    try:
        os.setxattr(path, XATTR, context.encode() + b"\0", follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LABELS:
            return False
        raise
    return True


def set_exec(context: str) -> None:
    """The next execve(2) of this thread puts it into `context`. OSError: see `attributes.write`."""
    attributes.write(("exec",), context)


def set_keyring(context: str) -> None:
    """Keyrings that this thread makes until its next execve(2) get `context`. OSError."""
    attributes.write(("keycreate",), context)


def set_current(context: str) -> None:
    """Put this process, which has one thread, into `context` now. OSError: few policies allow that."""
    attributes.write(("current",), context)


def mount_option(context: str) -> str:
    """The option of mount(2) that gives everything on a new mount `context`, whatever its files say."""
    return f'context="{context}"'


def _filesystem() -> int:
    """A descriptor of selinuxfs; -1 where it is not mounted, or is read-only, as containers may see it."""
    try:
        fd = os.open(_FILESYSTEM, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1
    if calls.filesystem_type(fd) == abi.SELINUX_MAGIC and not os.statvfs(fd).f_flag & os.ST_RDONLY:
        return fd
    os.close(fd)
    return -1
