"""The types of config.json, of process.json and of resources: what is there is what the specification says it is.

Owns: the table, and looking through a document with it, so that nothing behind has to expect a list where an object
should be. Does not own: what values mean, which are missing (`configuration`). Source: OCI runtime-spec, config.md,
config-linux.md and its JSON schema. Members that are not in the table are not looked at: newer callers send more.
"""

from __future__ import annotations

from typing import Any, Final

from dockyard.runtime.oci.errors import OciError

_MOST: Final = 1 << 64
_ANY: Final = "*"  # every member of an object
_NAMES: Final[dict[type, str]] = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}

_IDS: Final = [{"containerID": int, "hostID": int, "size": int}]
_DEVICE: Final = {"major": int, "minor": int}
_HOOKS: Final = {_ANY: [{"path": str, "args": [str], "env": [str], "timeout": int}]}
RESOURCES: Final[dict[str, Any]] = {
    "devices": [{"allow": bool, "type": str, "access": str, **_DEVICE}],
    "memory": {
        **dict.fromkeys(("limit", "reservation", "swap", "kernel", "kernelTCP", "swappiness"), int),
        **dict.fromkeys(("disableOOMKiller", "useHierarchy", "checkBeforeUpdate"), bool),
    },
    "cpu": {
        **dict.fromkeys(("shares", "quota", "burst", "period", "realtimeRuntime", "realtimePeriod", "idle"), int),
        **dict.fromkeys(("cpus", "mems"), str),
    },
    "pids": {"limit": int},
    "blockIO": {
        **dict.fromkeys(("weight", "leafWeight"), int),
        "weightDevice": [{"weight": int, "leafWeight": int, **_DEVICE}],
        **{
            f"throttle{way}{kind}Device": [{"rate": int, **_DEVICE}]
            for way in ("Read", "Write")
            for kind in ("Bps", "IOPS")
        },
    },
    "hugepageLimits": [{"pageSize": str, "limit": int}],
    "network": {"classID": int, "priorities": [{"name": str, "priority": int}]},
    "rdma": {_ANY: {"hcaHandles": int, "hcaObjects": int}},
    "unified": {_ANY: str},
}
PROCESS: Final[dict[str, Any]] = {
    **dict.fromkeys(("terminal", "noNewPrivileges"), bool),
    **dict.fromkeys(("cwd", "apparmorProfile", "selinuxLabel", "commandLine"), str),
    "consoleSize": {"height": int, "width": int},
    "args": [str],
    "env": [str],
    "user": {"uid": int, "gid": int, "umask": int, "additionalGids": [int], "username": str},
    "capabilities": {_ANY: [str]},
    "rlimits": [{"type": str, "soft": int, "hard": int}],
    "oomScoreAdj": int,
    "scheduler": {
        "policy": str,
        "flags": [str],
        **dict.fromkeys(("nice", "priority", "runtime", "deadline", "period"), int),
    },
    "ioPriority": {"class": str, "priority": int},
    "execCPUAffinity": {"initial": str, "final": str},
}
_LINUX: Final = {
    **dict.fromkeys(("cgroupsPath", "rootfsPropagation", "mountLabel"), str),
    "namespaces": [{"type": str, "path": str}],
    "uidMappings": _IDS,
    "gidMappings": _IDS,
    "timeOffsets": {_ANY: {"secs": int, "nanosecs": int}},
    "devices": [{"type": str, "path": str, "fileMode": int, "uid": int, "gid": int, **_DEVICE}],
    "sysctl": {_ANY: str},
    "resources": RESOURCES,
    "maskedPaths": [str],
    "readonlyPaths": [str],
    "personality": {"domain": str, "flags": [str]},
    "netDevices": {_ANY: {"name": str}},
    "intelRdt": {"closID": str, "l3CacheSchema": str, "memBwSchema": str, "schemata": [str], "enableMonitoring": bool},
    "memoryPolicy": {"mode": str, "nodes": str, "flags": [str]},
    "seccomp": {
        "defaultAction": str,
        "defaultErrnoRet": int,
        "architectures": [str],
        "flags": [str],
        "listenerPath": str,
        "listenerMetadata": str,
        "syscalls": [
            {
                "names": [str],
                "action": str,
                "errnoRet": int,
                "args": [{"index": int, "value": int, "valueTwo": int, "op": str}],
            }
        ],
    },
}
CONFIG: Final[dict[str, Any]] = {
    **dict.fromkeys(("ociVersion", "hostname", "domainname"), str),
    "process": PROCESS,
    "root": {"path": str, "readonly": bool},
    "mounts": [
        {
            **dict.fromkeys(("destination", "type", "source"), str),
            "options": [str],
            "uidMappings": _IDS,
            "gidMappings": _IDS,
        }
    ],
    "hooks": _HOOKS,
    "annotations": {_ANY: str},
    "linux": _LINUX,
}


def check(value: Any, shape: Any, field: str = "") -> None:
    """Raises OciError naming the first member of a wrong type, or with text that nothing can be called. null stands
    for a member that is not there."""
    if value is None:
        return
    kind = _kind(shape)
    right: bool = isinstance(value, kind)
    if not right or (kind is int and isinstance(value, bool)):
        raise OciError(f"{field or 'config.json'}: must be {_NAMES[kind]}")
    if isinstance(shape, list):
        for index, each in enumerate(value):
            if each is None:
                raise OciError(f"{field}[{index}]: must be {_NAMES[_kind(shape[0])]}")
            check(each, shape[0], f"{field}[{index}]")
    elif isinstance(shape, dict):
        _check_members(value, shape, field)
    elif kind is str and ("\0" in value or not _is_text(value)):
        raise OciError(f"{field}: must not contain NUL or half of a surrogate pair")
    elif kind is int and not -_MOST < value < _MOST:
        raise OciError(f"{field}: is out of range")


def _kind(shape: Any) -> type:
    return shape if isinstance(shape, type) else type(shape)


def _check_members(value: dict[str, Any], shape: dict[str, Any], field: str) -> None:
    before = f"{field}." if field else ""
    for name, each in value.items():
        expected = shape.get(name, shape.get(_ANY))
        if expected is not None:
            if _ANY in shape and ("\0" in name or not _is_text(name)):
                raise OciError(f"{field}: names must not contain NUL or half of a surrogate pair")
            check(each, expected, f"{before}{name}")


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
