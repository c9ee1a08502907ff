"""Limits of a container: settings → OCI `linux.resources`.

Owns: the mapping and its arithmetic. Does not own: validation against the host, defaults that Docker writes back into
the settings (the engine does both), enforcing (`runtime.cgroups`).
"""

from __future__ import annotations

from typing import Any, Final

from dockyard.model.container import HostConfig, ThrottleDevice
from dockyard.runtime.bundle.devices import device_number

_CPU_PERIOD: Final = 100_000  # microseconds, the kernel's default

_THROTTLES: Final = (
    ("blkio_device_read_bps", "throttleReadBpsDevice"),
    ("blkio_device_write_bps", "throttleWriteBpsDevice"),
    ("blkio_device_read_iops", "throttleReadIOPSDevice"),
    ("blkio_device_write_iops", "throttleWriteIOPSDevice"),
)


def oci_resources(host: HostConfig) -> dict[str, Any]:
    """`linux.resources` without `devices`; only what was asked for. Raises InvalidArgument (throttled devices)."""
    resources: dict[str, Any] = {}
    for key, part in (("memory", _memory(host)), ("cpu", _cpu(host)), ("blockIO", _block_io(host))):
        if part:
            resources[key] = part
    if host.pids_limit is not None:
        resources["pids"] = {"limit": host.pids_limit if host.pids_limit > 0 else -1}
    return resources


def _memory(host: HostConfig) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if host.memory > 0:
        memory["limit"] = host.memory
    if host.memory_reservation > 0:
        memory["reservation"] = host.memory_reservation
    if host.memory_swap:
        memory["swap"] = host.memory_swap  # -1: no limit
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    if host.kernel_memory_tcp > 0:
        memory["kernelTCP"] = host.kernel_memory_tcp
    return memory


def _cpu(host: HostConfig) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if host.nano_cpus > 0:
        cpu["period"] = _CPU_PERIOD
        cpu["quota"] = host.nano_cpus * _CPU_PERIOD // 1_000_000_000
    if host.cpu_period:
        cpu["period"] = host.cpu_period
    if host.cpu_quota:
        cpu["quota"] = host.cpu_quota
    for key, value in (
        ("shares", host.cpu_shares),
        ("realtimePeriod", host.cpu_realtime_period),
        ("realtimeRuntime", host.cpu_realtime_runtime),
        ("cpus", host.cpuset_cpus),
        ("mems", host.cpuset_mems),
    ):
        if value:
            cpu[key] = value
    return cpu


def _block_io(host: HostConfig) -> dict[str, Any]:
    block: dict[str, Any] = {}
    if host.blkio_weight:
        block["weight"] = host.blkio_weight
    if host.blkio_weight_device:
        weights = []
        for device in host.blkio_weight_device:
            major, minor = device_number(device.path, "blkio-weight-device")
            weights.append({"major": major, "minor": minor, "weight": device.weight})
        block["weightDevice"] = weights
    for field, key in _THROTTLES:
        throttles: list[ThrottleDevice] | None = getattr(host, field)
        if throttles:
            block[key] = [_throttle(device, field) for device in throttles]
    return block


def _throttle(device: ThrottleDevice, field: str) -> dict[str, Any]:
    major, minor = device_number(device.path, field.replace("blkio_", "").replace("_", "-"))
    return {"major": major, "minor": minor, "rate": device.rate}
