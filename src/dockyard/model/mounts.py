"""A container's mount points: `-v`, `--mount` and `--tmpfs` as values, checked.

Owns: `MountPoint`, reading the notations, Docker's texts for what is wrong with them.
Does not own: whether a source exists, making volumes (`engine.volumes`), mappings of owners (`model.idmaps`), mounting.
Pure. Sources: Docker's documentation of bind mounts, volumes and tmpfs; `--mount` fields as in the Engine API.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from dockyard.model.container import BindOptions, ImageOptions, Mount, TmpfsOptions, VolumeOptions
from dockyard.model.errors import InvalidArgument
from dockyard.model.idmaps import parse_idmap

_VOLUME_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_PROPAGATIONS: Final = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_CONSISTENCIES: Final = frozenset({"consistent", "cached", "delegated", "default", ""})
_TMPFS_SIZE: Final = re.compile(r"size=([0-9]+[kmgKMG]?%?)\Z")
# What `:U` never gives to somebody else, nor anything directly in it: a typing error would take the host away.
_SYSTEM: Final = frozenset({
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt", "/proc",
    "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/local", "/usr/sbin",
    "/usr/share", "/var", "/var/cache", "/var/lib", "/var/log", "/var/tmp",
})  # fmt: skip


class MountPoint(Struct, omit_defaults=True):
    """One mount of a container: what `inspect` shows, and what the runtime mounts.

    `type`: bind, volume, tmpfs or image. `source` is a path on the host ("" for tmpfs; the reference as given for an
    image). `mode` is Docker's option text of the notation used ("ro,z", "z", tmpfs options). `name` and `driver` belong
    to volumes, `chain_id` (the layers, None: an empty image) to images.
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
    subpath: str = ""  # of a volume or an image: only this below it is mounted
    volume: VolumeOptions | None = None  # what a volume that does not exist yet is made with
    chain_id: str | None = None
    chown: bool = False  # `:U`: given to the container's user at each start
    idmap: str = ""  # "owner", or a mapping as `model.idmaps` reads it; "": none


def valid_volume_name(name: str) -> bool:
    return _VOLUME_NAME.match(name) is not None


def check_volume_name(name: str) -> None:
    """Raises InvalidArgument in Docker's words."""
    if len(name) == 1 and name.isalnum():
        problem = "volume name is too short, names should be at least two alphanumeric characters"
        raise InvalidArgument(f"create {name}: {problem}")
    if len(name) > 255:
        raise InvalidArgument(f"create {name[:32]}…: volume name is longer than 255 characters")
    if not valid_volume_name(name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, '
            'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. '
            "If you intended to pass a host directory, use absolute path"
        )


def parse_bind(spec: str) -> MountPoint:
    """`SOURCE:/target[:options]` or `/target` of `-v`. A source that is no absolute path names a volume.

    Options: ro, rw, z, Z, a propagation, nocopy, a consistency; ours: U, idmap, idmap=MAPPING. Raises InvalidArgument
    naming the specification.
    """
    parts = spec.split(":")
    if len(parts) > 3 or "" in parts[:2]:
        raise InvalidArgument(f"invalid volume specification: '{spec}'")
    if len(parts) == 1:
        source, target, mode = "", parts[0], ""
    else:
        source, target, mode = parts[0], parts[1], parts[2] if len(parts) == 3 else ""
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
        kind = _apply_option(point, option, spec)
        if not kind or kind in seen:
            raise InvalidArgument(f"invalid mode: {mode}")
        seen.add(kind)
    _check_ownership(point, spec)


def _apply_option(point: MountPoint, option: str, spec: str) -> str:
    """Apply one option; what kind it is of, "" for one that there is not."""
    if option in ("ro", "rw"):
        point.rw = option == "rw"
        return "access"
    if option in ("z", "Z"):
        return "label"
    if option in _PROPAGATIONS:
        if point.type != "bind":
            raise _misplaced(spec, point.type, "BindOptions")
        point.propagation = option
        return "propagation"
    if option == "nocopy":
        if point.type != "volume":
            raise _misplaced(spec, point.type, "VolumeOptions")
        point.no_copy = True
        return "copy"
    if option == "U":
        point.chown = True
        return "owner"
    if option.partition("=")[0] == "idmap":
        point.idmap = _idmap(option.partition("=")[2] or "owner")
        return "idmap"
    return "consistency" if option in _CONSISTENCIES and option else ""


def _misplaced(spec: str, kind: str, field: str) -> InvalidArgument:
    return InvalidArgument(
        f"invalid volume specification: '{spec}': invalid mount config for type \"{kind}\": "
        f"field {field} must not be specified"
    )


def _idmap(text: str) -> str:
    parse_idmap(text)
    return text


def _check_ownership(point: MountPoint, what: str) -> None:
    """`:U` and idmap. InvalidArgument naming the mount (`what`)."""
    if point.chown and point.idmap:
        raise InvalidArgument(f"invalid mount '{what}': options U and idmap exclude each other")
    if point.chown and point.type == "bind" and point.source in _SYSTEM:
        raise InvalidArgument(f"invalid mount '{what}': option U would give {point.source} of the host away")


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
    if "\0" in path:
        raise InvalidArgument(f"invalid mount path: {path!r}: it has a NUL character")
    return "/" + posixpath.normpath(path).lstrip("/")


def parse_mount(mount: Mount) -> MountPoint:
    """A mount of `--mount` as a mount point. Raises InvalidArgument naming the field, in Docker's words."""
    kind = mount.type
    if kind == "cluster":
        raise _invalid(mount, "cluster volumes need a swarm")
    if kind not in ("bind", "volume", "tmpfs", "image"):
        raise _invalid(mount, "mount type unknown")
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
    {"bind": _fill_bind, "volume": _fill_volume, "tmpfs": _fill_tmpfs, "image": _fill_image}[kind](point, mount)
    _check_ownership(point, mount.target)
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
    if options.read_only_force_recursive:
        if not mount.read_only:
            raise _invalid(mount, "mount must be read-only to use ReadOnlyForceRecursive")
        if options.read_only_non_recursive:
            raise _invalid(mount, "ReadOnlyNonRecursive and ReadOnlyForceRecursive are mutually exclusive")
        if options.non_recursive:
            raise _invalid(mount, "NonRecursive and ReadOnlyForceRecursive are mutually exclusive")
        if options.propagation not in ("", "rprivate"):
            raise _invalid(mount, "ReadOnlyForceRecursive requires the propagation rprivate")
    point.source = posixpath.normpath(mount.source)
    point.propagation = options.propagation or "rprivate"
    point.bind = mount.bind_options
    point.create_source = options.create_mountpoint
    point.chown, point.idmap = options.chown, _idmap(options.id_map) if options.id_map else ""


def _fill_volume(point: MountPoint, mount: Mount) -> None:
    options = mount.volume_options or VolumeOptions()
    if mount.source:
        check_volume_name(mount.source)
        point.name = mount.source
    else:
        point.anonymous = True
        if mount.read_only:
            raise _invalid(mount, "must not set ReadOnly mode when using anonymous volumes")
        if options.subpath:
            raise _invalid(mount, "must not set Subpath when using anonymous volumes")
    point.mode = "z"
    point.no_copy = options.no_copy
    point.driver = options.driver_config.name if options.driver_config else ""
    point.subpath = _subpath(mount, options.subpath, "volume")
    point.volume = mount.volume_options
    point.chown, point.idmap = options.chown, _idmap(options.id_map) if options.id_map else ""


def _fill_image(point: MountPoint, mount: Mount) -> None:
    if not mount.source:
        raise _invalid(mount, "field Source must not be empty")
    point.source = mount.source
    point.rw = False  # whatever was asked for, as with Docker
    point.subpath = _subpath(mount, (mount.image_options or ImageOptions()).subpath, "image")


def _subpath(mount: Mount, path: str, within: str) -> str:
    """Cleaned; "" for the whole. A path that leads out is refused here, a link that does so when it is mounted."""
    if not path:
        return ""
    cleaned = posixpath.normpath(path)
    if path.startswith("/") or cleaned == ".." or cleaned.startswith("../") or "\0" in path:
        raise _invalid(mount, f"subpath must be a relative path within the {within}")
    return "" if cleaned == "." else cleaned


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
        if not 1 <= len(option) <= 2:
            raise _invalid(mount, "invalid option array length")
        words.append("=".join(option))
    if any("," in word for word in words):
        raise _invalid(mount, f"invalid option: {','.join(words)}")
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


def parse_volumes_from(spec: str) -> tuple[str, str]:
    """`CONTAINER[:options]` of `--volumes-from`: what it names, and the options (ro, rw, z, Z)."""
    if not spec:
        raise InvalidArgument("volumes-from specification cannot be an empty string")
    ref, _, mode = spec.partition(":")
    words = mode.split(",") if mode else []
    if not set(words) <= {"ro", "rw", "z", "Z"} or len(set(words)) < len(words) or {"ro", "rw"} <= set(words):
        raise InvalidArgument(f"invalid mode: {mode}")
    return ref, mode


def label_options(points: Iterable[MountPoint]) -> list[str]:
    """Targets of the mounts of `-v` that ask for an SELinux label (`z`, `Z`)."""
    return [p.destination for p in points if not p.from_mount and {"z", "Z"} & set(p.mode.split(","))]
