"""What a container uses, over HTTP.

Owns: Docker's JSON of a reading, the stream. Does not own: reading (`engine.stats`).
"""

from __future__ import annotations

import os
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from dockyard.edge.api import wire
from dockyard.edge.routing import Call, Route
from dockyard.engine.stats import Sample
from dockyard.model.errors import InvalidArgument
from dockyard.proto.times import format_rfc3339
from dockyard.runtime.cgroups.usage import BlockCount, Usage, fields_json

_NEVER = "0001-01-01T00:00:00Z"
_ALL_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # the limit of those that have none
_BLOCK_LISTS = (
    "io_queue_recursive", "io_service_time_recursive", "io_wait_time_recursive", "io_merged_recursive",
    "io_time_recursive", "sectors_recursive",
)  # fmt: skip


def stats_body(sample: Sample) -> dict[str, Any]:
    """ContainerStatsResponse."""
    before = sample.before
    body: dict[str, Any] = {
        "read": format_rfc3339(sample.at) if sample.at else _NEVER,
        "preread": format_rfc3339(before.at) if before is not None else _NEVER,
        "pids_stats": _pids(sample.usage),
        "blkio_stats": _block(sample.usage),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(sample),
        "precpu_stats": _cpu(before),
        "memory_stats": _memory(sample.usage),
        "name": f"/{sample.container.name}",
        "id": sample.container.id,
    }
    if sample.networks is not None:
        body["networks"] = {name: counts._asdict() for name, counts in sample.networks.items()}
    return body


def _pids(usage: Usage | None) -> dict[str, int]:
    if usage is None:
        return {}
    return {"current": usage.pids, "limit": usage.pids_limit or (1 << 64) - 1}


def _block(usage: Usage | None) -> dict[str, Any]:
    lists: dict[str, Any] = dict.fromkeys(_BLOCK_LISTS)
    if usage is None:
        return {"io_service_bytes_recursive": None, "io_serviced_recursive": None, **lists}
    return {
        "io_service_bytes_recursive": _counts(usage.io_bytes),
        "io_serviced_recursive": _counts(usage.io_count),
        **{name: [] if usage.io_bytes else None for name in lists},
    }


def _counts(counts: list[BlockCount] | None) -> list[dict[str, Any]] | None:
    return [count._asdict() for count in counts] if counts else None


def _cpu(sample: Sample | None) -> dict[str, Any]:
    usage = sample.usage if sample is not None else None
    if sample is None or usage is None:
        nothing = {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}
        return {"cpu_usage": nothing, "throttling_data": _throttling(0, 0, 0)}
    used: dict[str, Any] = {"total_usage": usage.cpu_total}
    if usage.cpu_each:
        used["percpu_usage"] = usage.cpu_each
    used |= {"usage_in_kernelmode": usage.cpu_system, "usage_in_usermode": usage.cpu_user}
    return {
        "cpu_usage": used,
        "system_cpu_usage": sample.system_cpu,
        "online_cpus": sample.processors,
        "throttling_data": _throttling(usage.periods, usage.throttled_periods, usage.throttled_time),
    }


def _throttling(periods: int, throttled: int, time: int) -> dict[str, int]:
    return {"periods": periods, "throttled_periods": throttled, "throttled_time": time}


def _memory(usage: Usage | None) -> dict[str, Any]:
    if usage is None or not usage.memory_details:
        return {}
    body: dict[str, Any] = {"usage": usage.memory}
    if usage.memory_peak:
        body["max_usage"] = usage.memory_peak
    body["stats"] = msgspec.Raw(fields_json(usage.memory_details))
    if usage.memory_failures:
        body["failcnt"] = usage.memory_failures
    body["limit"] = min(usage.memory_limit or _ALL_MEMORY, _ALL_MEMORY)
    return body


async def stats(call: Call) -> web.StreamResponse:
    """A reading every second, or one."""
    ref, one_shot = call.path("id"), call.flag("one-shot")
    if not call.flag("stream", default=True):
        return call.json(stats_body(await call.engine.stats.once(ref, one_shot=one_shot)))
    if one_shot:
        raise InvalidArgument("cannot have stream=true and one-shot=true")
    async with aclosing(call.engine.stats.stream(ref)) as samples:
        response = None
        async for sample in samples:
            response = response or await call.stream("application/json")
            await response.write(wire.encode(stats_body(sample)) + b"\n")
    assert response is not None  # the first sample comes before any end
    return response


ROUTES = [Route("GET", "/containers/{id}/stats", stats)]
