"""Volumes over HTTP: list, inspect, create, remove, prune, update.

Owns: Docker's JSON of a volume, differences between API versions. Does not own: which volumes there are and who uses
them (`engine.named_volumes`).
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web
from msgspec import Struct

from dockyard.edge.api import wire
from dockyard.edge.api.leases import leased
from dockyard.edge.routing import Call, Route
from dockyard.engine.named_volumes import LIST_FILTERS, PRUNE_FILTERS
from dockyard.engine.volumes import Volume
from dockyard.model.errors import Unavailable
from dockyard.proto.filters import Filters
from dockyard.proto.times import SECOND, format_rfc3339

_ANONYMOUS_ONLY: Final = (1, 42)  # from this version on prune leaves named volumes alone unless told otherwise


class CreateVolume(Struct, rename=wire.docker_name):
    """Body of POST /volumes/create."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, Any] | None = None


def volume_body(volume: Volume) -> dict[str, Any]:
    """One volume; its creation is told in whole seconds, as Docker does."""
    return {
        "CreatedAt": format_rfc3339(volume.created_at // SECOND * SECOND),
        "Driver": "local",
        "Labels": _sorted(volume.labels),
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": _sorted(volume.options),
        "Scope": "local",
    }


def _sorted(values: dict[str, str] | None) -> dict[str, str] | None:
    return None if values is None else dict(sorted(values.items()))


async def list_volumes(call: Call) -> web.StreamResponse:
    found = call.engine.volumes.list(call.filters(LIST_FILTERS))
    return call.json({"Volumes": [volume_body(volume) for volume in found], "Warnings": None})


async def inspect_volume(call: Call) -> web.StreamResponse:
    return call.json(volume_body(call.engine.volumes.get(call.path("name"))))


async def create_volume(call: Call) -> web.StreamResponse:
    wanted = await call.body(CreateVolume)
    if wanted.cluster_volume_spec is not None and call.version >= _ANONYMOUS_ONLY:
        raise Unavailable("cluster volumes need a swarm manager, which this node is not: ClusterVolumeSpec")
    labels = leased(call, wanted.labels)
    async with call.engine.leases.joining(labels):
        volume = await call.engine.volumes.create(wanted.name, wanted.driver, wanted.driver_opts, labels)
    return call.json(volume_body(volume), status=201)


async def remove_volume(call: Call) -> web.StreamResponse:
    await call.engine.volumes.remove(call.path("name"), force=call.flag("force"))
    return call.empty()


async def prune_volumes(call: Call) -> web.StreamResponse:
    old = call.version < _ANONYMOUS_ONLY
    filters = call.filters(PRUNE_FILTERS - {"all"} if old else PRUNE_FILTERS)
    if old:
        filters = Filters({**{key: filters.get(key) for key in filters}, "all": ["1"]})
    removed, freed = await call.engine.volumes.prune(filters)
    return call.json({"VolumesDeleted": list(removed), "SpaceReclaimed": freed})


async def update_volume(call: Call) -> web.StreamResponse:
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


ROUTES = [
    Route("GET", "/volumes", list_volumes),
    Route("GET", "/volumes/{name}", inspect_volume),
    Route("POST", "/volumes/create", create_volume),
    Route("POST", "/volumes/prune", prune_volumes, since=(1, 25)),
    Route("PUT", "/volumes/{name}", update_volume, since=(1, 42)),
    Route("DELETE", "/volumes/{name}", remove_volume),
]
