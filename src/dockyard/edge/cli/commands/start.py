"""`dockyard start`."""

from __future__ import annotations

from dockyard.edge.cli import terminal
from dockyard.edge.cli.api import container_path
from dockyard.edge.cli.attached import Session, ask_exit, attach, resize
from dockyard.edge.cli.call import Body, Call, complain, say
from dockyard.edge.cli.errors import CliError, NotReachable
from dockyard.edge.cli.flags import flag, value
from dockyard.edge.cli.streams import Detached


def _start(call: Call) -> int:
    if call.on("attach") or call.on("interactive"):
        if len(call.arguments) > 1:
            raise CliError("you cannot start and attach multiple containers at once")
        return _attached(call, call.arguments[0])
    failed = []
    for name in call.arguments:
        try:
            call.api.post(f"{container_path(name)}/start")
        except NotReachable:
            raise
        except CliError as error:
            complain(f"dockyard: {error.message}")
            failed.append(name)
        else:
            say(name)
    if failed:
        raise CliError(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _attached(call: Call, name: str) -> int:
    """As `run`: attach, then wait, then start."""
    api, keys = call.api, call.text("detach-keys")
    container = api.get(f"{container_path(name)}/json")
    config = container["Config"]
    tty, stdin = config["Tty"], call.on("interactive") and config["OpenStdin"]
    if stdin and tty and not terminal.is_terminal(0):
        raise CliError("the input device is not a TTY")
    identifier = container["Id"]
    session = Session(api, identifier, tty=tty, sig_proxy=True)
    with session.signals:
        stream = attach(api, identifier, stdin=stdin, stdout=True, stderr=True, keys=keys)
        removed = container["HostConfig"].get("AutoRemove")
        waiting = ask_exit(api, identifier, "removed" if removed else "next-exit")
        api.post(f"{session.path}/start")
        if tty and terminal.is_terminal(1):
            resize(api, session.path)
        try:
            session.pump(stream, stdin=stdin, keys=keys)
        except Detached:
            return 0
        return session.exit_code(waiting)


start = Body(
    _start,
    (
        flag("-a --attach", "Attach STDOUT/STDERR and forward signals"),
        value("--detach-keys", "Override the key sequence for detaching a container"),
        flag("-i --interactive", "Attach container's STDIN"),
    ),
)
