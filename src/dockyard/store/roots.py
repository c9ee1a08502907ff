"""A container's file system as a directory descriptor, for worker processes.

Owns: `standing` (the root of a container that runs, in its own mount namespace; of one that does not, its layers
mounted with its volumes in a mount namespace of the worker's), names resolved beneath such a root and never outside,
which file systems are the kernel's own. Does not own: what is read or written there (`store.reading`,
`store.extracting`).

The worker stays on the host's ground: it steps into a running container's mount namespace for one open(2) and comes
back, so nothing of Python is ever looked up in the container. All that follows are system calls on descriptors beneath
the root, with RESOLVE_IN_ROOT and without magic links: symbolic links lead where they would lead the container,
whatever it does to them meanwhile (S20-S22, S24).

A `place` says which: {"pid", "start_time"} of a first process, and or only {"rootfs": a `runtime.launch.Rootfs`,
"mounts": [{"source", "destination", "read_only", "subpath", "image": a Rootfs without a writable part}], "read_only":
of the root, "writable": whether what is written has to last}.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from dockyard.linux import abi, mounts, process
from dockyard.linux.calls import filesystem_type, openat2
from dockyard.model.errors import Unavailable

RESOLVE: Final = abi.RESOLVE_IN_ROOT | abi.RESOLVE_NO_MAGICLINKS
_PATH: Final = os.O_PATH | os.O_CLOEXEC
_DIRECTORY: Final = _PATH | os.O_DIRECTORY
_MAX_LINKS: Final = 40
_THROWAWAY: Final = "r"  # a directory of the store that a tmpfs hides while a worker only reads
# Views of the kernel, of a namespace that the worker is not in: they are no content of a container.
_KERNELS_OWN: Final = frozenset({
    0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x1CD1, 0x19800202, 0x64626720, 0x74726163, 0x73636673, 0xCAFE4A11,
    0x6165676C, 0xDE5E81E4, 0x42494E4D, 0x62656570, 0xF97CFF8C, 0x6E736673, 0x65735543,
})  # fmt: skip  # proc, sysfs, cgroup 1 and 2, devpts, mqueue, debugfs, tracefs, securityfs, bpf, pstore, efivarfs, …


@contextmanager
def standing(place: dict[str, Any], *, mounted: bool = True) -> Iterator[int]:
    """A descriptor (O_PATH) of the container's root directory. `mounted`: with what is mounted beneath it.

    Unavailable if it was to run and does not run any more. OSError of what cannot be mounted. One thread only.
    """
    users = _foreign_users(place["pid"], place["start_time"]) if "pid" in place else -1
    if "pid" in place and (mounted or users < 0):
        root, held = _enter(place["pid"], place["start_time"], mounted)
        _take_ids(users)
    else:  # of a user namespace's root no copy without its mounts can be had: it would show what they hide
        root, held = _assemble(place, mounted), -1
    try:
        yield root
    finally:
        os.close(root)
        if held >= 0:
            os.close(held)
        if users >= 0:
            os.close(users)


def _enter(pid: int, started: int, mounted: bool) -> tuple[int, int]:
    """(the root of a process's mount namespace, a descriptor that keeps that namespace)."""
    namespace = _namespace_of(pid, started, "mnt")
    try:
        with process.in_mounts(namespace):
            root = os.open("/", _DIRECTORY) if mounted else mounts.open_tree(abi.AT_FDCWD, "/", recursive=False)
        return root, namespace
    except BaseException:
        os.close(namespace)
        raise


def _namespace_of(pid: int, started: int, name: str) -> int:
    """A descriptor of a process's namespace. Unavailable if the process has ended."""
    found = -1
    try:
        found = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(process.open_process(pid, started))  # it was there before, and is there after: it was this one's
    except OSError:
        if found >= 0:
            os.close(found)
        raise Unavailable("the container has ended") from None
    return found


def _foreign_users(pid: int, started: int) -> int:
    """A descriptor of a process's user namespace; -1 if it is ours."""
    theirs = _namespace_of(pid, started, "user")
    if os.fstat(theirs).st_ino != os.stat("/proc/self/ns/user").st_ino:
        return theirs
    os.close(theirs)
    return -1


def _take_ids(users: int) -> None:
    """Be root in the container's user namespace: owners are the numbers seen inside, and nothing is reached that it
    could not reach. For good: this worker ends with its work."""
    if users >= 0:
        process.setns(users, abi.CLONE_NEWUSER)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


# --- one that does not run -------------------------------------------------------------------------------------------


def _assemble(place: dict[str, Any], mounted: bool) -> int:
    process.unshare(abi.CLONE_NEWNS)
    mounts.mount("", "/", "", abi.MS_SLAVE | abi.MS_REC)  # nothing gets out; what the host unmounts goes here too
    wanted = sorted(place.get("mounts") or (), key=lambda entry: entry["destination"].count("/")) if mounted else []
    sources = [(entry, _open_source(entry)) for entry in wanted]  # the root may hide where they are
    root = _mount_root(place["rootfs"], writable=place.get("writable", False))
    for entry, tree in sources:
        if tree >= 0:
            _bind(root, entry, tree)
    if place.get("read_only"):
        mounts.set_attributes(root, abi.MOUNT_ATTR_RDONLY)
    return root


def _mount_root(rootfs: dict[str, Any], *, writable: bool) -> int:
    """The root in this mount namespace. An overlay that is only read is not the container's own: it has the writable
    layer, if there is one (an image has none), as its topmost lower one, and what the mounts need of directories ends
    in a tmpfs."""
    if rootfs["type"] != "overlay":
        return _mount_directory(rootfs["path"])
    base = rootfs["base"]
    os.chdir(base)  # short relative names: mount(2) cuts its options at a page
    lower, upper, work = rootfs["lower"], rootfs.get("upper", ""), rootfs.get("work", "")
    if not writable:
        mounts.mount("tmpfs", _THROWAWAY, "tmpfs", 0, "mode=700")
        lower = [upper, *lower] if upper else lower
        upper, work = f"{_THROWAWAY}/u", f"{_THROWAWAY}/w"
        found = os.stat(lower[0])
        for directory in (upper, work):
            os.mkdir(directory, 0o700)
        os.chown(upper, found.st_uid, found.st_gid)  # it lends its attributes to the root
        os.chmod(upper, stat.S_IMODE(found.st_mode))
        os.utime(upper, ns=(found.st_atime_ns, found.st_mtime_ns))
    mounts.mount_overlay(base, lower, upper, work)
    os.chdir("/")
    return os.open(base, _DIRECTORY)


def _mount_directory(path: str) -> int:
    """The directory as a mount of its own, so that mounting on it and making it read-only concerns nobody else."""
    tree, at = mounts.open_tree(abi.AT_FDCWD, path), os.open(path, _DIRECTORY)
    try:
        mounts.move_mount(tree, at)
    finally:
        os.close(tree)
        os.close(at)
    return os.open(path, _DIRECTORY)


def _open_source(entry: dict[str, Any]) -> int:
    """A detached tree of what an entry of "mounts" names; -1 for what only a start will make, or refuse."""
    image = entry.get("image")
    try:
        if image is None:
            return _open_part(entry["source"], entry)
        if image["type"] == "directory":
            return _open_part(image["path"], entry)
        os.chdir(image["base"])
        mounts.mount("overlay", _THROWAWAY, "overlay", abi.MS_RDONLY, f"lowerdir={':'.join(image['lower'])}")
        os.chdir("/")
        return _open_part(f"{image['base']}/{_THROWAWAY}", entry)
    except (FileNotFoundError, NotADirectoryError):
        return -1


def _open_part(source: str, entry: dict[str, Any]) -> int:
    if not entry.get("subpath"):
        return mounts.open_tree(abi.AT_FDCWD, source)
    whole = os.open(source, _DIRECTORY)
    try:
        part = openat2(whole, entry["subpath"], _PATH, resolve=abi.RESOLVE_BENEATH | abi.RESOLVE_NO_MAGICLINKS)
    finally:
        os.close(whole)
    try:
        return mounts.open_tree(part, "")
    finally:
        os.close(part)


def _bind(root: int, entry: dict[str, Any], tree: int) -> None:
    """Put a volume or bind where it belongs. What was opened is mounted, and where: by descriptors (S21)."""
    try:
        target = make_target(root, entry["destination"], directory=stat.S_ISDIR(os.fstat(tree).st_mode))
        try:
            if entry.get("read_only"):
                mounts.set_attributes(tree, abi.MOUNT_ATTR_RDONLY, recursive=True)
            mounts.move_mount(tree, target)
        finally:
            os.close(target)
    finally:
        os.close(tree)


def make_target(root: int, destination: str, *, directory: bool) -> int:
    """What is at `destination` (O_PATH), made with everything above it where it is missing."""
    try:
        return openat2(root, destination, _PATH, 0, RESOLVE)
    except FileNotFoundError:
        pass
    done = ""
    parts = [part for part in destination.split("/") if part not in ("", ".")]
    at = os.dup(root)
    try:
        for depth, part in enumerate(parts, 1):
            done = f"{done}/{part}"
            try:
                below = openat2(root, done, _PATH, 0, RESOLVE)
            except FileNotFoundError:
                if depth == len(parts) and not directory:
                    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=at))
                else:
                    os.mkdir(part, 0o755, dir_fd=at)
                below = openat2(root, done, _PATH, 0, RESOLVE)
            os.close(at)
            at = below
        return os.dup(at)
    finally:
        os.close(at)


# --- names beneath a root --------------------------------------------------------------------------------------------


def absolute(path: bytes) -> bytes:
    """A client's path from the root: cleaned as text, a final `/` or `/.` kept, for it asks for a directory."""
    cleaned = posixpath.normpath(b"/" + path.lstrip(b"/"))
    if path.rstrip(b"/").rpartition(b"/")[2] == b".":
        cleaned += b"." if cleaned.endswith(b"/") else b"/."
    if path.endswith(b"/") and not cleaned.endswith(b"/"):
        cleaned += b"/"
    return cleaned


def open_entry(root: int, path: bytes) -> int:
    """What lies at an absolute path, itself and not what it links to (a descriptor, O_PATH).

    Symbolic links before the last component are followed; with a final `/` or `/.` the last one is too, and must lead
    to a directory. FileNotFoundError, NotADirectoryError, OSError ELOOP.
    """
    base = path.rpartition(b"/")[2]
    flags = _DIRECTORY if base in (b"", b".") else _PATH | os.O_NOFOLLOW
    return openat2(root, path, flags, 0, RESOLVE)


def link_target(root: int, path: bytes) -> bytes:
    """Where the symbolic link at an absolute path leads in the end, from the root; what is missing there is taken as
    it is written. For showing: it may have changed before it is used. OSError ELOOP."""
    waiting = [part for part in path.split(b"/") if part not in (b"", b".")][::-1]
    at: list[bytes] = []
    links = 0
    while waiting:
        name = waiting.pop()
        if name == b"..":
            del at[-1:]
            continue
        target = _read_link(root, b"/".join([*at, name]))
        if target is None:
            at.append(name)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if target.startswith(b"/"):
            at = []
        waiting += [part for part in target.split(b"/") if part not in (b"", b".")][::-1]
    return b"/" + b"/".join(at)


def _read_link(root: int, path: bytes) -> bytes | None:
    try:
        fd = openat2(root, path, _PATH | os.O_NOFOLLOW, 0, RESOLVE | abi.RESOLVE_NO_SYMLINKS)
    except OSError:
        return None
    try:
        return os.readlink(b"", dir_fd=fd)
    except OSError:
        return None
    finally:
        os.close(fd)


def is_kernels_own(fd: int) -> bool:
    """Whether a file lies on procfs, sysfs or the like."""
    return (filesystem_type(fd) & 0xFFFFFFFF) in _KERNELS_OWN


def reopen(fd: int, flags: int) -> int:
    """A descriptor for reading or writing of what an O_PATH descriptor names, and of nothing else."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def read_small(root: int, path: bytes, limit: int = 1 << 20) -> bytes:
    """A regular file's content, b"" for anything else (S17)."""
    try:
        fd = openat2(root, path, _PATH, 0, RESOLVE)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or is_kernels_own(fd):
            return b""
        with os.fdopen(reopen(fd, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return file.read(limit)
    finally:
        os.close(fd)
