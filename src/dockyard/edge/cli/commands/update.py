"""`dockyard update`: change containers in place."""

from __future__ import annotations

from dockyard.edge.cli.api import container_path
from dockyard.edge.cli.call import Body, Call, complain, each
from dockyard.edge.cli.container_flags import ENVIRONMENT, LABEL
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import DURATION, flag, many, value
from dockyard.edge.cli.resource_flags import RESOURCE_FIELDS, RESOURCE_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


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
    request: dict[str, Any] = {field: call.get(key) for field, key in RESOURCE_FIELDS.items() if call.given(key)}
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
        *RESOURCE_FLAGS,
        many("-e --env", "Set environment variables, for execs and from the next start", ENVIRONMENT),
        many("--env-rm", "Take environment variables away"),
        many("-l --label", "Set labels", LABEL),
        many("--label-rm", "Take labels away"),
        value("--max-runtime", "Stop the container that long after its start; 0: never (s|m|h)", DURATION),
        value(
            "--restart",
            "Restart policy to apply when a container exits",
            complete="no always unless-stopped on-failure",
        ),
        flag("--restart-on-unhealthy", "Restart the container when its health check says unhealthy"),
    ),
)
