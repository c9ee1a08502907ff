"""The container's file system, made by its first process before it becomes the user's program.

Owns: the root mount, the mounts of the OCI config, masked and read-only paths, the pivot. Runs in the container's own
mount namespace, still with the host's tree around it until `pivot`.
Does not own: what is mounted (the OCI config says), opening bind sources (the monitor does, in the host's namespace),
/dev (`runtime.devices`).

Nothing joins a string to the root and trusts it: every path inside is opened with openat2(RESOLVE_IN_ROOT |
RESOLVE_NO_MAGICLINKS) from the root's descriptor and mounted by descriptor (S7, S8, S9). Standard library only; after
`pivot` nothing is imported.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from dockyard.linux import abi, mounts, selinux
from dockyard.linux.calls import openat2
from dockyard.runtime import owners, program, tmpcopyup
from dockyard.runtime.places import INSIDE, PATH, guard_proc, open_part, open_target
from dockyard.runtime.users import Users

_OF_KERNEL = (  # nothing in them is anybody's choice when they are new
    "proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs",
    "configfs", "bpf", "binfmt_misc", "hugetlbfs", "devtmpfs", "efivarfs", "selinuxfs", "pstore", "fusectl", "nfsd",
)  # fmt: skip
_EMPTY = {"source": "tmpfs", "size": "0k"}
_NO_LABEL = ("proc", "sysfs", "mqueue", "cgroup", "cgroup2")  # the policy says what is there


def mount_root(
    rootfs: dict[str, Any],
    target: str,
    propagation: str,
    label: str = "",
    users: Users | None = None,
    *,
    among_hosts: bool = False,
) -> int:
    """Mount the container's root over the directory `target` and return its descriptor.

    First cuts this namespace's mounts off from the host's, so that nothing mounted here is seen there. `among_hosts`:
    it is the host's namespace; then nothing that is mounted upon the root is seen in others. `users`: whose files these
    are; on disk they have the numbers that are seen inside.
    """
    if among_hosts:
        lay_root(rootfs, target, label, users)
        root = os.open(target, PATH | os.O_DIRECTORY)
        mounts.set_attributes(root, 0, propagation=abi.MS_PRIVATE, recursive=True)  # a shared parent has shared it
        return root
    up = mounts.PROPAGATION.get(propagation or "rprivate", abi.MS_PRIVATE | abi.MS_REC)
    mounts.mount("", "/", "", up if up & abi.MS_SLAVE else abi.MS_SLAVE | abi.MS_REC)
    lay_root(rootfs, target, label, users, abi.MS_SLAVE if up & abi.MS_SLAVE else abi.MS_PRIVATE)
    return os.open(target, PATH | os.O_DIRECTORY)


def lay_root(
    rootfs: dict[str, Any], target: str, label: str = "", users: Users | None = None, propagation: int = abi.MS_PRIVATE
) -> None:
    """Mount the root over the directory `target`. Changes the working directory.

    `propagation`: MS_SLAVE lets a root that is a directory see what is mounted in that on the host.
    """
    if rootfs["type"] == "overlay":
        if users is not None:
            _map_owners(rootfs["base"], users)
        os.chdir(rootfs["base"])  # short relative names: mount(2) cuts its options at a page
        mounts.mount_overlay(target, rootfs["lower"], rootfs["upper"], rootfs["work"], _labelled(label))
    else:
        tree = rootfs["tree"] if "tree" in rootfs else mounts.open_tree(abi.AT_FDCWD, rootfs["path"])
        mounts.set_attributes(tree, 0, propagation=propagation, recursive=True)
        if users is not None and not rootfs.get("owned"):
            mounts.set_attributes(tree, abi.MOUNT_ATTR_IDMAP, userns=users.namespace)
        at = os.open(target, PATH)
        mounts.move_mount(tree, at)
        os.close(at)
        os.close(tree)


def bring_along(rootfs: dict[str, Any]) -> None:
    """Before another mount namespace is joined: a root that is a directory is that of this one."""
    if rootfs["type"] == "directory":
        rootfs["tree"] = mounts.open_tree(abi.AT_FDCWD, rootfs["path"])


def _labelled(label: str) -> str:
    """The end of a mount's data that gives its files an SELinux label."""
    return f",{selinux.mount_option(label)}" if label else ""


def _map_owners(base: str, users: Users) -> None:
    """Let a directory with layers in it be, in this mount namespace, a mount whose owners are mapped."""
    tree = mounts.open_tree(abi.AT_FDCWD, base, recursive=False)
    mounts.set_attributes(tree, abi.MOUNT_ATTR_IDMAP, propagation=abi.MS_PRIVATE, userns=users.namespace)
    users.mapped.add(base)
    at = os.open(base, PATH | os.O_DIRECTORY)
    mounts.move_mount(tree, at)
    os.close(at)
    os.close(tree)


def mount_all(
    root: int,
    config: dict[str, Any],
    sources: dict[int, int],
    hierarchies: list[tuple[str, str]],
    own_group: str = "",
    users: Users | None = None,
    limited: bool = False,
) -> None:
    """Carry out config.mounts in order. `sources`: index of a bind -> descriptor of its detached tree, taken over.
    `limited`: the caller is root of a user namespace only."""
    label = (config.get("linux") or {}).get("mountLabel") or ""
    for index, entry in enumerate(config.get("mounts") or []):
        options = mounts.Options(entry.get("options") or [])
        if index in sources:
            if owners.is_mapped(entry):
                owners.map_tree(sources[index], entry, config["process"], root, "ridmap" in options.data, users)
            elif users is not None and ("idmap" in options.data or "ridmap" in options.data):
                owners.map_as(sources[index], entry, users.namespace, "ridmap" in options.data)
            _bind(root, entry["destination"], sources[index], options)
        elif "image" in (entry.get("dockyard") or {}):
            mount_image(root, entry, users, label)
        elif entry.get("type") == "cgroup":
            if limited:
                _mount_cgroup_limited(root, entry["destination"], options, hierarchies, config["linux"])
            else:
                _mount_cgroup(root, entry["destination"], options, hierarchies, own_group, label)
            if users is not None and not hierarchies and not own_group and not options.flags & abi.MS_RDONLY:
                group = openat2(root, entry["destination"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, resolve=INSIDE)
                _give_group(group, config["process"], root, users)
                os.close(group)
        else:
            if users is not None:
                options.data = [users.option(option) for option in options.data]
                for path in (entry.get("dockyard") or {}).get("mapped") or ():
                    if path not in users.mapped:
                        _map_owners(path, users)
            _mount_new(root, entry, options, label)
            if users is not None and entry.get("type") == "devpts":
                _give(root, entry["destination"], users)


def _give(root: int, path: str, users: Users) -> None:
    """A directory whose owner the mounting did not look at belongs to the container's root."""
    at = openat2(root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, resolve=INSIDE)
    os.fchown(at, users.uid(0), users.gid(0))
    os.close(at)


def _bind(root: int, destination: str, tree: int, options: mounts.Options) -> None:
    directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    target = open_target(root, destination, directory)
    guard_proc(root, target, destination, tree)
    add, clear = options.attributes()
    if add or clear:
        mounts.set_attributes(tree, add, clear)
    if options.set_recursive or options.clear_recursive:
        mounts.set_attributes(tree, options.set_recursive, options.clear_recursive, recursive=True)
    for change in options.propagation or [abi.MS_PRIVATE | abi.MS_REC]:
        mounts.set_attributes(tree, 0, propagation=change & ~abi.MS_REC, recursive=bool(change & abi.MS_REC))
    mounts.move_mount(tree, target)
    os.close(tree)
    os.close(target)


def mount_image(root: int, entry: dict[str, Any], users: Users | None = None, label: str = "") -> None:
    """An image's files, read-only. `entry.dockyard`: image (a `launch.Rootfs` without upper and work), subpath.

    The overlay is mounted at the target and, for a part of it, replaced there by a bind of that part.
    """
    own, destination = entry["dockyard"], entry["destination"]
    target = open_target(root, destination, True)
    guard_proc(root, target, destination)
    rootfs = own["image"]
    if rootfs["type"] == "overlay":
        os.chdir(rootfs["base"])
        data = f"lowerdir={':'.join(rootfs['lower'])}" + _labelled(label)
        mounts.mount("overlay", f"/proc/self/fd/{target}", "overlay", abi.MS_RDONLY, data)
        whole = openat2(root, destination, PATH, resolve=INSIDE)
    else:
        whole = os.open(rootfs["path"], PATH | os.O_DIRECTORY)
    if own.get("subpath") or rootfs["type"] != "overlay":
        part = open_part(whole, own.get("subpath") or ".", entry["source"])
        tree = mounts.open_tree(part, "", recursive=False)
        mounts.set_attributes(tree, abi.MOUNT_ATTR_RDONLY, propagation=abi.MS_PRIVATE)
        if users is not None and rootfs["type"] != "overlay" and not users.has_mapped(rootfs["path"]):
            mounts.set_attributes(tree, abi.MOUNT_ATTR_IDMAP, userns=users.namespace)
        if rootfs["type"] == "overlay":
            mounts.umount(f"/proc/self/fd/{whole}", abi.MNT_DETACH)
        if not stat.S_ISDIR(os.fstat(part).st_mode):
            raise OSError(20, f"{entry['source']}: {own['subpath']} is not a directory")
        mounts.move_mount(tree, target)
        os.close(tree)
        os.close(part)
    os.close(whole)
    os.close(target)


def _mount_new(root: int, entry: dict[str, Any], options: mounts.Options, label: str = "") -> None:
    destination, fstype = entry["destination"], entry.get("type") or "none"
    if fstype in ("proc", "sysfs") and destination in ("/proc", "/sys"):
        target = _real_directory(root, destination)
    elif fstype == "tmpfs":
        target = _place_of_tmpfs(root, destination)
    else:
        target = open_target(root, destination, True)
    if fstype not in _OF_KERNEL:
        guard_proc(root, target, destination)
    data = list(options.data)
    copied = fstype == "tmpfs" and tmpcopyup.OPTION in data
    if copied:
        data.remove(tmpcopyup.OPTION)
    if fstype == "tmpfs" and not any(option.startswith("mode=") for option in data):
        data.append(f"mode={stat.S_IMODE(os.fstat(target).st_mode):o}")  # keep that of the directory underneath
    if label and fstype not in _NO_LABEL and not any(option.startswith("context=") for option in data):
        data.append(selinux.mount_option(label))
    at = f"/proc/self/fd/{target}"
    later = copied or (destination == "/dev" and fstype == "tmpfs")  # `dev_read_only`: when its nodes are made
    flags = options.flags & ~abi.MS_RDONLY if later else options.flags
    mounts.mount(entry.get("source") or fstype, at, fstype, flags, ",".join(data))
    if copied:
        mounted = openat2(root, destination, PATH, resolve=INSIDE)
        tmpcopyup.copy(target, mounted)
        if options.flags & abi.MS_RDONLY:
            mounts.set_attributes(mounted, abi.MOUNT_ATTR_RDONLY)
        os.close(mounted)
    os.close(target)
    if label and fstype == "mqueue":
        _label_mounted(root, destination, label)
    if options.propagation or options.set_recursive or options.clear_recursive:
        mounted = openat2(root, destination, PATH, resolve=INSIDE)
        if options.set_recursive or options.clear_recursive:
            mounts.set_attributes(mounted, options.set_recursive, options.clear_recursive, recursive=True)
        for change in options.propagation:
            mounts.set_attributes(mounted, 0, propagation=change & ~abi.MS_REC, recursive=bool(change & abi.MS_REC))
        os.close(mounted)


def _place_of_tmpfs(root: int, destination: str) -> int:
    """Its mount point. One that has to be made is for everybody, as a tmpfs is whose mode nobody has said: also at the
    next start, which finds the directory."""
    try:
        return openat2(root, destination, PATH, resolve=INSIDE)
    except FileNotFoundError:
        target = open_target(root, destination, True)
        os.chmod(f"/proc/self/fd/{target}", 0o1777)
        return target


def _label_mounted(root: int, destination: str, label: str) -> None:
    """Of a file system that is there once for an IPC namespace: it takes no label as a mount."""
    mounted = openat2(root, destination, PATH, resolve=INSIDE)
    try:
        os.setxattr(f"/proc/self/fd/{mounted}", selinux.XATTR, label.encode() + b"\0")
    except OSError:
        pass  # this policy gives no labels there
    finally:
        os.close(mounted)


def _real_directory(root: int, destination: str) -> int:
    """/proc or /sys of the image: a real directory, never a link to elsewhere (S7)."""
    name = destination.strip("/")
    try:
        os.mkdir(name, 0o755, dir_fd=root)
    except FileExistsError:
        pass
    return openat2(root, name, PATH | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=INSIDE | abi.RESOLVE_NO_SYMLINKS)


_DELEGATE = "/sys/kernel/cgroup/delegate"  # the files of a group that are given with it, Linux 4.15


def _give_group(group: int, process: dict[str, Any], root: int, users: Users) -> None:
    """Let the container's user make groups below its own one, as runc does (cgroups(7), "Delegation containment")."""
    uid = users.uid(program.resolve_user(process, root)[0])
    try:
        with open(_DELEGATE, "rb") as file:  # not as text: in here no codec can be loaded
            names = file.read().decode().split()
    except OSError:
        names = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"]
    for name in (".", *names):
        try:
            os.chown(name, uid, users.gid(0), dir_fd=group, follow_symlinks=False)
        except FileNotFoundError:
            continue  # of a controller that this group has not


def _mount_cgroup(
    root: int,
    destination: str,
    options: mounts.Options,
    hierarchies: list[tuple[str, str]],
    own_group: str,
    label: str = "",
) -> None:
    """The container's view of its control groups: one tree on v2, a tmpfs with one mount a hierarchy on v1.

    With a cgroup namespace of the container's own the root of each mount is the container's group. In the host's
    (`own_group`: the group's path) it would be the host's root: v1 then binds the group itself.
    """
    target = open_target(root, destination, True)
    at = f"/proc/self/fd/{target}"
    if not hierarchies:
        os.close(_mount_unified(root, destination, target, options.flags))
        return
    inner = options.flags & ~abi.MS_RDONLY
    mounts.mount("tmpfs", at, "tmpfs", inner, "mode=755,size=1m" + _labelled(label))
    os.close(target)
    target = openat2(root, destination, PATH | os.O_DIRECTORY, resolve=INSIDE)
    for name, mount_options in hierarchies:
        os.mkdir(name, 0o755, dir_fd=target)
        below = os.open(name, PATH | os.O_NOFOLLOW, dir_fd=target)
        if own_group:
            _bind_group(f"/sys/fs/cgroup/{name}/{own_group}", below, options)
        else:
            mounts.mount("cgroup", f"/proc/self/fd/{below}", "cgroup", options.flags, mount_options)
        os.close(below)
        if "," in name:
            for controller in name.split(","):
                os.symlink(name, controller, dir_fd=target)
    if options.flags & abi.MS_RDONLY:
        mounts.set_attributes(target, abi.MOUNT_ATTR_RDONLY)
    os.close(target)


def _mount_unified(root: int, destination: str, target: int, flags: int) -> int:
    """The one tree of v2 at `target`. The topmost descriptor of the place, which replaces `target`."""
    try:
        mounts.mount("cgroup", f"/proc/self/fd/{target}", "cgroup2", flags)
        return target
    except OSError as error:
        if error.errno != 16:
            raise
    # A /sys that is the host's, bound with all beneath: no file system can be mounted upon itself.
    mounts.mount("tmpfs", f"/proc/self/fd/{target}", "tmpfs", flags | abi.MS_RDONLY, "size=0k")
    os.close(target)
    target = openat2(root, destination, PATH | os.O_DIRECTORY, resolve=INSIDE)
    mounts.mount("cgroup", f"/proc/self/fd/{target}", "cgroup2", flags)
    return target


def _mount_cgroup_limited(
    root: int, destination: str, options: mounts.Options, hierarchies: list[tuple[str, str]], linux: dict[str, Any]
) -> None:
    """As `_mount_cgroup`, for root of a user namespace. Read-only unless the container has a group of its own and sees
    that alone: else it would be the user's (S10, CVE-2023-25809)."""
    if any(entry["type"] == "cgroup" for entry in linux["namespaces"]):
        if not linux.get("cgroupsPath"):
            options.flags |= abi.MS_RDONLY
        try:
            _mount_cgroup(root, destination, options, hierarchies, "")
            return
        except PermissionError:
            pass  # a hierarchy of v1 that is nowhere mounted can be mounted by root of the host only
    tree = mounts.open_tree(abi.AT_FDCWD, "/sys/fs/cgroup")
    add = options.attributes()[0] | abi.MOUNT_ATTR_RDONLY
    mounts.set_attributes(tree, add, propagation=abi.MS_PRIVATE, recursive=True)
    target = open_target(root, destination, True)
    mounts.move_mount(tree, target)
    os.close(target)
    os.close(tree)


def _bind_group(path: str, target: int, options: mounts.Options) -> None:
    tree = mounts.open_tree(abi.AT_FDCWD, path, recursive=False)
    mounts.set_attributes(tree, options.attributes()[0], propagation=abi.MS_PRIVATE)
    mounts.move_mount(tree, target)
    os.close(tree)


def pivot(root: int) -> None:
    """Make `root` the root directory and let go of the host's tree."""
    os.fchdir(root)
    mounts.pivot_root(".", ".")
    mounts.umount(".", abi.MNT_DETACH)
    os.chdir("/")


def move(root: int) -> None:
    """As `pivot`, where the old root cannot be unmounted (a ramfs): `root` is moved over it and entered. What was
    mounted before stays beneath, out of reach by any path."""
    os.fchdir(root)
    mounts.mount(".", "/", "", abi.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def enter(root: int) -> None:
    """As `pivot`, in a mount namespace that is not the container's: no wall, only where its paths begin."""
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")


def mask(paths: list[str], label: str = "") -> None:
    """Hide each path: a file behind /dev/null, a directory behind an empty read-only tmpfs. Absent ones are skipped.

    /dev/null is opened once and must be the character device 1:3, or nothing is hidden and the start fails (S4).
    """
    null = -1
    for path in paths:
        target = _existing(path)
        if target is None:
            continue
        if stat.S_ISDIR(os.fstat(target).st_mode):
            tree = mounts.new_tree("tmpfs", read_only=True, **_EMPTY, **({"context": label} if label else {}))
        else:
            null = null if null >= 0 else _open_null()
            tree = mounts.open_tree(null, "", recursive=False)
        mounts.move_mount(tree, target)  # by descriptor: no path of the container's own /proc is on the way
        os.close(tree)
        os.close(target)
    if null >= 0:
        os.close(null)


def _open_null() -> int:
    null = os.open("/dev/null", PATH | os.O_NOFOLLOW)
    status = os.fstat(null)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
        raise OSError(22, "/dev/null of the container is not the character device 1:3: paths cannot be masked")
    return null


def make_read_only(paths: list[str]) -> None:
    """Make each path a read-only mount of itself. Absent ones are skipped."""
    for path in paths:
        target = _existing(path)
        if target is None:
            continue
        tree = mounts.open_tree(target, "")
        mounts.set_attributes(tree, abi.MOUNT_ATTR_RDONLY, recursive=True)
        mounts.move_mount(tree, target)
        os.close(tree)
        os.close(target)


def _existing(path: str) -> int | None:
    try:
        return openat2(abi.AT_FDCWD, path, PATH, resolve=abi.RESOLVE_NO_MAGICLINKS)
    except (FileNotFoundError, NotADirectoryError):
        return None


def bind_console(slave: int) -> None:
    """/dev/console is the container's terminal: bound by descriptor, never by a path (S5)."""
    target = open_target_console()
    tree = mounts.open_tree(slave, "", recursive=False)
    mounts.move_mount(tree, target)
    os.close(tree)
    os.close(target)


def open_target_console() -> int:
    dev = os.open("/dev", PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            os.mknod("console", stat.S_IFREG | 0o600, dir_fd=dev)
        except FileExistsError:
            pass
        return os.open("console", PATH | os.O_NOFOLLOW, dir_fd=dev)
    finally:
        os.close(dev)


def spread(propagation: str) -> None:
    """Let the root mount itself be `shared` (a new peer group, inside the container) or `unbindable`. The last step:
    nothing can be cloned from an unbindable mount. `private` it is already; `slave` was seen to by `lay_root`."""
    flags = mounts.PROPAGATION.get(propagation, 0) & ~abi.MS_REC
    if flags in (abi.MS_SHARED, abi.MS_UNBINDABLE):
        mounts.mount("", "/", "", flags)


def dev_read_only(entries: list[dict[str, Any]]) -> None:
    """A tmpfs at /dev that was asked for read-only, once everything is in it."""
    for entry in entries:
        if entry["destination"] == "/dev" and "ro" in (entry.get("options") or []) and entry.get("type") == "tmpfs":
            dev = os.open("/dev", PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
            mounts.set_attributes(dev, abi.MOUNT_ATTR_RDONLY)
            os.close(dev)


def root_read_only() -> None:
    """The root mount itself read-only (mounts on it keep their own)."""
    root = os.open("/", PATH | os.O_DIRECTORY)
    mounts.set_attributes(root, abi.MOUNT_ATTR_RDONLY)
    os.close(root)
