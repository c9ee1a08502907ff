"""What a bundle needs to know about this host, read once.

Owns: `Host` and probing it. Does not own: refusing a host that lacks something (daemon start).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from msgspec import Struct

from dockyard.linux import apparmor, calls, capabilities

_CGROUP2_MAGIC: Final = 0x63677270
_UNPRIVILEGED_PORTS: Final = "net.ipv4.ip_unprivileged_port_start"
_PING_GROUPS: Final = "net.ipv4.ping_group_range"
# Docker's: any program in a container may bind low ports and ping, whatever its user.
_NET_SYSCTLS: Final = {_UNPRIVILEGED_PORTS: "0", _PING_GROUPS: "0 2147483647"}


class Host(Struct, frozen=True):
    """Facts about the host that settle what a bundle says."""

    machine: str  # uname -m
    kernel: tuple[int, int]
    cgroup_version: int  # 1 (hybrid too) or 2
    capabilities: frozenset[str]  # what this process can give at most
    thermal_paths: tuple[str, ...]  # /sys/devices/system/cpu/cpuN/thermal_throttle
    net_sysctls: dict[str, str]  # defaults for a network namespace of its own
    apparmor: bool  # the kernel has AppArmor switched on
    seccomp: bool

    @classmethod
    def probe(cls) -> Host:
        """Read /proc and /sys. Raises OSError if they are not mounted."""
        release = os.uname().release.split(".")
        return cls(
            machine=os.uname().machine,
            kernel=(int(release[0]), int("".join(c for c in release[1] if c.isdigit()))),
            cgroup_version=_cgroup_version(),
            capabilities=capabilities.bounding(),
            thermal_paths=_thermal_paths(),
            net_sysctls={name: value for name, value in _NET_SYSCTLS.items() if _sysctl(name).exists()},
            apparmor=apparmor.enabled(),
            seccomp=Path("/proc/sys/kernel/seccomp/actions_avail").exists(),
        )


def _cgroup_version() -> int:
    fd = os.open("/sys/fs/cgroup", os.O_PATH | os.O_CLOEXEC)
    try:
        return 2 if calls.filesystem_type(fd) == _CGROUP2_MAGIC else 1
    finally:
        os.close(fd)


def _thermal_paths() -> tuple[str, ...]:
    found = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")
    return tuple(sorted(map(str, found)))


def _sysctl(name: str) -> Path:
    return Path("/proc/sys", *name.split("."))
