"""What a registry has under a name: `GET /distribution/{name}/json`.

Owns: the JSON of it. Does not own: asking (`engine.transfers`).
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from dockyard.edge.api import auth
from dockyard.edge.routing import Call, Route
from dockyard.model.oci import Platform


async def inspect(call: Call) -> web.StreamResponse:
    found = await call.engine.transfers.distribution(call.path("name"), auth.given(call))
    descriptor = found.descriptor
    body = {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
    return call.json({"Descriptor": body, "Platforms": [_platform(entry) for entry in found.platforms]})


def _platform(platform: Platform) -> dict[str, Any]:
    body: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
    if platform.os_version:
        body["os.version"] = platform.os_version
    if platform.variant:
        body["variant"] = platform.variant
    return body


ROUTES = [Route("GET", "/distribution/{name:.+}/json", inspect, since=(1, 30))]
