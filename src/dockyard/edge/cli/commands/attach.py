"""`dockyard attach`."""

from __future__ import annotations

from dockyard.edge.cli import terminal
from dockyard.edge.cli.api import container_path
from dockyard.edge.cli.attached import Session, ask_exit, resize
from dockyard.edge.cli.attached import attach as ask_streams
from dockyard.edge.cli.call import Body, Call
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import flag, value
from dockyard.edge.cli.streams import Detached


def _attach(call: Call) -> int:
    api, name = call.api, call.arguments[0]
    container = api.get(f"{container_path(name)}/json")
    state, config, identifier = container["State"], container["Config"], container["Id"]
    for flag_, action in (("Restarting", "restarting"), ("Paused", "paused")):
        if state.get(flag_):
            then = "wait until it is running" if flag_ == "Restarting" else "unpause it first"
            raise CliError(f"You cannot attach to a {action} container, {then}")
    if not state["Running"]:
        raise CliError("You cannot attach to a stopped container, start it first")
    tty, stdin = config["Tty"], config["OpenStdin"] and not call.on("no-stdin")
    if stdin and tty and not terminal.is_terminal(0):
        raise CliError("the input device is not a TTY")
    keys = call.text("detach-keys")
    session = Session(api, identifier, tty=tty, sig_proxy=bool(call.get("sig-proxy")))
    with session.signals:
        waiting = ask_exit(api, identifier, "not-running")
        stream = ask_streams(api, identifier, stdin=stdin, stdout=True, stderr=True, keys=keys)
        if tty and terminal.is_terminal(1):
            resize(api, session.path, grow=1)  # a change of size makes full-screen programs draw again
            resize(api, session.path)
        try:
            session.pump(stream, stdin=stdin, keys=keys)
        except Detached as detached:
            raise CliError("read escape sequence") from detached
        return session.exit_code(waiting)


attach = Body(
    _attach,
    (
        value("--detach-keys", "Override the key sequence for detaching a container"),
        flag("--no-stdin", "Do not attach STDIN"),
        flag("--sig-proxy", "Proxy all received signals to the process", default=True, shown_default="true"),
    ),
)
