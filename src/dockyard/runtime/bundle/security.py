"""What a container may do: capabilities, seccomp, masked paths, security options.

Owns: Docker's defaults and the rules by which settings change them. Pure: values in, values out.
Does not own: probing the host (`runtime.bundle.host`), enforcing (`runtime.init`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from dockyard.model.container import HostConfig, Ulimit
from dockyard.model.errors import InvalidArgument

UNCONFINED: Final = "unconfined"
BUILTIN: Final = "builtin"

DEFAULT_CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)  # and cpuN/thermal_throttle of each processor: Host.thermal_paths
READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_RLIMITS: Final = frozenset(
    ("CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS", "RTPRIO")
    + ("RTTIME", "SIGPENDING", "STACK")
)
_TRUE: Final = ("1", "t", "T", "true", "TRUE", "True")
_FALSE: Final = ("0", "f", "F", "false", "FALSE", "False")


class SecurityOptions(NamedTuple):
    """`--security-opt`, taken apart. None or "" means not given."""

    seccomp: str = ""  # "unconfined", "builtin" or the JSON text of a profile
    apparmor: str = ""
    no_new_privileges: bool = False
    writable_cgroups: bool = False
    system_paths_unconfined: bool = False


def parse_security_options(options: Iterable[str], defaults: SecurityOptions = SecurityOptions()) -> SecurityOptions:  # noqa: B008
    """Raises InvalidArgument in Docker's words. SELinux labels are accepted and have no effect without SELinux."""
    parsed: dict[str, Any] = {}
    for option in options:
        if option == "no-new-privileges":
            parsed["no_new_privileges"] = True
            continue
        if option == "disable":  # of labels
            continue
        key, separator, value = option.partition("=" if "=" in option else ":")
        if not separator:
            raise InvalidArgument(f'invalid --security-opt 1: "{option}"')
        if key in ("seccomp", "apparmor"):
            parsed[key] = value
        elif key in ("no-new-privileges", "writable-cgroups"):
            parsed[key.replace("-", "_")] = _boolean(value, option)
        elif key == "systempaths" and value == UNCONFINED:
            parsed["system_paths_unconfined"] = True
        elif key != "label":
            raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
    return defaults._replace(**parsed)


def _boolean(value: str, option: str) -> bool:
    if value not in _TRUE + _FALSE:
        raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
    return value in _TRUE


def normalize_capabilities(
    names: Iterable[str], field: str, known: Iterable[str], available: frozenset[str]
) -> list[str]:
    """`--cap-add`/`--cap-drop` names as CAP_NAME or ALL. `field`: "CapAdd" or "CapDrop", for the message.

    Raises InvalidArgument in Docker's words for a name that does not exist, or that this host cannot give.
    """
    known = frozenset(known)
    normalized = []
    for given in names:
        name = given.upper()
        if name != "ALL" and not name.startswith("CAP_"):
            name = f"CAP_{name}"
        if name in ("ALL", "CAP_ALL"):
            normalized.append("ALL")
            continue
        if name not in known:
            raise InvalidArgument(f'invalid {field}: unknown capability: "{name}"')
        if name not in available:
            raise InvalidArgument(
                f"invalid {field}: capability not supported by your kernel or not available in the current "
                f'environment: "{name}"'
            )
        normalized.append(name)
    return normalized


def select_capabilities(host: HostConfig, known: Sequence[str], available: frozenset[str]) -> tuple[str, ...]:
    """The capabilities of the container, in the kernel's order where all are meant, else in Docker's order.

    `known` in the kernel's order; `available`: this process's bounding set. Defaults that the host cannot give are
    left out; asking for one by name is an error.
    """
    every = [name for name in known if name in available]
    if host.privileged:
        return tuple(every)
    if not host.cap_add and not host.cap_drop:
        return tuple(name for name in DEFAULT_CAPABILITIES if name in available)
    add = normalize_capabilities(host.cap_add or (), "CapAdd", known, available)
    drop = normalize_capabilities(host.cap_drop or (), "CapDrop", known, frozenset(known))
    if "ALL" in add:
        chosen = [name for name in every if name not in drop]
    elif "ALL" in drop:
        chosen = add
    else:
        chosen = [name for name in DEFAULT_CAPABILITIES if name in available and name not in drop]
        chosen += add
    return tuple(dict.fromkeys(chosen))


def oci_capabilities(names: Sequence[str], root: bool | None) -> dict[str, list[str]]:
    """The `process.capabilities` object. Never inheritable or ambient ones (S11). A user known not to be root gets
    none but the bounding set, which is what execve would leave it; `root` None: not known yet, init decides."""
    plain = list(names)
    if root is False:
        return {"bounding": plain, "effective": [], "inheritable": [], "permitted": [], "ambient": []}
    return {"bounding": plain, "effective": plain, "inheritable": [], "permitted": plain, "ambient": []}


def check_user_namespace(host: HostConfig) -> None:
    """What cannot be together with a user namespace of the container's own. InvalidArgument in Docker's words."""
    if host.privileged:
        raise InvalidArgument(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace "
            "when running privileged mode"
        )
    if host.network_mode == "host":
        raise InvalidArgument("cannot share the host's network namespace when user namespaces are enabled")
    if host.pid_mode == "host":
        raise InvalidArgument("cannot share the host PID namespace when user namespaces are enabled")


def system_paths(host: HostConfig, options: SecurityOptions, thermal: Sequence[str]) -> tuple[list[str], list[str]]:
    """(masked, read-only) paths (S13). Privileged and `systempaths=unconfined`: none; explicit lists replace ours."""
    if host.privileged or options.system_paths_unconfined:
        return [], []
    masked = [*MASKED_PATHS, *thermal] if host.masked_paths is None else host.masked_paths
    readonly = READONLY_PATHS if host.readonly_paths is None else host.readonly_paths
    return list(masked), list(readonly)


def rlimits(ulimits: Iterable[Ulimit], defaults: Iterable[Ulimit] = ()) -> list[dict[str, Any]]:
    """`process.rlimits`: `--ulimit` over the daemon's defaults; -1 is unlimited. Raises InvalidArgument."""
    chosen = {limit.name: limit for limit in (*defaults, *ulimits)}
    out = []
    for limit in chosen.values():
        name = limit.name.upper().removeprefix("RLIMIT_")
        if name not in _RLIMITS:
            raise InvalidArgument(f"invalid ulimit type: {limit.name}")
        soft, hard = (value & 0xFFFFFFFFFFFFFFFF for value in (limit.soft, limit.hard))
        if soft > hard:
            raise InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
        out.append({"type": f"RLIMIT_{name}", "soft": soft, "hard": hard})
    return out
