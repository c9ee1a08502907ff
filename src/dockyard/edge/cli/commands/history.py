"""`dockyard history`."""

from __future__ import annotations

import time

from dockyard.edge.cli.api import quote
from dockyard.edge.cli.call import Body, Call, say
from dockyard.edge.cli.commands.ps import FORMAT_HELP, ellipsis
from dockyard.edge.cli.flags import flag, value
from dockyard.edge.cli.platform import asked_platform
from dockyard.edge.cli.show import ago, short_id, show_rows
from dockyard.proto.times import SECOND, format_rfc3339
from dockyard.proto.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def _history(call: Call) -> None:
    query = {"platform": asked_platform(call, "1.48")}
    layers = call.api.get(f"/images/{quote(call.arguments[0], b'/:@')}/history", query)
    human, full, now = bool(call.get("human")), call.on("no-trunc"), time.time_ns()
    rows = [_row(layer, human, full, now) for layer in layers]
    if call.on("quiet"):
        for row in rows:
            say(row["ID"])
        return
    since = "CreatedSince" if human else "CreatedAt"
    show_rows(call.text("format"), ["ID", since, "CreatedBy", "Size", "Comment"], HEADERS, rows)


def _row(layer: dict[str, Any], human: bool, full: bool, now: int) -> dict[str, Any]:
    by = (layer.get("CreatedBy") or "").replace("\t", " ")
    created = format_rfc3339(layer["Created"] * SECOND) if layer["Created"] > 0 else "N/A"
    return {
        "ID": layer["Id"] if full else short_id(layer["Id"]),
        "CreatedSince": (ago(layer["Created"], now) if human else created) if layer["Created"] > 0 else "N/A",
        "CreatedAt": created,
        "CreatedBy": by if full else ellipsis(by, 45),
        "Size": human_size(layer["Size"], 3) if human else str(layer["Size"]),
        "Comment": layer.get("Comment") or "",
    }


history = Body(
    _history,
    (
        value("--format", FORMAT_HELP),
        flag("-H --human", "Print sizes and dates in human readable format", default=True, shown_default="true"),
        flag("--no-trunc", "Don't truncate output"),
        value("--platform", 'Show history for the given platform, "os[/arch[/variant]]"'),
        flag("-q --quiet", "Only show image IDs"),
    ),
)
