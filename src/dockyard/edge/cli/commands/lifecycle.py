"""Commands that change containers one by one: stop, restart, kill, pause, unpause, wait, rename, rm."""

from __future__ import annotations

from dockyard.edge.cli.api import container_path
from dockyard.edge.cli.call import Body, Call, each
from dockyard.edge.cli.errors import ApiError, CliError
from dockyard.edge.cli.flags import INT, flag, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIGNALS = "HUP INT QUIT KILL TERM USR1 USR2 STOP CONT WINCH"


def _post(call: Call, action: str, query: dict[str, Any] | None = None) -> int:
    def one(name: str) -> str:
        call.api.post(f"{container_path(name)}/{action}", query)
        return name

    return each(call.arguments, one)


def _stop(call: Call) -> int:
    return _post(call, "stop", {"t": call.number("timeout"), "signal": call.text("signal") or None})


def _restart(call: Call) -> int:
    return _post(call, "restart", {"t": call.number("timeout"), "signal": call.text("signal") or None})


def _kill(call: Call) -> int:
    return _post(call, "kill", {"signal": call.text("signal") or "KILL"})


def _pause(call: Call) -> int:
    return _post(call, "pause")


def _unpause(call: Call) -> int:
    return _post(call, "unpause")


def _wait(call: Call) -> int:
    def one(name: str) -> str:
        result = call.api.post(f"{container_path(name)}/wait")
        if (result.get("Error") or {}).get("Message"):
            raise CliError(f"{name}: {result['Error']['Message']}")
        return str(result["StatusCode"])

    return each(call.arguments, one)


def _rename(call: Call) -> None:
    old, new = call.arguments
    if not new.strip():
        raise CliError("invalid new name: value is empty")
    call.api.post(f"{container_path(old)}/rename", {"name": new})


def _remove(call: Call) -> int:
    query = {"force": call.on("force"), "v": call.on("volumes"), "link": call.on("link")}

    def one(name: str) -> str | None:
        try:
            call.api.delete(container_path(name.strip("/") or name), query)
        except ApiError as error:
            if error.status == 404 and call.on("force"):
                from dockyard.edge.cli.call import complain

                complain(f"dockyard: {error.message}")
                return None
            raise
        return name

    return each(call.arguments, one)


_GRACE = (
    value("-s --signal", "Signal to send to the container", complete=SIGNALS),
    value("-t --timeout", "Seconds to wait before killing the container", INT),
    value("--time", "Seconds to wait before killing the container", INT, hidden=True, instead="timeout"),
)
stop = Body(_stop, _GRACE)
restart = Body(_restart, _GRACE)
kill = Body(_kill, (value("-s --signal", "Signal to send to the container", complete=SIGNALS),))
pause = Body(_pause)
unpause = Body(_unpause)
wait = Body(_wait)
rename = Body(_rename)
remove = Body(
    _remove,
    (
        flag("-f --force", "Force the removal of a running container (uses SIGKILL)"),
        flag("-l --link", "Remove the specified link"),
        flag("-v --volumes", "Remove anonymous volumes associated with the container"),
    ),
)
