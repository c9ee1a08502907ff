"""Devices of a container: nodes to make and cgroup rules.

Owns: Docker's default rules, `--device`, `--device-cgroup-rule`, all devices for a privileged container.
Does not own: devices by CDI (`cdi`), making nodes (`runtime.init`), writing rules (`runtime.cgroups`). Stats paths
under the host's /dev.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Any, Final

from dockyard.model.container import DeviceMapping, HostConfig
from dockyard.model.errors import InvalidArgument

_RULE: Final = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")
# Not devices of the host but file systems and links that every container gets of its own.
_SKIPPED: Final = frozenset(("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"))
_TYPES: Final = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}

DEFAULT_RULES: Final[tuple[dict[str, Any], ...]] = (
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"},  # zero
    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},  # null
    {"allow": True, "type": "c", "major": 1, "minor": 9, "access": "rwm"},  # urandom
    {"allow": True, "type": "c", "major": 1, "minor": 8, "access": "rwm"},  # random
    {"allow": True, "type": "c", "major": 5, "minor": 0, "access": "rwm"},  # tty
    {"allow": True, "type": "c", "major": 5, "minor": 1, "access": "rwm"},  # console
    {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"},  # fuse
)
EVERYTHING: Final[tuple[dict[str, Any], ...]] = ({"allow": True, "access": "rwm"},)


def container_devices(host: HostConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(`linux.devices`, `linux.resources.devices`). Raises InvalidArgument in Docker's words."""
    devices: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = list(EVERYTHING if host.privileged else DEFAULT_RULES)
    if host.privileged:
        devices += host_devices("/dev")
    for mapping in host.devices or ():
        for device in _mapped(mapping):
            devices = [other for other in devices if other["path"] != device["path"]]
            devices.append(device)
            rules.append(_rule_for(device, mapping.cgroup_permissions or "rwm"))
    rules += [parse_rule(text) for text in host.device_cgroup_rules or ()]
    return devices, rules


def parse_rule(text: str) -> dict[str, Any]:
    """`--device-cgroup-rule`, e.g. "c 13:* rwm". Raises InvalidArgument."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
    kind, major, minor, access = match.groups()
    rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
    if major != "*":
        rule["major"] = int(major)
    if minor != "*":
        rule["minor"] = int(minor)
    return rule


def host_devices(directory: str) -> list[dict[str, Any]]:
    """Every device node below `directory`, links not followed, as `linux.devices` objects."""
    return list(_walk(directory))


def device_number(path: str, option: str) -> tuple[int, int]:
    """(major, minor) of a block device, for throttling. Raises InvalidArgument naming `option` and the path."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise InvalidArgument(f"{option}: {path}: {os.strerror(error.errno or 0).lower()}") from None
    except ValueError:
        raise InvalidArgument(f"{option}: {path!r}: not a path") from None
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidArgument(f"{option}: {path} is not a block device")
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def _mapped(mapping: DeviceMapping) -> list[dict[str, Any]]:
    access = mapping.cgroup_permissions or "rwm"
    if not set(access) <= set("rwm"):
        raise InvalidArgument(f"invalid device mode: {access}")
    source = os.path.realpath(mapping.path_on_host)
    target = mapping.path_in_container or mapping.path_on_host
    try:
        status = os.stat(source)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise InvalidArgument(
            f'error gathering device information while adding custom device "{mapping.path_on_host}": {reason}'
        ) from None
    if stat.S_ISDIR(status.st_mode):
        found = [{**device, "path": target + device["path"][len(source) :]} for device in _walk(source)]
    else:
        device = _device(target, status)
        found = [] if device is None else [device]
    if not found:
        raise InvalidArgument(
            f'error gathering device information while adding custom device "{mapping.path_on_host}": not a device node'
        )
    return found


def _walk(directory: str) -> Iterator[dict[str, Any]]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name in _SKIPPED:
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
                continue
            device = _device(entry.path, entry.stat(follow_symlinks=False))
        except OSError:  # gone meanwhile
            continue
        if device is not None:
            yield device


def _device(path: str, status: os.stat_result) -> dict[str, Any] | None:
    kind = _TYPES.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return {
        "path": path,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def _rule_for(device: dict[str, Any], access: str) -> dict[str, Any]:
    return {
        "allow": True,
        "type": device["type"],
        "major": device["major"],
        "minor": device["minor"],
        "access": access,
    }
