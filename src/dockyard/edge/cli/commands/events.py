"""`dockyard events`."""

from __future__ import annotations

import sys
import time

from dockyard.edge.cli.call import Body, Call, say
from dockyard.edge.cli.flags import FILTER, many, value
from dockyard.edge.cli.moments import moment
from dockyard.edge.cli.show import renderer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _events(call: Call) -> None:
    now = time.time_ns()
    query = {
        "since": moment(call.text("since"), "since", now),
        "until": moment(call.text("until"), "until", now),
        "filters": call.filters() or None,
    }
    show: Callable[[dict[str, Any]], str] = renderer(call.text("format")) if call.text("format") else _line
    for event in call.api.stream("GET", "/events", query):
        say(show(_fields(event) if call.text("format") not in ("", "json") else event))
        sys.stdout.flush()


class _Attributes(dict[str, str]):
    """A volume has no attribute `name`, a container has: a template that asks prints `<no value>` then."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> None:
        return None


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    """An event with the names that templates use."""
    identifier = event.get("id") or ""
    names = {"Time": event["time"], "TimeNano": event["timeNano"], "Scope": event.get("scope", "")}
    plain = {key: each for key, each in event.items() if key not in ("time", "timeNano", "scope", "id", "status")}
    if isinstance(plain.get("Actor"), dict):
        actor = plain["Actor"]
        plain["Actor"] = {**actor, "Attributes": _Attributes(actor.get("Attributes") or {})}
    return {**plain, **names, "ID": identifier, "Status": event.get("status", ""), "From": event.get("from", "")}


def _line(event: dict[str, Any]) -> str:
    seconds, fraction = divmod(event["timeNano"], 1_000_000_000)
    local = time.localtime(seconds)
    zone = time.strftime("%z", local)
    zone = "Z" if local.tm_gmtoff == 0 else f"{zone[:3]}:{zone[3:]}"
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{fraction:09d}{zone}"
    actor = event.get("Actor") or {}
    text = f"{stamp} {event['Type']} {event['Action']} {actor.get('ID', '')}"
    attributes = actor.get("Attributes") or {}
    if attributes:
        text += " (" + ", ".join(f"{name}={each}" for name, each in sorted(attributes.items())) + ")"
    return text


events = Body(
    _events,
    (
        many("-f --filter", "Filter output based on conditions provided", FILTER),
        value("--format", "Format output: 'json' or a Go template"),
        value("--since", "Show all events created since timestamp"),
        value("--until", "Stream events until this timestamp"),
    ),
)
