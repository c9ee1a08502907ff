"""config.json of a bundle and process.json of an exec: read and checked.

Owns: what this runtime demands of a configuration and what of the specification it does not support; every refusal
names the field. Does not own: what is done with it. Source: OCI runtime-spec 1.2, config.md and config-linux.md.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final

from dockyard.linux import process
from dockyard.runtime.oci.errors import OciError

SUPPORTED_NAMESPACES: Final = tuple(kind for kind in process.NAMESPACE_FLAGS if kind not in ("user", "time"))
_UNSUPPORTED_LINUX: Final = (
    ("uidMappings", "user namespaces are not supported"),
    ("gidMappings", "user namespaces are not supported"),
    ("intelRdt", "not supported"),
    ("personality", "not supported"),
    ("timeOffsets", "time namespaces are not supported"),
    ("mountLabel", "SELinux is not supported"),
)
_UNSUPPORTED_PROCESS: Final = (
    ("selinuxLabel", "SELinux is not supported"),
    ("scheduler", "not supported"),
    ("ioPriority", "not supported"),
    ("execCPUAffinity", "not supported"),
)
_UNSUPPORTED_HOOKS: Final = ("createContainer", "startContainer")
_PROPAGATIONS: Final = ("", "shared", "slave", "private", "rshared", "rslave", "rprivate", "unbindable", "runbindable")


def load_bundle(bundle: str) -> dict[str, Any]:
    """The checked config.json of the directory `bundle`; root.path is made absolute. Raises OciError."""
    config = read_json(os.path.join(bundle, "config.json"))
    check_config(config)
    _drop_zero_limits(config["linux"].get("resources") or {})
    root = config["root"]["path"]
    config["root"]["path"] = path = os.path.normpath(os.path.join(bundle, root))
    if not os.path.isdir(path):
        raise OciError(f"root.path: {path} is not a directory")
    return config


def _drop_zero_limits(resources: dict[str, Any]) -> None:
    """A limit of 0 means none (dockerd writes them out); only swappiness 0 is a value."""
    for part in ("memory", "cpu", "pids", "blockIO"):
        limits = resources.get(part) or {}
        for name in [name for name, value in limits.items() if value == 0 and name != "swappiness"]:
            del limits[name]


def read_json(path: str) -> dict[str, Any]:
    """A JSON object from a file. Raises OciError naming it."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read())
    except OSError as error:
        raise OciError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise OciError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise OciError(f"{path}: not a JSON object")
    return document


def check_config(config: dict[str, Any]) -> None:
    """Raises OciError naming the first field that is wrong or not supported."""
    version = _get(config, "ociVersion", str)
    if version.partition(".")[0] != "1":
        raise OciError(f"ociVersion: {version!r} is not supported, only 1.x")
    check_process(_get(config, "process", dict), "process")
    root = _get(config, "root", dict)
    if not _get(root, "path", str, "root.path"):
        raise OciError("root.path: must not be empty")
    for index, mount in enumerate(_get(config, "mounts", list, optional=True)):
        _check_mount(mount, f"mounts[{index}]")
    _check_linux(_get(config, "linux", dict))
    for name in _UNSUPPORTED_HOOKS:
        if (config.get("hooks") or {}).get(name):
            raise OciError(f"hooks.{name}: not supported")
    for name in ("windows", "solaris", "vm", "zos", "freebsd"):
        if config.get(name):
            raise OciError(f"{name}: not supported on Linux")
    if config.get("hostname") and not _has_own(config, "uts"):
        raise OciError("hostname: cannot be set without a uts namespace of its own in linux.namespaces")
    if config.get("domainname") and not _has_own(config, "uts"):
        raise OciError("domainname: cannot be set without a uts namespace of its own in linux.namespaces")


def check_process(process: dict[str, Any], field: str) -> None:
    """Raises OciError naming the field below `field`."""
    args = _get(process, "args", list, f"{field}.args")
    if not args or not all(isinstance(arg, str) for arg in args):
        raise OciError(f"{field}.args: must be a list of strings that is not empty")
    if not _get(process, "cwd", str, f"{field}.cwd").startswith("/"):
        raise OciError(f"{field}.cwd: {process['cwd']!r} is not an absolute path")
    for entry in _get(process, "env", list, f"{field}.env", optional=True):
        if not isinstance(entry, str) or "\0" in entry:
            raise OciError(f"{field}.env: {entry!r} is not NAME=value")
    user = _get(process, "user", dict, f"{field}.user", optional=True)
    for name in ("uid", "gid"):
        if not isinstance(user.get(name, 0), int) or not 0 <= user.get(name, 0) < 2**32 - 1:
            raise OciError(f"{field}.user.{name}: {user.get(name)!r} is not a user or group ID")
    for index, limit in enumerate(_get(process, "rlimits", list, f"{field}.rlimits", optional=True)):
        if not str(limit.get("type", "")).startswith("RLIMIT_"):
            raise OciError(f"{field}.rlimits[{index}].type: {limit.get('type')!r} is unknown")
    if process.get("apparmorProfile") and not os.path.isdir("/sys/kernel/security/apparmor"):
        raise OciError(f"{field}.apparmorProfile: AppArmor is not enabled on this host")
    for name, reason in _UNSUPPORTED_PROCESS:
        if process.get(name):
            raise OciError(f"{field}.{name}: {reason}")


def _check_mount(mount: Any, field: str) -> None:
    if not isinstance(mount, dict):
        raise OciError(f"{field}: not an object")
    if not _get(mount, "destination", str, f"{field}.destination").startswith("/"):
        mount["destination"] = f"/{mount['destination']}"  # allowed by the specification for old bundles
    options = _get(mount, "options", list, f"{field}.options", optional=True)
    _check_mappings(mount, options, field)
    if ({"bind", "rbind"} & set(options) or mount.get("type") == "bind") and not mount.get("source"):
        raise OciError(f"{field}.source: missing for a bind mount")


def _check_mappings(mount: dict[str, Any], options: list[str], field: str) -> None:
    """Mapped owners: of binds only, with mappings of their own (there is no user namespace to take them from)."""
    given = [name for name in ("uidMappings", "gidMappings") if mount.get(name)]
    if not given and not {"idmap", "ridmap"} & set(options):
        return
    if len(given) < 2:
        raise OciError(f"{field}: a mapped mount needs both uidMappings and gidMappings")
    if mount.get("type") != "bind" and not {"bind", "rbind"} & set(options):
        raise OciError(f"{field}: only bind mounts can be mapped")
    for name in given:
        for index, each in enumerate(_get(mount, name, list, f"{field}.{name}")):
            numbers = [each.get(key) if isinstance(each, dict) else None for key in ("containerID", "hostID", "size")]
            if not all(isinstance(number, int) and 0 <= number < 2**32 for number in numbers):
                raise OciError(f"{field}.{name}[{index}]: containerID, hostID and size are needed")


def _check_linux(linux: dict[str, Any]) -> None:
    seen = set()
    for index, entry in enumerate(_get(linux, "namespaces", list, "linux.namespaces", optional=True)):
        kind = entry.get("type")
        if kind not in SUPPORTED_NAMESPACES:
            raise OciError(f"linux.namespaces[{index}].type: {kind!r} is not supported")
        if kind in seen:
            raise OciError(f"linux.namespaces[{index}].type: {kind!r} is there twice")
        seen.add(kind)
    if "mount" not in seen:
        raise OciError("linux.namespaces: a container without a mount namespace of its own is not supported")
    if any(entry["type"] == "mount" and entry.get("path") for entry in linux["namespaces"]):
        raise OciError("linux.namespaces: joining a mount namespace is not supported")
    for name, reason in _UNSUPPORTED_LINUX:
        if linux.get(name):
            raise OciError(f"linux.{name}: {reason}")
    if linux.get("rootfsPropagation", "") not in _PROPAGATIONS:
        raise OciError(f"linux.rootfsPropagation: {linux['rootfsPropagation']!r} is unknown")
    path = linux.get("cgroupsPath") or ""
    if path.count(":") == 2 and "/" not in path:
        raise OciError(f"linux.cgroupsPath: {path!r} is systemd's notation, which is not supported: give a path")
    for index, device in enumerate(_get(linux, "devices", list, "linux.devices", optional=True)):
        if device.get("type") not in ("c", "b", "u", "p") or not str(device.get("path", "")).startswith("/"):
            raise OciError(f"linux.devices[{index}]: type and path are needed")


def _has_own(config: dict[str, Any], kind: str) -> bool:
    return any(entry["type"] == kind for entry in config["linux"].get("namespaces") or [])


def _get(parent: dict[str, Any], name: str, kind: type, field: str = "", *, optional: bool = False) -> Any:
    """A member of the expected type; missing or null with `optional`: an empty one. Raises OciError."""
    value = parent.get(name)
    if value is None:
        if optional:
            return kind()
        raise OciError(f"{field or name}: missing")
    if not isinstance(value, kind):
        raise OciError(f"{field or name}: must be {_NAMES[kind]}")
    return value


_NAMES: Final[dict[type, str]] = {str: "a string", list: "a list", dict: "an object"}
