"""Answers for the endpoints that exist in Docker's API and are not served here.

Owns: 503 for a swarm's endpoints, the empty list of plugins, 501 naming the endpoint for every other known one.
Does not own: unknown paths (404, `edge.server`).
"""

from __future__ import annotations

import re

from aiohttp import web

from dockyard.edge.api import known
from dockyard.edge.routing import Call, Route
from dockyard.model.errors import NotFound, NotServed, Unavailable

_NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
# Names that may contain slashes: images, plugins.
_WIDE = ("/images/", "/plugins/", "/distribution/")


async def _no_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable(_NO_SWARM)


async def _not_served(call: Call) -> web.StreamResponse:
    raise NotServed(f"{call.route.method} {call.route.path} is not served by this engine yet")


async def _plugins(call: Call) -> web.StreamResponse:
    return call.json([])


async def _plugin(call: Call) -> web.StreamResponse:
    """There are none: `docker inspect` asks for one by every name."""
    raise NotFound(f'plugin "{call.path("name")}" not found')


def _shape(path: str) -> str:
    """A path without the names of its parameters: two modules may call the same one differently."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def fallback_routes(served: list[Route]) -> list[Route]:
    """A route for every known endpoint that `served` leaves out."""
    routes = [Route("GET", "/plugins", _plugins), Route("GET", "/plugins/{name:.+}/json", _plugin)]
    there = {(route.method, _shape(route.path)) for route in [*served, *routes]}
    for method, path in known.known_endpoints():
        if (method, _shape(path)) in there:
            continue
        handler = _no_swarm if known.needs_swarm(path) else _not_served
        routes.append(Route(method, path.replace("{name}", "{name:.+}") if path.startswith(_WIDE) else path, handler))
    return routes
