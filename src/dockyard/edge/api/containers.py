"""Containers over HTTP: `/containers/...`, apart from their streams (`attaching`) and `exec`.

Owns: decoding these requests, encoding their answers, differences between API versions. Does not own: what happens.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from dockyard.edge.api import wire
from dockyard.edge.api.bodies import inspect_body, summary_body
from dockyard.edge.api.leases import leased
from dockyard.edge.routing import Call, Route
from dockyard.engine.container import Container
from dockyard.model.container import BindOptions, ContainerConfig, EndpointSettings, HostConfig
from dockyard.model.errors import Conflict, DockyardError, InvalidArgument, NotFound

LIST_FILTERS: Collection[str] = frozenset({
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network",
    "publish", "since", "status", "volume",
})  # fmt: skip
PRUNE_FILTERS: Collection[str] = frozenset({"label", "label!", "until"})
_CONDITIONS = ("", "not-running", "next-exit", "removed")
_LEGACY_BODY = 7  # bytes that old clients send for "no body" ("{}", "null")


class NetworkingConfig(Struct):
    endpoints_config: dict[str, EndpointSettings | None] | None = None


class CreateRequest(ContainerConfig):
    """The portable part lies flat beside the two others."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None


async def create(call: Call) -> web.StreamResponse:
    request = await call.body(CreateRequest)
    config = wire.narrow(request, ContainerConfig)
    config.labels = leased(call, config.labels)
    host = request.host_config or HostConfig()
    _apply_old_defaults(host, call.version)
    call.engine.system.settings.fill_in(host)
    asked = (request.networking_config and request.networking_config.endpoints_config) or {}
    if len(asked) > 1 and call.version < (1, 44):
        names = ", ".join(sorted(asked))
        raise InvalidArgument(f"Container cannot be created with multiple network endpoints: {names}")
    created = await call.engine.containers.create(
        config,
        host,
        {name: endpoint or EndpointSettings() for name, endpoint in asked.items()},
        name=call.text("name").removeprefix("/"),
        platform=call.text("platform"),
    )
    return call.json({"Id": created.id, "Warnings": created.warnings}, status=201)


def _apply_old_defaults(host: HostConfig, version: tuple[int, int]) -> None:
    if version < (1, 40) and not host.ipc_mode:
        host.ipc_mode = "shareable"
    if version < (1, 44):
        for mount in host.mounts or ():
            if mount.type == "bind" and mount.read_only:  # read-only all the way down is for who knows of it
                options = mount.bind_options or BindOptions()
                mount.bind_options = replace(options, read_only_non_recursive=True, read_only_force_recursive=False)


async def list_(call: Call) -> web.StreamResponse:
    containers = call.engine.containers
    found = containers.list(
        call.filters(LIST_FILTERS), all=call.flag("all"), limit=max(call.integer("limit", 0) or 0, 0)
    )
    sizes = await containers.sizes(found) if call.flag("size") else [None] * len(found)
    now = time.time_ns()
    holders: dict[str, str] = {}
    names = containers.names_of_links()
    return call.json(
        await call.encoded(
            summary_body(each, call.version, now, size, _image_name(call, each, holders), names.get(each.id, ()))
            for each, size in zip(found, sizes, strict=True)
            if not each.removed
        )
    )


def _image_name(call: Call, container: Container, holders: dict[str, str]) -> str:
    """The name that the container was made with if that still means its image, else the image's id.

    `holders`: what names mean, filled as they are asked for.
    """
    ref = container.image_ref
    if ref not in holders:
        try:
            holders[ref] = call.engine.images.get(ref).id
        except DockyardError:
            holders[ref] = ""
    return ref if holders[ref] == container.image_id else container.image_id


async def inspect(call: Call) -> web.StreamResponse:
    containers = call.engine.containers
    container = containers.get(call.path("id"))
    sizes = (await containers.sizes([container]))[0] if call.flag("size") else None
    return call.json(inspect_body(container, call.version, containers.ground(container), sizes))


async def start(call: Call) -> web.StreamResponse:
    if (call.request.content_length or 0) > _LEGACY_BODY:
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    await call.engine.containers.start(call.path("id"))
    return call.empty()


async def stop(call: Call) -> web.StreamResponse:
    await call.engine.containers.stop(call.path("id"), signal=_signal(call), timeout=call.integer("t"))
    return call.empty()


async def restart(call: Call) -> web.StreamResponse:
    await call.engine.containers.restart(call.path("id"), signal=_signal(call), timeout=call.integer("t"))
    return call.empty()


def _signal(call: Call) -> str:
    return call.text("signal") if call.version >= (1, 42) else ""


async def kill(call: Call) -> web.StreamResponse:
    await call.engine.containers.kill(call.path("id"), call.text("signal"))
    return call.empty()


async def pause(call: Call) -> web.StreamResponse:
    await call.engine.containers.pause(call.path("id"))
    return call.empty()


async def unpause(call: Call) -> web.StreamResponse:
    await call.engine.containers.unpause(call.path("id"))
    return call.empty()


async def wait(call: Call) -> web.StreamResponse:
    condition = call.text("condition")
    if condition not in _CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{condition}"')
    waiting = call.engine.containers.wait(call.path("id"), condition)
    try:
        # The head tells the client that the wait stands; only then does the CLI start the container.
        response = await call.stream("application/json")
        result = await waiting
    finally:
        waiting.cancel()
    # `Error` is for a wait that failed; how the container ended is in its State. The CLI would exit with 125 for it.
    await response.write(wire.encode({"StatusCode": result.code}) + b"\n")
    return response


async def rename(call: Call) -> web.StreamResponse:
    await call.engine.containers.rename(call.path("id"), call.text("name").removeprefix("/"))
    return call.empty()


async def remove(call: Call) -> web.StreamResponse:
    if call.flag("link"):
        raise Conflict("Conflict, cannot remove the default link name of the container")
    await call.engine.containers.remove(call.path("id"), force=call.flag("force"), volumes=call.flag("v"))
    return call.empty()


async def unlink(call: Call) -> web.StreamResponse:
    """`docker rm --link CONTAINER/ALIAS`. Without `link` no container has such a name."""
    ref, alias = call.path("id"), call.path("alias")
    if not call.flag("link"):
        raise NotFound(f"No such container: {ref}/{alias}")
    await call.engine.containers.unlink(ref, alias)
    return call.empty()


async def prune(call: Call) -> web.StreamResponse:
    pruned = await call.engine.containers.prune(call.filters(PRUNE_FILTERS))
    return call.json({"ContainersDeleted": pruned.ids or None, "SpaceReclaimed": pruned.space_reclaimed})


async def resize(call: Call) -> web.StreamResponse:
    await call.engine.containers.resize(call.path("id"), *terminal_size(call))
    return call.empty(200)


def terminal_size(call: Call) -> tuple[int, int]:
    """The parameters h and w: rows and columns. InvalidArgument naming what is missing or out of range."""
    size = []
    for name in ("h", "w"):
        value = call.integer(name)
        if value is None or not 0 <= value < 1 << 16:
            raise InvalidArgument(f'invalid value "{call.text(name)}" for parameter {name}: not a terminal size')
        size.append(value)
    return size[0], size[1]


async def top(call: Call) -> web.StreamResponse:
    processes = await call.engine.containers.top(call.path("id"), call.text("ps_args"))
    return call.json({"Titles": processes.titles, "Processes": processes.processes})


ROUTES = [
    Route("POST", "/containers/create", create),
    Route("GET", "/containers/json", list_),
    Route("POST", "/containers/prune", prune),
    Route("GET", "/containers/{id}/json", inspect),
    Route("POST", "/containers/{id}/start", start),
    Route("POST", "/containers/{id}/stop", stop),
    Route("POST", "/containers/{id}/restart", restart),
    Route("POST", "/containers/{id}/kill", kill),
    Route("POST", "/containers/{id}/pause", pause),
    Route("POST", "/containers/{id}/unpause", unpause),
    Route("POST", "/containers/{id}/wait", wait),
    Route("POST", "/containers/{id}/rename", rename),
    Route("POST", "/containers/{id}/resize", resize),
    Route("GET", "/containers/{id}/top", top),
    Route("DELETE", "/containers/{id}", remove),
    Route("DELETE", "/containers/{id}/{alias}", unlink),
]
