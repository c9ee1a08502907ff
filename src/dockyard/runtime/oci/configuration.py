"""config.json of a bundle and process.json of an exec: read and checked.

Owns: what this runtime demands of a configuration and what of the specification it does not support; every refusal
names the field. Does not own: what is done with it. Source: OCI runtime-spec 1.3, config.md and config-linux.md.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final

from dockyard.linux import capabilities, scheduling, selinux
from dockyard.runtime.cgroups import version
from dockyard.runtime.oci import joining, netdevices, resctrl, shape
from dockyard.runtime.oci.errors import OciError
from dockyard.runtime.oci.members import check_ranges, get

HOOKS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_ONLY_V1, _ONLY_V2 = "cgroup v2 has no such limit", "needs cgroup v2"
_LIMITS: Final = (  # part, limit, the versions of control groups that have it, what is said where they have not
    ("unified", "", (2,), _ONLY_V2),
    ("network", "classID", (1,), _ONLY_V1),
    ("network", "priorities", (1,), _ONLY_V1),
    ("memory", "kernel", (), "the kernel has no such limit any more"),
    ("memory", "kernelTCP", (1,), _ONLY_V1),
    ("memory", "swappiness", (1,), _ONLY_V1),
    ("memory", "disableOOMKiller", (1,), _ONLY_V1),
    ("cpu", "realtimeRuntime", (1,), _ONLY_V1),
    ("cpu", "realtimePeriod", (1,), _ONLY_V1),
    ("blockIO", "leafWeight", (), "the kernel has no such limit any more"),
)
_PROPAGATIONS: Final = ("", "shared", "slave", "private", "rshared", "rslave", "rprivate", "unbindable", "runbindable")


def load_bundle(bundle: str, file: str = "config.json") -> dict[str, Any]:
    """The checked configuration of the directory `bundle`; root.path is made absolute. Raises OciError."""
    config = read_json(os.path.join(bundle, file))
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
    except (ValueError, RecursionError) as error:
        raise OciError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise OciError(f"{path}: not a JSON object")
    return document


def check_config(config: dict[str, Any]) -> None:
    """Raises OciError naming the first field that is wrong or not supported."""
    shape.check(config, shape.CONFIG)
    version = get(config, "ociVersion", str)
    if version.partition(".")[0] != "1":
        raise OciError(f"ociVersion: {version!r} is not supported, only 1.x")
    check_process(get(config, "process", dict), "process")
    root = get(config, "root", dict)
    if not get(root, "path", str, "root.path"):
        raise OciError("root.path: must not be empty")
    kinds = _check_linux(get(config, "linux", dict))
    for index, mount in enumerate(get(config, "mounts", list, optional=True)):
        _check_mount(mount, f"mounts[{index}]", "user" in kinds)
    _check_hooks(get(config, "hooks", dict, optional=True))
    for name in ("windows", "solaris", "vm", "zos", "freebsd"):
        if config.get(name):
            raise OciError(f"{name}: not supported on Linux")
    if config.get("hostname") and not _has_own(config, "uts"):
        raise OciError("hostname: cannot be set without a uts namespace of its own in linux.namespaces")
    if config.get("domainname") and not _has_own(config, "uts"):
        raise OciError("domainname: cannot be set without a uts namespace of its own in linux.namespaces")


def check_process(process: dict[str, Any], field: str) -> None:
    """Raises OciError naming the field below `field`."""
    shape.check(process, shape.PROCESS, field)
    args = get(process, "args", list, f"{field}.args")
    if not args or not all(isinstance(arg, str) for arg in args):
        raise OciError(f"{field}.args: must be a list of strings that is not empty")
    if not get(process, "cwd", str, f"{field}.cwd").startswith("/"):
        raise OciError(f"{field}.cwd: {process['cwd']!r} is not an absolute path")
    for entry in get(process, "env", list, f"{field}.env", optional=True):
        if not isinstance(entry, str) or "\0" in entry:
            raise OciError(f"{field}.env: {entry!r} is not NAME=value")
    user = get(process, "user", dict, f"{field}.user", optional=True)
    for name in ("uid", "gid"):
        if not isinstance(user.get(name, 0), int) or not 0 <= user.get(name, 0) < 2**32 - 1:
            raise OciError(f"{field}.user.{name}: {user.get(name)!r} is not a user or group ID")
    for index, limit in enumerate(get(process, "rlimits", list, f"{field}.rlimits", optional=True)):
        if not str(limit.get("type", "")).startswith("RLIMIT_"):
            raise OciError(f"{field}.rlimits[{index}].type: {limit.get('type')!r} is unknown")
    if process.get("apparmorProfile") and not os.path.isdir("/sys/kernel/security/apparmor"):
        raise OciError(f"{field}.apparmorProfile: AppArmor is not enabled on this host")
    if process.get("selinuxLabel") and not selinux.enabled():
        raise OciError(f"{field}.selinuxLabel: SELinux is not enabled on this host")
    _check_scheduling(process, field)
    _look_at_capabilities(get(process, "capabilities", dict, f"{field}.capabilities", optional=True), field)
    if process.get("commandLine"):
        raise OciError(f"{field}.commandLine: not supported on Linux")


def _look_at_capabilities(sets: dict[str, Any], field: str) -> None:
    """Unknown names are told and left out, as the specification wants it: kernels are older or newer than callers."""
    for kind in sets:
        for name in get(sets, kind, list, f"{field}.capabilities.{kind}", optional=True):
            if name not in capabilities.NUMBERS:
                print(f"dockyard-runtime: warning: {field}.capabilities.{kind}: {name!r} is unknown", file=sys.stderr)


def _check_scheduling(process: dict[str, Any], field: str) -> None:
    wanted = get(process, "scheduler", dict, f"{field}.scheduler", optional=True)
    if wanted and wanted.get("policy") not in scheduling.POLICIES:
        raise OciError(f"{field}.scheduler.policy: {wanted.get('policy')!r} is unknown")
    for flag in wanted.get("flags") or ():
        if flag not in scheduling.SCHEDULER_FLAGS:
            raise OciError(f"{field}.scheduler.flags: {flag!r} is unknown")
    wanted = get(process, "ioPriority", dict, f"{field}.ioPriority", optional=True)
    if wanted and wanted.get("class") not in scheduling.IO_CLASSES:
        raise OciError(f"{field}.ioPriority.class: {wanted.get('class')!r} is unknown")
    if not 0 <= (wanted.get("priority") or 0) <= 7:
        raise OciError(f"{field}.ioPriority.priority: {wanted['priority']!r} is not from 0 to 7")
    affinity = get(process, "execCPUAffinity", dict, f"{field}.execCPUAffinity", optional=True)
    for name in ("initial", "final"):
        _check_list(affinity, name, f"{field}.execCPUAffinity.{name}")


def _check_list(parent: dict[str, Any], name: str, field: str) -> None:
    text = get(parent, name, str, field, optional=True)
    try:
        scheduling.parse_list(text)
    except ValueError:
        raise OciError(f"{field}: {text!r} is no list of numbers and ranges, as 0-3,7") from None


def _check_memory_policy(policy: dict[str, Any]) -> None:
    if policy and policy.get("mode") not in scheduling.MEMORY_MODES:
        raise OciError(f"linux.memoryPolicy.mode: {policy.get('mode')!r} is unknown")
    for flag in get(policy, "flags", list, "linux.memoryPolicy.flags", optional=True):
        if flag not in scheduling.MEMORY_FLAGS:
            raise OciError(f"linux.memoryPolicy.flags: {flag!r} is unknown")
    _check_list(policy, "nodes", "linux.memoryPolicy.nodes")


def _check_hooks(hooks: dict[str, Any]) -> None:
    for name in hooks:
        if name not in HOOKS:
            raise OciError(f"hooks.{name}: unknown")
        for index, hook in enumerate(get(hooks, name, list, f"hooks.{name}", optional=True)):
            field = f"hooks.{name}[{index}]"
            path = get(hook, "path", str, f"{field}.path") if isinstance(hook, dict) else ""
            if not path.startswith("/"):
                raise OciError(f"{field}.path: {path!r} is not an absolute path")
            for key in ("args", "env"):
                if not all(isinstance(word, str) for word in get(hook, key, list, f"{field}.{key}", optional=True)):
                    raise OciError(f"{field}.{key}: must be a list of strings")
            timeout = hook.get("timeout")
            if timeout is not None and (not isinstance(timeout, int) or timeout <= 0):
                raise OciError(f"{field}.timeout: {timeout!r} is not a number of seconds above 0")


def _check_mount(mount: Any, field: str, has_users: bool) -> None:
    if not isinstance(mount, dict):
        raise OciError(f"{field}: not an object")
    if not get(mount, "destination", str, f"{field}.destination").startswith("/"):
        mount["destination"] = f"/{mount['destination']}"  # allowed by the specification for old bundles
    options = get(mount, "options", list, f"{field}.options", optional=True)
    _check_mappings(mount, options, field, has_users)
    if ({"bind", "rbind"} & set(options) or mount.get("type") == "bind") and not mount.get("source"):
        raise OciError(f"{field}.source: missing for a bind mount")


def _check_mappings(mount: dict[str, Any], options: list[str], field: str, has_users: bool) -> None:
    """Mapped owners: of binds only, with both mappings of their own or those of the container's user namespace."""
    given = [name for name in ("uidMappings", "gidMappings") if mount.get(name)]
    if not given and not {"idmap", "ridmap"} & set(options):
        return
    if len(given) < 2 and (given or not has_users):
        raise OciError(f"{field}: a mapped mount needs both uidMappings and gidMappings, or a user namespace")
    if mount.get("type") != "bind" and not {"bind", "rbind"} & set(options):
        raise OciError(f"{field}: only bind mounts can be mapped")
    for name in given:
        check_ranges(mount, name, f"{field}.{name}")


def _check_linux(linux: dict[str, Any]) -> set[str]:
    seen = joining.check(linux)
    if linux.get("mountLabel") and not selinux.enabled():
        raise OciError("linux.mountLabel: SELinux is not enabled on this host")
    netdevices.check(linux, seen)
    resctrl.check(linux)
    _check_memory_policy(get(linux, "memoryPolicy", dict, "linux.memoryPolicy", optional=True))
    if linux.get("rootfsPropagation", "") not in _PROPAGATIONS:
        raise OciError(f"linux.rootfsPropagation: {linux['rootfsPropagation']!r} is unknown")
    _check_personality(get(linux, "personality", dict, "linux.personality", optional=True))
    _check_offsets(get(linux, "timeOffsets", dict, "linux.timeOffsets", optional=True), seen)
    check_resources(get(linux, "resources", dict, "linux.resources", optional=True), "linux.resources")
    for index, device in enumerate(get(linux, "devices", list, "linux.devices", optional=True)):
        if device.get("type") not in ("c", "b", "u", "p") or not str(device.get("path", "")).startswith("/"):
            raise OciError(f"linux.devices[{index}]: type and path are needed")
    return seen


def _check_personality(personality: dict[str, Any]) -> None:
    if personality and personality.get("domain") not in scheduling.PERSONALITIES:
        raise OciError(f"linux.personality.domain: {personality.get('domain')!r} is not supported")
    if personality.get("flags"):
        raise OciError("linux.personality.flags: none is supported")


def _check_offsets(offsets: dict[str, Any], namespaces: set[str]) -> None:
    if offsets and "time" not in namespaces:
        raise OciError("linux.timeOffsets: cannot be set without a time namespace of its own in linux.namespaces")
    for clock in offsets:
        if clock not in ("monotonic", "boottime"):
            raise OciError(f"linux.timeOffsets.{clock}: the clock is unknown")


def check_resources(resources: dict[str, Any], field: str) -> None:
    """Raises OciError naming a limit that this host's control groups do not have."""
    shape.check(resources, shape.RESOURCES, field)
    number = version()
    for part, name, has, why in _LIMITS:
        value = (resources.get(part) or {}).get(name) if name else resources.get(part)
        if value and number not in has:
            raise OciError(f"{field}.{part}{'.' if name else ''}{name}: {why}")
    for index, each in enumerate((resources.get("blockIO") or {}).get("weightDevice") or ()):
        if each.get("leafWeight"):
            raise OciError(f"{field}.blockIO.weightDevice[{index}].leafWeight: the kernel has no such limit any more")
    memory = resources.get("memory") or {}
    if number == 2 and (memory.get("swap") or 0) > 0 and memory.get("limit") is None:
        raise OciError(f"{field}.memory.swap: cannot be set without memory.limit: it counts both")


def _has_own(config: dict[str, Any], kind: str) -> bool:
    return any(entry["type"] == kind for entry in config["linux"].get("namespaces") or [])
