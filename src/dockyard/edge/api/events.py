"""The engine's events over HTTP.

Owns: Docker's JSON of an event, the stream. Does not own: which events there are.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, cast

from aiohttp import web

from dockyard.edge.api import wire
from dockyard.edge.api.attaching import moment
from dockyard.edge.routing import Call, Route
from dockyard.edge.streams import Closable
from dockyard.engine.events import FILTER_KEYS, Event
from dockyard.model.errors import InvalidArgument
from dockyard.proto.times import SECOND


def event_body(event: Event) -> dict[str, Any]:
    """EventMessage, with the three fields of old clients for containers and images."""
    body: dict[str, Any] = {}
    if event.type in ("container", "image"):
        body["status"], body["id"] = event.action, event.actor_id
        if event.type == "container":
            body["from"] = event.attributes.get("image", "")
    body |= {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor_id, "Attributes": event.attributes},
        "scope": event.scope,
        "time": event.time_ns // SECOND,
        "timeNano": event.time_ns,
    }
    return body


async def events(call: Call) -> web.StreamResponse:
    """A stream that ends at `until`, or with the client."""
    since, until = moment(call, "since"), moment(call, "until")
    if since is not None and until is not None and since > until:
        asked = f"`since` time ({call.text('since')}) cannot be after `until` time ({call.text('until')})"
        raise InvalidArgument(asked)
    subscription = call.engine.events.subscribe(since, until, call.filters(FILTER_KEYS))
    async with aclosing(cast(Closable, subscription)):
        response = await call.stream("application/json")
        async for event in subscription:
            await response.write(wire.encode(event_body(event)) + b"\n")
    return response


ROUTES = [Route("GET", "/events", events)]
