"""A container's limits: what may be asked, what this kernel cannot hold, and how they change while it runs.

Owns: the rules with Docker's texts (moby's verifyPlatformContainerResources), what is discarded with a warning,
`updated`. Pure: facts and the number of CPUs are arguments. Does not own: writing them (`runtime.cgroups`), what a
bundle says (`runtime.bundle.resources`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from dockyard.model.container import HostConfig
from dockyard.model.errors import Conflict, InvalidArgument
from dockyard.runtime.cgroups.facts import CgroupFacts

MIB: Final = 1 << 20
_MAX_SHARES: Final = 262_144  # of cgroup v1; v2 has weights, to which any number is translated
_MAX_NODES: Final = 1 << 12
# What `docker update` may change; a value of zero leaves it as it is.
UPDATABLE: Final = (
    "blkio_weight", "cpu_shares", "nano_cpus", "cpu_period", "cpu_quota", "cpu_realtime_period",
    "cpu_realtime_runtime", "cpuset_cpus", "cpuset_mems", "memory", "memory_swap", "memory_reservation", "pids_limit",
)  # fmt: skip
_THROTTLES: Final = (
    ("blkio_device_read_bps", "BPS Block I/O read limit", "Block I/O BPS read limit"),
    ("blkio_device_write_bps", "BPS Block I/O write limit", "Block I/O BPS write limit"),
    ("blkio_device_read_iops", "IOPS Block read limit", "Block I/O IOPS read limit"),
    ("blkio_device_write_iops", "IOPS Block write limit", "Block I/O IOPS write limit"),
)


def check(host: HostConfig, *, cpus: int) -> None:
    """Refuse limits that cannot be. Raises InvalidArgument."""
    _check_memory(host)
    _check_cpu(host, cpus)
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    for device in host.blkio_weight_device or ():
        if not 10 <= device.weight <= 1000:
            raise InvalidArgument(f"Range of blkio weight is from 10 to 1000: {device.path}:{device.weight}")
    for name, value in (("IOMaximumBandwidth", host.io_maximum_bandwidth), ("IOMaximumIOps", host.io_maximum_iops)):
        if value:
            raise InvalidArgument(f"invalid option: {name} is for Windows containers only")
    for name, value in (("CpuCount", host.cpu_count), ("CpuPercent", host.cpu_percent)):
        if value:
            raise InvalidArgument(f"invalid option: {name} is for Windows containers only")


def _check_memory(host: HostConfig) -> None:
    if host.memory < 0:
        raise InvalidArgument(f"invalid memory limit: {host.memory}")
    if host.memory and host.memory < 6 * MIB:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory == 0 and host.memory_swap > 0:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory_swap < -1:
        raise InvalidArgument(f"invalid memory-swap limit: {host.memory_swap}")
    swappiness = host.memory_swappiness
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise InvalidArgument(f"invalid value: {swappiness}, valid memory swappiness range is 0-100")
    if host.memory_reservation < 0:
        raise InvalidArgument(f"invalid memory reservation: {host.memory_reservation}")
    if host.memory_reservation and host.memory_reservation < 6 * MIB:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if host.memory and host.memory < host.memory_reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")


def _check_cpu(host: HostConfig, cpus: int) -> None:
    if host.nano_cpus:
        if host.cpu_period:
            raise InvalidArgument("conflicting options: Nano CPUs and CPU Period cannot both be set")
        if host.cpu_quota:
            raise InvalidArgument("conflicting options: Nano CPUs and CPU Quota cannot both be set")
        if not 10_000_000 <= host.nano_cpus <= cpus * 1_000_000_000:
            raise InvalidArgument(f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpu_shares < 0:
        raise InvalidArgument(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")
    if host.cpu_realtime_period < 0 or host.cpu_realtime_runtime < 0:
        raise InvalidArgument("cpu real-time period and runtime cannot be negative")
    if host.cpu_realtime_period and host.cpu_realtime_runtime > host.cpu_realtime_period:
        raise InvalidArgument("cpu real-time runtime cannot be higher than cpu real-time period")
    for name, text in (("cpuset cpus", host.cpuset_cpus), ("cpuset mems", host.cpuset_mems)):
        if text and not re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", text):
            raise InvalidArgument(f"Invalid value {text} for {name}: invalid format: {text}")
    for cpu in re.findall(r"[0-9]+", host.cpuset_cpus):
        if int(cpu) >= cpus:
            asked, there = host.cpuset_cpus, f"0-{cpus - 1}"
            raise InvalidArgument(f"Requested CPUs are not available - requested {asked}, available: {there}")


def settle(host: HostConfig, facts: CgroupFacts) -> tuple[HostConfig, list[str]]:
    """The settings without what this kernel cannot hold, and a warning for each thing that went.

    InvalidArgument for limits whose loss would change what the container is (CPU quota, real time, cpuset).
    """
    dropped: dict[str, Any] = {}
    warnings: list[str] = []

    def drop(fields: tuple[str, ...], empty: object, warning: str) -> None:
        dropped.update(dict.fromkeys(fields, empty))
        warnings.append(warning)

    _settle_memory(host, facts, drop)
    if host.memory and "memory" not in dropped and host.memory_swap == -1 and not facts.swap_limit:
        dropped["memory_swap"] = 0
    if host.pids_limit and host.pids_limit > 0 and not facts.pids_limit:
        drop(("pids_limit",), None, _lacks("PIDs limit", "PIDs limit discarded"))
    if host.cpu_shares and not facts.cpu_shares:
        drop(("cpu_shares",), 0, _lacks("CPU shares", "Shares discarded"))
    _settle_cpu(host, facts)
    if host.blkio_weight and not facts.blkio_weight:
        drop(("blkio_weight",), 0, _lacks("Block I/O weight", "Weight discarded"))
    if host.blkio_weight_device and not facts.blkio_weight_device:
        drop(("blkio_weight_device",), None, _lacks("Block I/O weight_device", "Weight-device discarded"))
    for field, what, outcome in _THROTTLES:
        if getattr(host, field) and not facts.blkio_throttle:
            drop((field,), None, _lacks(what, f"{outcome} discarded"))
    return replace(host, **dropped), warnings


def _lacks(what: str, outcome: str) -> str:
    return f"Your kernel does not support {what} or the cgroup is not mounted. {outcome}."


def _settle_memory(host: HostConfig, facts: CgroupFacts, drop: Callable[[tuple[str, ...], object, str], None]) -> None:
    if host.memory and not facts.memory_limit:
        drop(("memory", "memory_swap"), 0, _lacks("memory limit capabilities", "Limitation discarded"))
    elif host.memory and host.memory_swap > 0 and not facts.swap_limit:
        text = "Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
        drop(("memory_swap",), 0, text + "Memory limited without swap.")
    if host.memory_reservation and not facts.memory_reservation:
        drop(("memory_reservation",), 0, _lacks("memory soft limit capabilities", "Limitation discarded"))
    if host.memory_swappiness is not None and host.memory_swappiness >= 0 and not facts.swappiness:
        drop(("memory_swappiness",), None, _lacks("memory swappiness capabilities", "Memory swappiness discarded"))
    if host.oom_kill_disable and not facts.oom_kill_disable:
        drop(("oom_kill_disable",), None, "Your kernel does not support OomKillDisable. OomKillDisable discarded.")
    if host.kernel_memory_tcp and not facts.kernel_memory_tcp:
        drop(("kernel_memory_tcp",), 0, _lacks("kernel memory TCP limit", "Limitation discarded"))


def _settle_cpu(host: HostConfig, facts: CgroupFacts) -> None:
    if (host.nano_cpus or host.cpu_quota or host.cpu_period) and not facts.cpu_quota:
        raise InvalidArgument("NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler "
                              "or the cgroup is not mounted")  # fmt: skip
    if (host.cpu_realtime_period or host.cpu_realtime_runtime) and not facts.cpu_realtime:
        raise InvalidArgument("kernel does not support CPU real-time scheduler")
    if host.cpu_shares and facts.version == 1 and not 2 <= host.cpu_shares <= _MAX_SHARES:
        bound = "minimum allowed cpu-shares is 2" if host.cpu_shares < 2 else "maximum allowed cpu-shares is 262144"
        raise InvalidArgument(f"the {bound}")
    if facts.mems and not _numbers(host.cpuset_mems) <= _numbers(facts.mems):
        raise InvalidArgument(
            f"Requested memory nodes are not available - requested {host.cpuset_mems}, available: {facts.mems}"
        )
    if (host.cpuset_cpus or host.cpuset_mems) and not facts.cpuset:
        raise InvalidArgument("cpusets can not be set, as your kernel does not support them "
                              "or the cgroup is not mounted")  # fmt: skip


def _numbers(text: str) -> set[int]:
    """Of a list as cpusets have it: "0-1,4"."""
    found: set[int] = set()
    for first, last in re.findall(r"([0-9]+)(?:-([0-9]+))?", text):
        found.update(range(int(first), min(int(last or first), int(first) + _MAX_NODES) + 1))
    return found


def updated(
    host: HostConfig, asked: Mapping[str, Any], *, cpus: int, facts: CgroupFacts
) -> tuple[HostConfig, list[str]]:
    """The settings with what `asked` (names of `UPDATABLE`, none of them empty but `pids_limit`) changes of them, and
    warnings.

    InvalidArgument or Conflict in Docker's words.
    """
    wanted, warnings = settle(replace(HostConfig(), **asked), facts)
    changes = {name: getattr(wanted, name) for name in asked if getattr(wanted, name) not in (None, 0, "")}
    if asked.get("pids_limit") == 0:  # no limit any more
        changes["pids_limit"] = 0
    for given, before in (
        ("nano_cpus", "cpu_period"), ("nano_cpus", "cpu_quota"), ("cpu_period", "nano_cpus"), ("cpu_quota", "nano_cpus")
    ):  # fmt: skip
        if given in changes and getattr(host, before) > 0:
            new, old = _CPU_NAMES[given], _CPU_NAMES[before]
            raise Conflict(f"Conflicting options: {new} cannot be updated as {old} has already been set")
    if "memory" in changes and "memory_swap" not in changes and 0 < host.memory_swap < changes["memory"]:
        raise Conflict("Memory limit should be smaller than already set memoryswap limit, "
                       "update the memoryswap at the same time")  # fmt: skip
    after = replace(host, **changes)
    check(after, cpus=cpus)
    return after, warnings


_CPU_NAMES: Final = {"nano_cpus": "NanoCPUs", "cpu_period": "CPU Period", "cpu_quota": "CPU Quota"}
