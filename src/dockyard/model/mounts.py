"""A container's mount points: `-v`, `--mount` and `--tmpfs` as values, checked.

Owns: `MountPoint`, reading the three notations, Docker's texts for what is wrong with them.
Does not own: whether a source exists, making volumes (`engine.volumes`), mounting.
Pure. Sources: Docker's documentation of bind mounts, volumes and tmpfs; `--mount` fields as in the Engine API.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

from msgspec import Struct

from dockyard.model.container import BindOptions, Mount, TmpfsOptions
from dockyard.model.errors import InvalidArgument

_VOLUME_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_PROPAGATIONS: Final = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_CONSISTENCIES: Final = frozenset({"consistent", "cached", "delegated", "default", ""})
_TMPFS_SIZE: Final = re.compile(r"size=(-?[0-9]+[kmgKMG]?%?)\Z")


class MountPoint(Struct, omit_defaults=True):
    """One mount of a container: what `inspect` shows, and what the runtime mounts.

    `type`: bind, volume or tmpfs. `source` is a path on the host ("" for tmpfs). `mode` is Docker's option text of the
    notation used ("ro,z", "z", tmpfs options). `name` and `driver` belong to volumes.
    """

    type: str
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    anonymous: bool = False  # a volume that nobody named: goes with `rm -v`
    create_source: bool = False  # a missing bind source is made as a directory (`-v` only)
    no_copy: bool = False  # do not fill a new volume from the image
    bind: BindOptions | None = None
    tmpfs: TmpfsOptions | None = None
    from_mount: bool = False  # stated by `--mount`, which `inspect` shows with less detail


def valid_volume_name(name: str) -> bool:
    return _VOLUME_NAME.match(name) is not None


def check_volume_name(name: str) -> None:
    """Raises InvalidArgument in Docker's words."""
    if len(name) == 1 and name.isalnum():
        raise InvalidArgument("volume name is too short, names should be at least two alphanumeric characters")
    if not valid_volume_name(name):
        raise InvalidArgument(
            f'"{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are '
            "allowed. If you intended to pass a host directory, use absolute path"
        )


def parse_bind(spec: str) -> MountPoint:
    """`SOURCE:/target[:options]` or `/target` of `-v`. A source that is no absolute path names a volume.

    Options: ro, rw, z, Z, a propagation, nocopy, a consistency. Raises InvalidArgument naming the specification.
    """
    parts = spec.split(":")
    if len(parts) > 3 or "" in parts[:2]:
        raise InvalidArgument(f"invalid volume specification: '{spec}'")
    if len(parts) == 1:
        source, target, mode = "", parts[0], ""
    else:
        source, target, mode = parts[0], parts[1], parts[2] if len(parts) == 3 else ""
    if len(parts) == 3 and not mode:
        raise InvalidArgument(f"invalid volume specification: '{spec}'")
    point = MountPoint(type="volume", destination=_target(target, spec), mode=mode)
    if source.startswith("/"):
        point.type, point.source, point.create_source = "bind", posixpath.normpath(source), True
        point.propagation = "rprivate"
    elif source:
        check_volume_name(source)
        point.name = source
    else:
        point.anonymous = True
    _apply_mode(point, mode, spec)
    return point


def _apply_mode(point: MountPoint, mode: str, spec: str) -> None:
    """Read the comma-separated options; each kind at most once."""
    seen: set[str] = set()
    for option in mode.split(",") if mode else []:
        if option in ("ro", "rw"):
            kind, point.rw = "access", option == "rw"
        elif option in ("z", "Z"):
            kind = "label"
        elif option in _PROPAGATIONS and point.type == "bind":
            kind, point.propagation = "propagation", option
        elif option == "nocopy" and point.type == "volume":
            kind, point.no_copy = "copy", True
        elif option in _CONSISTENCIES and option:
            kind = "consistency"
        else:
            raise InvalidArgument(f"invalid mode: {mode}")
        if kind in seen:
            raise InvalidArgument(f"invalid mode: {mode}")
        seen.add(kind)


def _target(target: str, spec: str) -> str:
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid volume specification: '{spec}': invalid mount config for type \"volume\": "
                              f"invalid mount path: '{target}' mount path must be absolute")  # fmt: skip
    cleaned = _clean(target)
    if cleaned == "/":
        problem = "invalid specification: destination can't be '/'"
        raise InvalidArgument(f"invalid volume specification: '{spec}': {problem}")
    return cleaned


def _clean(path: str) -> str:
    return "/" + posixpath.normpath(path).lstrip("/")


def parse_mount(mount: Mount) -> MountPoint:
    """A mount of `--mount` as a mount point. Raises InvalidArgument naming the field, in Docker's words."""
    kind = mount.type
    if kind not in ("bind", "volume", "tmpfs", "image", "npipe", "cluster"):
        raise _invalid(mount, "mount type unknown")
    if kind in ("npipe", "cluster", "image"):
        raise _invalid(mount, f"mounts of type {kind} are not supported")
    if not mount.target:
        raise _invalid(mount, "field Target must not be empty")
    if not mount.target.startswith("/"):
        raise _invalid(mount, f"invalid mount path: '{mount.target}' mount path must be absolute")
    target = _clean(mount.target)
    if target == "/":
        raise _invalid(mount, "invalid specification: destination can't be '/'")
    if mount.consistency not in _CONSISTENCIES:
        raise _invalid(mount, f"unknown consistency: {mount.consistency}")
    for options, owner in ((mount.bind_options, "bind"), (mount.volume_options, "volume"),
                           (mount.tmpfs_options, "tmpfs"), (mount.image_options, "image")):  # fmt: skip
        if options is not None and kind != owner:
            raise _invalid(mount, f"field {owner.capitalize()}Options must not be specified")
    point = MountPoint(type=kind, destination=target, rw=not mount.read_only, from_mount=True)
    {"bind": _fill_bind, "volume": _fill_volume, "tmpfs": _fill_tmpfs}[kind](point, mount)
    return point


def _invalid(mount: Mount, problem: str) -> InvalidArgument:
    return InvalidArgument(f'invalid mount config for type "{mount.type}": {problem}')


def _fill_bind(point: MountPoint, mount: Mount) -> None:
    if not mount.source:
        raise _invalid(mount, "field Source must not be empty")
    if not mount.source.startswith("/"):
        raise _invalid(mount, f"invalid mount path: '{mount.source}' mount path must be absolute")
    options = mount.bind_options or BindOptions()
    if options.propagation and options.propagation not in _PROPAGATIONS:
        raise _invalid(mount, f"invalid propagation mode: {options.propagation}")
    if options.read_only_non_recursive and not mount.read_only:
        raise _invalid(mount, "mount must be read-only to use ReadOnlyNonRecursive")
    if options.read_only_force_recursive and not mount.read_only:
        raise _invalid(mount, "mount must be read-only to use ReadOnlyForceRecursive")
    if options.read_only_force_recursive and options.read_only_non_recursive:
        raise _invalid(mount, "ReadOnlyNonRecursive and ReadOnlyForceRecursive are mutually exclusive")
    point.source = posixpath.normpath(mount.source)
    point.propagation = options.propagation or "rprivate"
    point.bind = mount.bind_options
    point.create_source = options.create_mountpoint


def _fill_volume(point: MountPoint, mount: Mount) -> None:
    options = mount.volume_options
    if mount.source:
        check_volume_name(mount.source)
        point.name = mount.source
    else:
        point.anonymous = True
        if options is not None and options.subpath:
            raise _invalid(mount, "must not set Subpath when using anonymous volumes")
    point.mode = "z"
    if options is not None:
        point.no_copy = options.no_copy
        point.driver = options.driver_config.name if options.driver_config else ""
        if options.subpath:
            raise _invalid(mount, "subpaths of volumes are not supported yet")


def _fill_tmpfs(point: MountPoint, mount: Mount) -> None:
    if mount.source:
        raise _invalid(mount, "field Source must not be specified")
    options = mount.tmpfs_options or TmpfsOptions()
    if options.size_bytes < 0:
        raise _invalid(mount, "size must not be negative")
    point.tmpfs = options
    words = [] if point.rw else ["ro"]
    if options.mode:
        words.append(f"mode={options.mode:o}")
    if options.size_bytes:
        words.append(f"size={options.size_bytes}")
    for option in options.options or []:
        words.append("=".join(option[:2]))
    point.mode = ",".join(words)


def parse_tmpfs(target: str, options: str) -> MountPoint:
    """`--tmpfs TARGET[:options]`; the options are those of mount(8) for tmpfs, checked when mounted."""
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{target}' mount path must be absolute")
    cleaned = _clean(target)
    if cleaned == "/":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    words = options.split(",") if options else []
    for word in words:
        if word.startswith("size=") and not _TMPFS_SIZE.match(word):
            raise InvalidArgument(f"invalid tmpfs option {word!r}")
    return MountPoint(type="tmpfs", destination=cleaned, mode=options, rw="ro" not in words)


def image_volume(target: str) -> MountPoint | None:
    """The anonymous volume for a `VOLUME` of an image; None for one that names nothing inside (S35)."""
    if not target:
        return None
    cleaned = _clean("/" + target)
    return None if cleaned == "/" else MountPoint(type="volume", destination=cleaned, anonymous=True)
