"""linux.namespaces, uidMappings and gidMappings: what may be asked for, and whether a path is what it should be.

Owns: these checks. Does not own: making and joining (`runtime.namespaces`, `runtime.init`).
Source: OCI runtime-spec 1.3, config-linux.md, "Namespaces" and "User namespace mappings"; ioctl_ns(2).
"""

from __future__ import annotations

import fcntl
import os
from typing import Any, Final

from dockyard.linux import process, userns
from dockyard.runtime.oci.errors import OciError
from dockyard.runtime.oci.members import check_ranges, get

SUPPORTED: Final = tuple(process.NAMESPACE_FLAGS)
_NS_GET_NSTYPE: Final = 0xB703
_MAPPINGS: Final = ("uidMappings", "gidMappings")


def check(linux: dict[str, Any]) -> set[str]:
    """The kinds of namespaces that the container is in by itself. Raises OciError naming the field."""
    paths: dict[str, str] = {}
    for index, entry in enumerate(get(linux, "namespaces", list, "linux.namespaces", optional=True)):
        field = f"linux.namespaces[{index}]"
        kind = entry.get("type")
        if kind not in SUPPORTED:
            raise OciError(f"{field}.type: {kind!r} is not supported")
        if kind in paths:
            raise OciError(f"{field}.type: {kind!r} is there twice")
        paths[kind] = get(entry, "path", str, f"{field}.path", optional=True)
        if paths[kind]:
            _check_path(kind, paths[kind], f"{field}.path")
    _check_users(linux, paths.get("user"))
    return set(paths)


def _check_path(kind: str, path: str, field: str) -> None:
    """The path is that of a namespace of this kind."""
    if not path.startswith("/"):
        raise OciError(f"{field}: {path!r} is not an absolute path")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OciError(f"{field}: {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        found = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        found = 0
    finally:
        status = os.fstat(fd)
        os.close(fd)
    if found != process.NAMESPACE_FLAGS[kind]:
        raise OciError(f"{field}: {path} is not a namespace of type {kind}")
    if kind == "mount" and status.st_ino == os.stat("/proc/self/ns/mnt").st_ino:
        raise OciError(f"{field}: {path} is the runtime's own mount namespace: all in it would lose their root")


def _check_users(linux: dict[str, Any], path: str | None) -> None:
    """A new user namespace with both mappings; one that is joined without, or with those that it has; or none."""
    for name in _MAPPINGS:
        if linux.get(name) and path is None:
            raise OciError(f"linux.{name}: cannot be set without a user namespace in linux.namespaces")
        if not linux.get(name) and path == "":
            raise OciError(f"linux.{name}: missing for a user namespace of its own in linux.namespaces")
        check_ranges(linux, name, f"linux.{name}")
    if path and any(linux.get(name) for name in _MAPPINGS):
        _check_same(linux, path)
        for name in _MAPPINGS:
            linux.pop(name, None)


def _check_same(linux: dict[str, Any], path: str) -> None:
    """podman writes the mappings of a namespace that it joins: the very same ones do no harm."""
    joined = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(joined).st_ino == os.stat("/proc/self/ns/user").st_ino:
            found = [userns.read_map(f"/proc/self/{name}") for name in ("uid_map", "gid_map")]
        else:
            held = userns.Held((), (), 0, joined)
            try:
                found = list(held.mappings())
            finally:
                held.close()
    finally:
        os.close(joined)
    for name, ranges in zip(_MAPPINGS, found, strict=True):
        if _sorted(linux.get(name) or []) != _sorted(ranges):
            raise OciError(f"linux.{name}: cannot be set for a user namespace that is joined by its path")


def _sorted(ranges: list[dict[str, int]]) -> list[tuple[int, ...]]:
    return sorted((each["containerID"], each["hostID"], each["size"]) for each in ranges)
