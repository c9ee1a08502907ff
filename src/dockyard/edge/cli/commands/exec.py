"""`dockyard exec`."""

from __future__ import annotations

import os

from dockyard.edge.cli import terminal
from dockyard.edge.cli.api import Api, container_path
from dockyard.edge.cli.attached import resize
from dockyard.edge.cli.call import Body, Call, complain
from dockyard.edge.cli.container_flags import ENVIRONMENT
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import DURATION, flag, many, value
from dockyard.edge.cli.streams import Detached, Pump, Signals
from dockyard.proto import envfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _exec(call: Call) -> int:
    name, *command = call.arguments
    tty, detach, stdin = call.on("tty"), call.on("detach"), call.on("interactive") and not call.on("detach")
    api, keys = call.api, call.text("detach-keys")
    path = container_path(name)
    api.get(f"{path}/json")  # says at once when there is no such container
    if stdin and tty and not terminal.is_terminal(0):
        raise CliError("the input device is not a TTY")
    request: dict[str, Any] = {
        "User": call.text("user"),
        "Privileged": call.on("privileged"),
        "Tty": tty,
        "AttachStdin": stdin,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "DetachKeys": keys,
        "Env": _environment(call),
        "WorkingDir": call.text("workdir"),
        "Cmd": command,
    }
    if call.given("timeout"):
        request["Timeout"] = call.number("timeout")
    rows, columns = terminal.size() if tty else (0, 0)
    size = {"ConsoleSize": [rows, columns]} if rows and terminal.is_terminal(1) and api.at_least("1.42") else {}
    created = api.post(f"{path}/exec", None, request | size)
    exec_path = f"/exec/{created['Id']}"
    start = {"Detach": detach, "Tty": tty, **size}
    if detach:
        api.post(f"{exec_path}/start", None, start)
        return 0
    return _attached(api, exec_path, start, stdin, keys)


def _environment(call: Call) -> list[str]:
    from dockyard.edge.cli.container_spec import read_file

    try:
        entries = [
            each for path in call.texts("env-file") for each in envfile.parse_lines(read_file(path), path, os.environ)
        ]
    except ValueError as error:
        raise CliError(str(error)) from None
    return entries + call.texts("env")


def _attached(api: Api, path: str, start: dict[str, Any], stdin: bool, keys: str) -> int:
    tty = start["Tty"]
    raw = tty and stdin and terminal.is_terminal(0)
    sized = tty and terminal.is_terminal(1)
    with Signals((lambda: resize(api, path)) if sized else None, None) as signals:
        stream = api.hijack(f"{path}/start", None, start)
        if sized:
            resize(api, path)
        framed = not tty if stream.multiplexed is None else stream.multiplexed
        try:
            with terminal.Raw(raw):
                Pump(stream, signals, framed=framed, stdin=stdin, keys=keys if raw else None).run()
        except Detached as detached:
            raise CliError("read escape sequence") from detached
    ended = api.get(f"{path}/json")
    code = ended.get("ExitCode")
    if ended.get("TimedOut"):
        complain("dockyard: the command did not end in time and was killed, with all that it had started")
    return code if isinstance(code, int) else 0


exec_ = Body(
    _exec,
    (
        flag("-d --detach", "Detached mode: run command in the background"),
        value("--detach-keys", "Override the key sequence for detaching a container"),
        many("-e --env", "Set environment variables", ENVIRONMENT),
        many("--env-file", "Read in a file of environment variables", complete="file"),
        flag("-i --interactive", "Keep STDIN open even if not attached"),
        flag("--privileged", "Give extended privileges to the command"),
        value("--timeout", "Kill the command, with all that it has started, after that time (s|m|h)", DURATION),
        flag("-t --tty", "Allocate a pseudo-TTY"),
        value("-u --user", 'Username or UID (format: "<name|uid>[:<group|gid>]")'),
        value("-w --workdir", "Working directory inside the container"),
    ),
)
