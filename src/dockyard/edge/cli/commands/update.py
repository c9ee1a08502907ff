"""`dockyard update`: change containers in place."""

from __future__ import annotations

from dockyard.edge.cli.api import container_path
from dockyard.edge.cli.call import Body, Call, complain, each
from dockyard.edge.cli.container_flags import CPUS, ENVIRONMENT
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import BYTES, DURATION, INT, flag, many, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_RESOURCES = {  # field of the request → flag; the value goes as it is
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


def _update(call: Call) -> int:
    if not call.values:
        raise CliError("you must provide one or more flags when using this command")
    request = _request(call)

    def one(name: str) -> str:
        answer = call.api.post(f"{container_path(name)}/update", None, request)
        for warning in (answer or {}).get("Warnings") or []:
            complain(warning)
        return name

    return each(call.arguments, one)


def _request(call: Call) -> dict[str, Any]:
    request: dict[str, Any] = {field: call.get(key) for field, key in _RESOURCES.items() if call.given(key)}
    policy: dict[str, Any] = {}
    if call.given("restart"):
        from dockyard.edge.cli.container_spec import parse_restart

        policy |= parse_restart(call.text("restart"))
    if call.given("restart-on-unhealthy"):
        policy["OnUnhealthy"] = call.on("restart-on-unhealthy")
    if policy:
        request["RestartPolicy"] = policy
    if call.given("max-runtime"):
        request["MaximumRuntime"] = call.number("max-runtime")
    labels: dict[str, str | None] = dict.fromkeys(call.texts("label-rm"))
    for label in call.texts("label"):
        name, _, text = label.partition("=")
        labels[name] = text
    if labels:
        request["Labels"] = labels
    env = [name.partition("=")[0] for name in call.texts("env-rm")] + call.texts("env")
    if env:
        request["Env"] = env
    return request


update = Body(
    _update,
    (
        value("--blkio-weight", "Block IO (relative weight), between 10 and 1000, or 0 to disable", INT),
        value("--cpu-period", "Limit CPU CFS (Completely Fair Scheduler) period", INT),
        value("--cpu-quota", "Limit CPU CFS (Completely Fair Scheduler) quota", INT),
        value("--cpu-rt-period", "Limit the CPU real-time period in microseconds", INT),
        value("--cpu-rt-runtime", "Limit the CPU real-time runtime in microseconds", INT),
        value("-c --cpu-shares", "CPU shares (relative weight)", INT),
        value("--cpus", "Number of CPUs", CPUS),
        value("--cpuset-cpus", "CPUs in which to allow execution (0-3, 0,1)"),
        value("--cpuset-mems", "MEMs in which to allow execution (0-3, 0,1)"),
        many("-e --env", "Set environment variables, for execs and from the next start", ENVIRONMENT),
        many("--env-rm", "Take environment variables away"),
        many("-l --label", "Set labels"),
        many("--label-rm", "Take labels away"),
        value("--max-runtime", "Stop the container that long after its start; 0: never (s|m|h)", DURATION),
        value("-m --memory", "Memory limit", BYTES),
        value("--memory-reservation", "Memory soft limit", BYTES),
        value("--memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap", BYTES),
        value("--pids-limit", "Tune container pids limit (set -1 for unlimited)", INT),
        value(
            "--restart",
            "Restart policy to apply when a container exits",
            complete="no always unless-stopped on-failure",
        ),
        flag("--restart-on-unhealthy", "Restart the container when its health check says unhealthy"),
    ),
)
