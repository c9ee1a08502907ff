"""`dockyard logs`."""

from __future__ import annotations

import sys
import time

from dockyard.edge.cli.api import container_path
from dockyard.edge.cli.call import Body, Call
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import flag, value
from dockyard.edge.cli.moments import moment
from dockyard.proto.frames import STDERR, FrameReader


def _logs(call: Call) -> None:
    api, name = call.api, call.arguments[0]
    now = time.time_ns()
    query = {
        "stdout": True,
        "stderr": True,
        "follow": call.on("follow"),
        "timestamps": call.on("timestamps"),
        "details": call.on("details"),
        "since": moment(call.text("since"), "since", now),
        "until": moment(call.text("until"), "until", now),
        "tail": call.text("tail") or "all",
    }
    container = api.get(f"{container_path(name)}/json")
    response = api.send("GET", f"{container_path(container['Id'])}/logs", query)
    out, err = sys.stdout.buffer, sys.stderr.buffer
    if container["Config"]["Tty"]:
        for data in response.chunks():
            out.write(data)
            out.flush()
        return
    frames = FrameReader()
    for data in response.chunks():
        for stream, part in frames.feed(data):
            if stream > STDERR:
                raise CliError(f"error from daemon in stream: {part.decode('utf-8', 'replace')}")
            if stream == STDERR:
                out.flush()
                err.write(part)
                err.flush()
            else:
                out.write(part)
        out.flush()


logs = Body(
    _logs,
    (
        flag("--details", "Show extra details provided to logs"),
        flag("-f --follow", "Follow log output"),
        value("--since", 'Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m")'),
        value("-n --tail", "Number of lines to show from the end of the logs", default="all", shown_default='"all"'),
        flag("-t --timestamps", "Show timestamps"),
        value("--until", 'Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m")'),
    ),
)
