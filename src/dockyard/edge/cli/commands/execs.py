"""What looks after the processes that `exec` has started: `container execs`, `container exec-kill`."""

from __future__ import annotations

from dockyard.edge.cli.api import container_path
from dockyard.edge.cli.call import Body, Call, each, say
from dockyard.edge.cli.commands.lifecycle import SIGNALS
from dockyard.edge.cli.commands.ps import FORMAT_HELP
from dockyard.edge.cli.errors import ApiError, CliError
from dockyard.edge.cli.flags import flag, value
from dockyard.edge.cli.show import show_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _list(call: Call) -> None:
    """The execs that run, or are about to."""
    ids = call.api.get(f"{container_path(call.arguments[0])}/json").get("ExecIDs") or []
    found = []
    for exec_id in ids:
        try:
            found.append(call.api.get(f"/exec/{exec_id}/json"))
        except ApiError as error:
            if error.status != 404:  # it has just ended
                raise
    if call.on("quiet"):
        for process in found:
            say(process["ID"])
        return
    show_rows(call.text("format"), list(HEADERS), HEADERS, [_row(process, call.on("no-trunc")) for process in found])


def _row(process: dict[str, Any], full: bool) -> dict[str, Any]:
    config = process["ProcessConfig"]
    command = " ".join([config["entrypoint"], *config["arguments"]])
    short = command if len(command) <= 40 else command[:39] + "\u2026"
    return {
        "ID": process["ID"] if full else process["ID"][:12],
        "PID": str(process["Pid"]),
        "Command": f'"{command if full else short}"',
        "User": config.get("user", ""),
        "Running": "true" if process["Running"] else "false",
    }


def _kill(call: Call) -> int:
    container, *ids = call.arguments
    known = call.api.get(f"{container_path(container)}/json").get("ExecIDs") or []

    def one(ref: str) -> str:
        found = [exec_id for exec_id in known if exec_id.startswith(ref)]
        if len(found) != 1:
            raise CliError(f"{container}: {'several execs begin with' if found else 'no exec runs with the ID'} {ref}")
        call.api.post(f"/exec/{found[0]}/kill", {"signal": call.text("signal") or "KILL"})
        return ref

    return each(ids, one)


HEADERS = {"ID": "EXEC ID", "PID": "PID", "Command": "COMMAND", "User": "USER", "Running": "RUNNING"}
list_ = Body(
    _list,
    (
        value("--format", FORMAT_HELP),
        flag("--no-trunc", "Do not truncate the output"),
        flag("-q --quiet", "Only display exec IDs"),
    ),
)
kill = Body(_kill, (value("-s --signal", "Signal to send; KILL ends all that it has started, too", complete=SIGNALS),))
