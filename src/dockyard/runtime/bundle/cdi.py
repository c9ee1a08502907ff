"""CDI devices of a container: the specifications on this host, and their edits put into a bundle.

Owns: reading the directories (each file once while it stays as it is), completing device nodes from the host's, the
order and precedence of edits in an OCI configuration. Does not own: what a specification may say and which devices a
request means (`proto.cdi`).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Any, Final

from dockyard.model.container import DeviceRequest
from dockyard.model.errors import InvalidArgument
from dockyard.proto import cdi

_FAILED: Final = "CDI device injection failed: "
_MAX_BYTES: Final = 16 << 20
_TYPES: Final = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}


class Devices:
    """The devices that this host's specifications offer. One a daemon; `directories` empty: CDI is switched off."""

    def __init__(self, directories: Sequence[str] = ()) -> None:
        """`directories`: of the same device in two of them, the later one's counts. They need not be there."""
        self.directories = tuple(directories)
        self._kept: dict[str, tuple[tuple[int, ...], cdi.Spec | str]] = {}

    def catalog(self) -> cdi.Catalog:
        """What can be had now. A file that cannot be used is a line in `problems`, the others are as good as ever."""
        found, problems = [], []
        present = set()
        for priority, directory in enumerate(self.directories):
            for path in _files(directory):
                present.add(path)
                read = self._read(path)
                if isinstance(read, str):
                    problems.append(f"{path}: {read}")
                else:
                    found.append(cdi.Found(path, priority, read))
        self._kept = {path: kept for path, kept in self._kept.items() if path in present}
        return cdi.Catalog.make(found, problems)

    def edits(self, requests: Sequence[DeviceRequest]) -> list[cdi.Edits]:
        """What the devices that are asked for change in a container. InvalidArgument in Docker's words."""
        if not requests:
            return []
        catalog = self.catalog() if self.directories else None
        names = cdi.wanted(requests, catalog)
        return catalog.edits(names) if catalog is not None else []

    def _read(self, path: str) -> cdi.Spec | str:
        """The specification, or what is wrong with the file."""
        try:
            status = os.stat(path)
            state = (status.st_ino, status.st_dev, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            kept = self._kept.get(path)
            if kept is None or kept[0] != state:
                kept = self._kept[path] = (state, _load(path, status))
        except OSError as error:
            return os.strerror(error.errno or 0).lower()
        return kept[1]


def _files(directory: str) -> list[str]:
    try:
        return [f"{directory}/{name}" for name in sorted(os.listdir(directory)) if name.endswith((".json", ".yaml"))]
    except OSError:
        return []  # a directory that is not there offers nothing


def _load(path: str, status: os.stat_result) -> cdi.Spec | str:
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
        return "not a regular file" if not stat.S_ISREG(status.st_mode) else "larger than 16 MiB"
    with open(path, "rb") as file:
        data = file.read(_MAX_BYTES)
    try:
        return cdi.convert(json.loads(data) if path.endswith(".json") else _yaml(data))
    except (ValueError, RecursionError) as error:
        return str(error).replace("\n", " ") or type(error).__name__


def _yaml(data: bytes) -> object:
    import yaml  # type: ignore[import-untyped, unused-ignore]  # tens of milliseconds, and most hosts have none of these

    try:
        return yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


# --- into the bundle ---


def apply(config: dict[str, Any], every: Iterable[cdi.Edits]) -> None:
    """Put the edits into `config` in place. InvalidArgument naming the device node, hook or field that cannot be."""
    hooked: dict[str, list[dict[str, Any]]] = {}
    for edits in every:
        if edits.intel_rdt is not None:
            raise InvalidArgument(f"{_FAILED}intelRdt is not supported")
        _add_environment(config["process"], edits.env)
        for node in edits.device_nodes:
            _add_node(config, node)
        for mount in edits.mounts:
            _add_mount(config, mount)
        for hook in edits.hooks:
            hooked.setdefault(hook.hook_name, []).append(_hook(hook))
        _add_groups(config["process"]["user"], edits.additional_gids)
    if hooked:
        config["hooks"] = hooked


def _add_environment(process: dict[str, Any], variables: Sequence[str]) -> None:
    values = {variable.partition("=")[0]: variable for variable in process["env"]}
    values.update({variable.partition("=")[0]: variable for variable in variables})
    process["env"] = list(values.values())


def _add_node(config: dict[str, Any], node: cdi.DeviceNode) -> None:
    device = _completed(node)
    user = config["process"]["user"]
    for name in ("uid", "gid"):  # a program that is not root may use what it was given
        if "additionalGids" in user and user[name] and device[name] is None:
            device[name] = user[name]
        device[name] = device[name] or 0
    linux = config["linux"]
    linux["devices"] = [other for other in linux["devices"] if other["path"] != device["path"]] + [device]
    if device["type"] in ("b", "c"):
        rule = {name: device[name] for name in ("type", "major", "minor")}
        linux["resources"]["devices"] = [
            *linux["resources"]["devices"],
            {"allow": True, **rule, "access": node.permissions or "rwm"},
        ]


def _completed(node: cdi.DeviceNode) -> dict[str, Any]:
    """`linux.devices` of a node; what the specification leaves open is as on the host."""
    kind, major, minor, mode = node.type, node.major, node.minor, node.file_mode
    if not kind or (kind != "p" and major is None):
        path = node.host_path or node.path
        try:
            status = os.stat(path)
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise InvalidArgument(f"{_FAILED}failed to stat CDI host device {path}: {reason}") from None
        there = _TYPES.get(stat.S_IFMT(status.st_mode), "")
        if not there or (kind and kind.replace("u", "c") != there):
            raise InvalidArgument(f"{_FAILED}CDI host device {path} is not what is asked for")
        kind, major, minor = there, os.major(status.st_rdev), os.minor(status.st_rdev)
        mode = stat.S_IMODE(status.st_mode) if mode is None else mode
    device: dict[str, Any] = {"path": node.path, "type": kind, "uid": node.uid, "gid": node.gid}
    if kind != "p":
        device |= {"major": major, "minor": minor or 0}
    if mode is not None:
        device["fileMode"] = mode & 0o7777
    return device


def _add_mount(config: dict[str, Any], mount: cdi.Mount) -> None:
    options = list(mount.options)
    if mount.type in ("", "bind", "none") and not {"bind", "rbind"} & set(options):
        options.append("rbind")
    entry = {
        "destination": os.path.normpath(mount.container_path),
        "type": mount.type or "bind",
        "source": mount.host_path,
        "options": options,
    }
    others = [other for other in config["mounts"] if other["destination"] != entry["destination"]]
    config["mounts"] = [*others, entry]


def _hook(hook: cdi.Hook) -> dict[str, Any]:
    out: dict[str, Any] = {"path": hook.path, "args": hook.args or [hook.path], "env": hook.env}
    if hook.timeout:
        out["timeout"] = hook.timeout
    return out


def _add_groups(user: dict[str, Any], groups: Sequence[int]) -> None:
    for group in groups:
        if group <= 0:
            continue
        if "additionalGids" in user:
            user["additionalGids"] = list(dict.fromkeys([*user["additionalGids"], group]))
        user["groupAdd"] = list(dict.fromkeys([*user.get("groupAdd", ()), str(group)]))
