"""The limits of a container: flags of `run`, `create` and `update`, and the fields of a request that they become.

Owns: their names, help, values and fields. Does not own: limits that cannot be changed later (`container_flags`).
"""

from __future__ import annotations

from dockyard.edge.cli.flags import BYTES, INT, Kind, value


def _cpus(text: str) -> int:
    from decimal import Decimal, InvalidOperation

    try:
        nano = Decimal(text) * 1_000_000_000
    except InvalidOperation:
        raise ValueError(f"failed to parse {text} as a rational number") from None
    if not nano.is_finite() or nano != nano.to_integral_value():
        raise ValueError("value is too precise")
    return int(nano)


RESOURCE_FLAGS = (
    value("--blkio-weight", "Block IO (relative weight), between 10 and 1000, or 0 to disable", INT),
    value("--cpu-period", "Limit CPU CFS (Completely Fair Scheduler) period", INT),
    value("--cpu-quota", "Limit CPU CFS (Completely Fair Scheduler) quota", INT),
    value("--cpu-rt-period", "Limit CPU real-time period in microseconds", INT),
    value("--cpu-rt-runtime", "Limit CPU real-time runtime in microseconds", INT),
    value("-c --cpu-shares", "CPU shares (relative weight)", INT),
    value("--cpus", "Number of CPUs", Kind("decimal", _cpus)),
    value("--cpuset-cpus", "CPUs in which to allow execution (0-3, 0,1)"),
    value("--cpuset-mems", "MEMs in which to allow execution (0-3, 0,1)"),
    value("-m --memory", "Memory limit", BYTES),
    value("--memory-reservation", "Memory soft limit", BYTES),
    value("--memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap", BYTES),
    value("--pids-limit", "Tune container pids limit (set -1 for unlimited)", INT),
)
RESOURCE_FIELDS = {  # field of HostConfig → flag; the value goes as it is
    "BlkioWeight": "blkio-weight",
    "CpuPeriod": "cpu-period",
    "CpuQuota": "cpu-quota",
    "CpuRealtimePeriod": "cpu-rt-period",
    "CpuRealtimeRuntime": "cpu-rt-runtime",
    "CpuShares": "cpu-shares",
    "CpusetCpus": "cpuset-cpus",
    "CpusetMems": "cpuset-mems",
    "Memory": "memory",
    "MemoryReservation": "memory-reservation",
    "MemorySwap": "memory-swap",
    "NanoCpus": "cpus",
    "PidsLimit": "pids-limit",
}
