"""Volumes over HTTP: list, inspect, create, remove, prune.

Owns: Docker's JSON of a volume. Does not own: which volumes there are and who uses them (`engine.named_volumes`).
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from msgspec import Struct

from dockyard.edge.api import wire
from dockyard.edge.routing import Call, Route
from dockyard.engine.named_volumes import LIST_FILTERS, PRUNE_FILTERS
from dockyard.engine.volumes import Volume
from dockyard.proto.times import SECOND, format_rfc3339


class CreateVolume(Struct, rename=wire.docker_name):
    """Body of POST /volumes/create."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None


def volume_body(volume: Volume) -> dict[str, Any]:
    """One volume; its creation is told in whole seconds, as Docker does."""
    return {
        "CreatedAt": format_rfc3339(volume.created_at // SECOND * SECOND),
        "Driver": "local",
        "Labels": None,
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": None,
        "Scope": "local",
    }


async def list_volumes(call: Call) -> web.StreamResponse:
    found = call.engine.volumes.list(call.filters(LIST_FILTERS))
    return call.json({"Volumes": [volume_body(volume) for volume in found], "Warnings": None})


async def inspect_volume(call: Call) -> web.StreamResponse:
    return call.json(volume_body(call.engine.volumes.get(call.path("name"))))


async def create_volume(call: Call) -> web.StreamResponse:
    wanted = await call.body(CreateVolume)
    volume = call.engine.volumes.create(wanted.name, wanted.driver, bool(wanted.driver_opts), bool(wanted.labels))
    return call.json(volume_body(volume), status=201)


async def remove_volume(call: Call) -> web.StreamResponse:
    call.engine.volumes.remove(call.path("name"), force=call.flag("force"))
    return call.empty()


async def prune_volumes(call: Call) -> web.StreamResponse:
    removed, freed = await call.engine.volumes.prune(call.filters(PRUNE_FILTERS))
    return call.json({"VolumesDeleted": list(removed) or None, "SpaceReclaimed": freed})


ROUTES = [
    Route("GET", "/volumes", list_volumes),
    Route("GET", "/volumes/{name}", inspect_volume),
    Route("POST", "/volumes/create", create_volume),
    Route("POST", "/volumes/prune", prune_volumes, since=(1, 25)),
    Route("DELETE", "/volumes/{name}", remove_volume),
]
