"""Mounts of a container: Docker's default ones, and the ones asked for, as OCI mounts in the order they are made.

Owns: options of the default mounts, tmpfs options, read-only and propagation rules, which default a user's mount
replaces. Does not own: resolving volumes and binds to host paths (engine), mounting (`runtime.init`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import Struct

from dockyard.model.container import BindOptions, HostConfig
from dockyard.model.errors import InvalidArgument
from dockyard.model.idmaps import Range, parse_idmap
from dockyard.model.mounts import MountPoint
from dockyard.runtime.remap import Remap

DEFAULT_SHM_SIZE: Final = 64 << 20
_READONLY_KEPT_WRITABLE: Final = frozenset(("/proc", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev"))
_SHARED: Final = frozenset(("shared", "rshared"))
_SLAVE: Final = frozenset(("slave", "rslave"))
PROPAGATIONS: Final = frozenset(("private", "rprivate", "shared", "rshared", "slave", "rslave"))

_NOSUID_NOEXEC_NODEV: Final = ("nosuid", "noexec", "nodev")
_TMPFS_DEFAULT: Final = (*_NOSUID_NOEXEC_NODEV, "rprivate")
# Options of tmpfs that exclude each other: the last one given counts.
_TMPFS_GROUPS: Final = (
    ("ro", "rw"),
    ("suid", "nosuid"),
    ("dev", "nodev"),
    ("exec", "noexec"),
    ("sync", "async"),
    ("dirsync",),
    ("mand", "nomand"),
    ("atime", "noatime"),
    ("diratime", "nodiratime"),
    ("bind", "rbind"),
    ("private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"),
    ("relatime", "norelatime"),
    ("strictatime", "nostrictatime"),
)
_TMPFS_GROUP_OF: Final = {option: group[0] for group in _TMPFS_GROUPS for option in group}
_TMPFS_KEYS: Final = frozenset(
    ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge", "noswap", "inode32", "inode64")
)


class BundleMount(Struct, frozen=True):
    """One mount point, resolved: `source` is an absolute host path.

    `type`: "bind" (volumes and the etc files too) or "tmpfs" (`options`: the text of `--tmpfs`, "size=64m,mode=1777").
    `propagation`: one of PROPAGATIONS, "" is rprivate. A read-only bind is read-only all the way down, unless
    `read_only_non_recursive`; `non_recursive` binds only the mount at `source`, not those below it.

    Type "image": `image` says how its files are put together (a `launch.Rootfs` without a writable part), `source` what
    it is called. `subpath`: only this below the source. `chown`, `idmap` (see `model.idmaps`): whose files these are.
    """

    destination: str
    source: str = ""
    type: str = "bind"
    options: str = ""
    read_only: bool = False
    propagation: str = ""
    non_recursive: bool = False
    read_only_non_recursive: bool = False
    subpath: str = ""
    chown: bool = False
    idmap: str = ""
    remap: bool = False  # the engine's own file or directory, owned by the numbers that the container sees
    image: dict[str, Any] | None = None


class DefaultMounts:
    """The default mounts for one kind of host, built once; `make` copies what a container changes."""

    def __init__(self) -> None:
        self._fixed: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
            ("/proc", "proc", "proc", _NOSUID_NOEXEC_NODEV),
            ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
            (
                "/dev/pts",
                "devpts",
                "devpts",
                ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            ),
            ("/sys", "sysfs", "sysfs", (*_NOSUID_NOEXEC_NODEV, "ro")),
            ("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", *_NOSUID_NOEXEC_NODEV)),
            ("/dev/mqueue", "mqueue", "mqueue", _NOSUID_NOEXEC_NODEV),
        )

    def make(
        self,
        host: HostConfig,
        mounts: Sequence[BundleMount],
        *,
        shm_source: str,
        shm_namespace: str = "",
        writable_cgroups: bool,
        remap: Remap | None = None,
    ) -> list[dict[str, Any]]:
        """All mounts, in order. `shm_source`: a host path to bind at /dev/shm, "" for a new tmpfs, or for that of the
        mount namespace `shm_namespace`. `remap`: the ids of the container's own."""
        asked = {mount.destination for mount in mounts}
        out = [
            mount
            for mount in self._defaults(host, shm_source, shm_namespace, writable_cgroups)
            if mount["destination"] not in asked and not _below(mount["destination"], "/dev", asked)
        ]
        if host.readonly_rootfs:
            for mount in out:
                if mount["destination"] not in _READONLY_KEPT_WRITABLE and "ro" not in mount["options"]:
                    mount["options"].append("ro")
        out += [_asked(mount, remap) for mount in sorted(mounts, key=_depth)]
        return out

    def _defaults(
        self, host: HostConfig, shm_source: str, shm_namespace: str, writable_cgroups: bool
    ) -> Iterable[dict[str, Any]]:
        writable = {"/sys", "/sys/fs/cgroup"} if host.privileged else {"/sys/fs/cgroup"} if writable_cgroups else set()
        for destination, kind, source, fixed in self._fixed:
            options = list(fixed)
            if destination in writable:
                options.remove("ro")
            yield {"destination": destination, "type": kind, "source": source, "options": options}
        if host.ipc_mode == "none":
            return
        if shm_source or shm_namespace:
            shared: dict[str, Any] = {"destination": "/dev/shm", "type": "bind", "source": "/dev/shm"}
            shared["options"] = ["rbind", "rprivate"]
            yield shared | ({"dockyard": {"namespace": shm_namespace}} if shm_namespace else {})
            return
        size = host.shm_size or DEFAULT_SHM_SIZE
        yield {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*_NOSUID_NOEXEC_NODEV, "mode=1777", f"size={size}"],
        }


def root_propagation(mounts: Iterable[BundleMount]) -> str | None:
    """What the root's propagation must be so that the asked-for propagations work: None, "shared" or "slave"."""
    wanted = {mount.propagation for mount in mounts}
    if wanted & _SHARED:
        return "shared"
    return "slave" if wanted & _SLAVE else None


def tmpfs_options(given: str) -> list[str]:
    """Docker's defaults for a tmpfs, overridden by `given` ("rw,size=64m,exec"). Raises InvalidArgument."""
    chosen: dict[str, str] = {}
    for option in (*_TMPFS_DEFAULT, *filter(None, given.split(","))):
        key, equals, _ = option.partition("=")
        if not equals and option == "defaults":
            continue
        group = _TMPFS_GROUP_OF.get(option, key)
        if option not in _TMPFS_GROUP_OF and key not in _TMPFS_KEYS:
            raise InvalidArgument(f'invalid tmpfs option ["{option}"]')
        chosen.pop(group, None)  # the later one also takes the later place
        chosen[group] = option
    return list(chosen.values())


def from_mount_point(point: MountPoint, image: dict[str, Any] | None = None, *, remap: bool = False) -> BundleMount:
    """A mount point whose volume, source or image (then `image`) the engine has resolved, for the bundle."""
    if point.type == "image":
        return BundleMount(point.destination, point.source, type="image", subpath=point.subpath, image=image)
    if point.type == "tmpfs":
        return BundleMount(point.destination, type="tmpfs", options=point.mode, read_only=not point.rw)
    bind = point.bind or BindOptions()
    return BundleMount(
        point.destination,
        point.source,
        read_only=not point.rw,
        propagation=point.propagation,
        non_recursive=bind.non_recursive,
        read_only_non_recursive=bind.read_only_non_recursive,
        subpath=point.subpath,
        chown=point.chown,
        idmap=point.idmap,
        remap=remap,
    )


def _asked(mount: BundleMount, remap: Remap | None) -> dict[str, Any]:
    if mount.type == "tmpfs":
        options = tmpfs_options(f"{mount.options},ro" if mount.read_only else mount.options)
        return {"destination": mount.destination, "type": "tmpfs", "source": "tmpfs", "options": options}
    if mount.type == "image":
        parts = {"image": mount.image, "subpath": mount.subpath}
        return {"destination": mount.destination, "type": "image", "source": mount.source, "dockyard": parts}
    if mount.type != "bind":
        raise InvalidArgument(f"mount type unknown: {mount.type}")
    propagation = mount.propagation or "rprivate"
    if propagation not in PROPAGATIONS:
        raise InvalidArgument(f"invalid propagation mode: {propagation}")
    options = ["bind" if mount.non_recursive else "rbind"]
    if mount.read_only:
        options.append("ro" if mount.non_recursive or mount.read_only_non_recursive else "rro")
    options.append(propagation)
    entry: dict[str, Any] = {
        "destination": mount.destination,
        "type": "bind",
        "source": mount.source,
        "options": options,
    }
    mapping = parse_idmap(mount.idmap) if mount.idmap else None
    if mapping is not None:
        mapping = mapping if remap is None else remap.through(mapping)
        options.append("idmap")
        entry["uidMappings"], entry["gidMappings"] = _mappings(mapping.uids), _mappings(mapping.gids)
    own: dict[str, Any] = {
        "subpath": mount.subpath,
        "chown": mount.chown,
        "remap": mount.remap and remap is not None and not mount.idmap,
        "idmap": mount.idmap if mapping is None else "",
    }
    if any(own.values()):
        entry["dockyard"] = {name: value for name, value in own.items() if value}
    return entry


def _mappings(ranges: Sequence[Range]) -> list[dict[str, int]]:
    return [{"containerID": each.disk, "hostID": each.seen, "size": each.size} for each in ranges]


def without_extensions(mounts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As other runtimes want them. InvalidArgument naming the mount that only ours can make."""
    for mount in mounts:
        if "dockyard" in mount:
            what = ", ".join(sorted(mount["dockyard"]))
            raise InvalidArgument(f"mount {mount['destination']}: {what} works with the runtime dockyard only")
    return list(mounts)


def _below(destination: str, directory: str, asked: set[str]) -> bool:
    """A default mount below /dev goes when the user mounts /dev itself."""
    return directory in asked and destination.startswith(f"{directory}/")


def _depth(mount: BundleMount) -> int:
    return len([part for part in mount.destination.split("/") if part])
