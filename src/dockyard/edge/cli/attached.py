"""Being attached to a container: the streams, the terminal, the signals and the exit code together.

Owns: the parts that `run`, `start -a` and `attach` share. Does not own: the loop (`streams`), the commands' own order
of requests.
"""

from __future__ import annotations

import json
import select

from dockyard.edge.cli import terminal
from dockyard.edge.cli.api import Api, Hijacked, container_path
from dockyard.edge.cli.errors import DAEMON_FAILED, CliError
from dockyard.edge.cli.streams import Pump, Signals, proxy_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.edge.cli.http import Response


def attach(api: Api, name: str, *, stdin: bool, stdout: bool, stderr: bool, keys: str) -> Hijacked:
    """Asks for a container's streams."""
    query = {"stream": True, "stdin": stdin, "stdout": stdout, "stderr": stderr, "detachKeys": keys or None}
    return api.hijack(f"{container_path(name)}/attach", query)


def resize(api: Api, path: str, grow: int = 0) -> None:
    """Gives a container's or exec's terminal the size of ours; that it has ended already is no error."""
    rows, columns = terminal.size()
    if not rows or not columns:
        return
    try:
        api.post(f"{path}/resize", {"h": rows + grow, "w": columns + grow})
    except CliError:
        pass


class Session:
    """Streams that have been asked for, with the signals caught from here on."""

    def __init__(self, api: Api, name: str, *, tty: bool, sig_proxy: bool) -> None:
        self.api, self.name, self.tty = api, name, tty
        self.path = container_path(name)
        self.signals = Signals(
            (lambda: resize(api, self.path)) if tty and terminal.is_terminal(1) else None,
            proxy_to(lambda signal: api.post(f"{self.path}/kill", {"signal": signal}))
            if sig_proxy and not tty
            else None,
        )

    def pump(self, stream: Hijacked, *, stdin: bool, keys: str) -> None:
        """Carries the streams until they end. Raises `streams.Detached`."""
        framed = not self.tty if stream.multiplexed is None else stream.multiplexed
        raw = self.tty and stdin and terminal.is_terminal(0)
        with terminal.Raw(raw):
            Pump(stream, self.signals, framed=framed, stdin=stdin, keys=keys if raw else None).run()

    def exit_code(self, waiting: Response) -> int:
        """The answer to `ask_exit`, waited for; signals go on being proxied meanwhile."""
        connection = waiting.connection
        poll = select.poll()
        poll.register(self.signals.reader, select.POLLIN)
        poll.register(connection.sock.fileno(), select.POLLIN)
        while not connection.buffer and not any(fd != self.signals.reader for fd, _ in poll.poll()):
            self.signals.handle()
        result = json.loads(waiting.read())
        problem = (result.get("Error") or {}).get("Message")
        if problem:
            raise CliError(f"Error waiting for container: {problem}", DAEMON_FAILED)
        code = result["StatusCode"]
        assert isinstance(code, int)
        return code


def ask_exit(api: Api, name: str, condition: str) -> Response:
    """Asks to be told when the container ends; the head of the answer has arrived, so the daemon is watching."""
    return api.send("POST", f"{container_path(name)}/wait", {"condition": condition}, fresh=True)
