"""`POST /containers/{id}/update`.

Owns: decoding the request: Docker's fields, and ours beside them (docs/extensions.md). Does not own: what happens
(`engine.updating`).
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web
from msgspec import Struct

from dockyard.edge.api import wire
from dockyard.edge.routing import Call, Route
from dockyard.engine.resources import UPDATABLE
from dockyard.engine.updating import Update
from dockyard.model.container import HostConfig, RestartPolicy
from dockyard.model.errors import InvalidArgument

# Docker takes these without a word and changes nothing.
_FIXED: Final = (
    "cgroup_parent", "blkio_weight_device", "blkio_device_read_bps", "blkio_device_write_bps",
    "blkio_device_read_iops", "blkio_device_write_iops", "devices", "device_cgroup_rules", "device_requests",
    "kernel_memory_tcp", "memory_swappiness", "oom_kill_disable", "init", "ulimits", "cpu_count", "cpu_percent",
    "io_maximum_iops", "io_maximum_bandwidth",
)  # fmt: skip


class PolicyRequest(RestartPolicy):
    """Docker's clients do not send `OnUnhealthy`: then it stays."""

    on_unhealthy: bool | None = None  # type: ignore[assignment]


class UpdateRequest(HostConfig):
    """Of a HostConfig, the resources and the restart policy count."""

    restart_policy: PolicyRequest | None = None  # type: ignore[assignment]
    maximum_runtime: int | None = None  # type: ignore[assignment]
    labels: dict[str, str | None] | None = None
    env: list[str] | None = None


async def update(call: Call) -> web.StreamResponse:
    request = await call.body(UpdateRequest)
    _refuse_fixed(request)
    policy = request.restart_policy
    change = Update(
        restart_policy=RestartPolicy(policy.name, policy.maximum_retry_count) if policy is not None else None,
        on_unhealthy=policy.on_unhealthy if policy is not None else None,
        maximum_runtime=request.maximum_runtime,
        labels=request.labels,
        env=request.env,
        resources=_resources(request, call.version),
    )
    return call.json({"Warnings": await call.engine.containers.update(call.path("id"), change)})


def _resources(request: UpdateRequest, version: tuple[int, int]) -> dict[str, Any]:
    """What is asked for; nothing, 0 and "" leave a limit as it is, but no processes at all means no limit of them."""
    asked = {name: given for name in UPDATABLE if (given := getattr(request, name)) not in (None, 0, "")}
    processes = asked.pop("pids_limit", request.pids_limit)
    if processes is not None and version >= (1, 40):
        asked["pids_limit"] = max(processes, 0)
    return asked


def _refuse_fixed(request: Struct) -> None:
    for name in _FIXED:
        if getattr(request, name):
            raise InvalidArgument(f"{wire.docker_name(name)} cannot be changed in place")


ROUTES = [Route("POST", "/containers/{id}/update", update)]
