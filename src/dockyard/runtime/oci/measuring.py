"""update and events of the OCI command.

Owns: limits from options or a resources document, the readings of a container as runc prints them, and their stream
with a record for each process that was killed for lack of memory. Does not own: control groups (`runtime.cgroups`).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

from dockyard.runtime.cgroups.usage import BlockCount, Meter, fields
from dockyard.runtime.oci import resctrl
from dockyard.runtime.oci.arguments import Arguments, Option
from dockyard.runtime.oci.configuration import check_resources, read_json
from dockyard.runtime.oci.containers import STOPPED, Container, write_whole
from dockyard.runtime.oci.errors import OciError

# option -> where it is in linux.resources
_NUMBERS: Final = {
    "blkio-weight": ("blockIO", "weight"), "cpu-period": ("cpu", "period"), "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"), "cpu-share": ("cpu", "shares"), "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"), "cpu-idle": ("cpu", "idle"), "pids-limit": ("pids", "limit"),
}  # fmt: skip
_TEXTS: Final = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
_SIZES: Final = {
    "memory": ("memory", "limit"), "memory-reservation": ("memory", "reservation"), "memory-swap": ("memory", "swap"),
    "kernel-memory": ("memory", "kernel"), "kernel-memory-tcp": ("memory", "kernelTCP"),
}  # fmt: skip
_SCHEMATA: Final = {"l3-cache-schema": "l3CacheSchema", "mem-bw-schema": "memBwSchema"}
UPDATE_OPTIONS: Final = (
    Option(("resources", "r")),
    *(Option((name,)) for name in (*_NUMBERS, *_TEXTS, *_SIZES, *_SCHEMATA)),
)
EVENTS_OPTIONS: Final = (Option(("interval",)), Option(("stats",), value=False))
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LOOK: Final = 0.1  # s between looks for what the kernel has killed


def update(container: Container, arguments: Arguments) -> None:
    """Change limits of a created or running container. Raises OciError."""
    schemata = {field: arguments.text(name) for name, field in _SCHEMATA.items() if arguments.text(name)}
    if schemata and not container.state.get("resctrl"):
        raise OciError(f"update: container {container.id} has no linux.intelRdt")
    resources = _document(arguments.text("resources")) if arguments.text("resources") else _from_options(arguments)
    if not resources and not schemata:
        raise OciError("update: no limit is given")
    if resources.get("devices"):
        raise OciError("update: devices: cannot be changed")
    check_resources(resources, "resources")
    if container.status() == STOPPED:
        raise OciError(f"container not running: {container.id}")
    if schemata:
        resctrl.update(container.state["resctrl"], schemata)
    if not resources:
        return
    container.needed_cgroup().update(resources)
    config = container.config
    kept = config["linux"].setdefault("resources", {})
    for part, limits in resources.items():
        kept[part] = {**(kept.get(part) or {}), **limits} if isinstance(limits, dict) else limits
    write_whole(container.file("config.json"), json.dumps(config).encode())


def _document(path: str) -> dict[str, Any]:
    if path != "-":
        return read_json(path)
    try:
        document = json.loads(sys.stdin.read())
    except (ValueError, RecursionError) as error:
        raise OciError(f"update: --resources: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise OciError("update: --resources: not a JSON object")
    return document


def _from_options(arguments: Arguments) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for name, (part, key) in {**_NUMBERS, **_TEXTS, **_SIZES}.items():
        text = arguments.text(name)
        if not text:
            continue
        value = text if name in _TEXTS else _size(name, text) if name in _SIZES else _number(name, text)
        resources.setdefault(part, {})[key] = value
    return resources


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OciError(f"update: --{name}: {text!r} is not a number") from None


def _size(name: str, text: str) -> int:
    """Bytes, with b, k, m, g or t behind; -1: no limit."""
    plain = text.lower().removesuffix("b")
    unit = plain[-1:] if plain[-1:] in "kmgt" else ""
    return _number(name, plain.removesuffix(unit)) * _UNITS[unit]


def events(container: Container, arguments: Arguments) -> int:
    """Print readings: one with --stats, else one each --interval until the container ends. Raises OciError."""
    interval = _seconds(arguments.text("interval", "5s"))
    if container.status() == STOPPED:
        raise OciError(f"container {container.id} is not running")
    cgroup = container.needed_cgroup()
    meter = Meter(cgroup.path)
    try:
        if arguments.flag("stats"):
            _print(container.id, "stats", _reading(meter))
            return 0
        killed, due = cgroup.oom_kills(), 0.0
        while container.status() != STOPPED:
            if time.monotonic() >= due:
                due = time.monotonic() + interval
                _print(container.id, "stats", _reading(meter))
            time.sleep(min(_LOOK, interval))
            found = cgroup.oom_kills()
            for _ in range(found - killed):
                _print(container.id, "oom", None)
            killed = found
    except OSError:
        if container.status() != STOPPED:  # else it has just gone, and its group with it
            raise
    finally:
        meter.close()
    return 0


def _seconds(text: str) -> float:
    """Go's way of writing a duration, as far as one looks at containers: "500ms", "5s", "1m"."""
    for suffix, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)):
        number = text.removesuffix(suffix)
        if number != text and number.replace(".", "", 1).isdecimal() and float(number) > 0:
            return float(number) * factor
    raise OciError(f"events: --interval: {text!r} is not a duration above 0, as 5s")


def _print(identity: str, kind: str, data: dict[str, Any] | None) -> None:
    record: dict[str, Any] = {"type": kind, "id": identity}
    if data is not None:
        record["data"] = data
    print(json.dumps(record, separators=(",", ":")), flush=True)


def _reading(meter: Meter) -> dict[str, Any]:
    """One reading under runc's names."""
    usage = meter.read()
    details = fields(usage.memory_details.decode())
    limit = usage.memory_limit or (1 << 64) - 1
    memory = {"limit": limit, "usage": usage.memory, "max": usage.memory_peak, "failcnt": usage.memory_failures}
    return {
        "cpu": {
            "usage": {
                "total": usage.cpu_total, "percpu": usage.cpu_each or [], "kernel": usage.cpu_system,
                "user": usage.cpu_user,
            },
            "throttling": {
                "periods": usage.periods, "throttledPeriods": usage.throttled_periods,
                "throttledTime": usage.throttled_time,
            },
        },
        "memory": {
            "cache": details.get("cache", details.get("file", 0)),
            "usage": memory,
            "raw": details,
        },
        "pids": {"current": usage.pids, "limit": usage.pids_limit},
        "blkio": {
            "ioServiceBytesRecursive": _blocks(usage.io_bytes), "ioServicedRecursive": _blocks(usage.io_count),
        },
    }  # fmt: skip


def _blocks(counts: list[BlockCount] | None) -> list[dict[str, Any]]:
    return [{"major": c.major, "minor": c.minor, "op": c.op, "value": c.value} for c in counts or ()]
