"""Networks over HTTP: list, inspect, and the answers for what is not served yet.

Owns: Docker's JSON of a network. Does not own: which networks there are (`engine.networks`). Connecting and
disconnecting are not served yet: `edge.api.fallback` says so.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from msgspec import Struct

from dockyard.edge.api import wire
from dockyard.edge.routing import Call, Route
from dockyard.model.errors import InvalidArgument, NotFound
from dockyard.proto.times import format_rfc3339
from dockyard.store.networks import NetworkRow

_LIST_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
_PRUNE_FILTERS = frozenset({"label", "label!", "until"})
_LISTS_MEMBERS = (1, 28)  # from here on a list names no containers


class CreateNetwork(Struct, rename=wire.docker_name):
    """The part of POST /networks/create that decides the answer."""

    name: str = ""


async def list_networks(call: Call) -> web.StreamResponse:
    networks = call.engine.networks
    with_members = call.version < _LISTS_MEMBERS
    return call.json([_body(call, row, with_members) for row in networks.list(call.filters(_LIST_FILTERS))])


async def inspect_network(call: Call) -> web.StreamResponse:
    """`scope`: only a network of that scope; `verbose` adds what only swarm networks have."""
    ref = call.path("id")
    if call.text("scope", "local") not in ("", "local"):
        raise NotFound(f"network {ref} not found")
    return call.json(_body(call, call.engine.networks.get(ref), with_members=True))


async def create_network(call: Call) -> web.StreamResponse:
    request = await call.body(CreateNetwork)
    if not request.name.strip():
        raise InvalidArgument("invalid network name: name is empty")
    row = await call.engine.networks.create(request.name)
    return call.json({"Id": row.id, "Warning": ""}, status=201)


async def remove_network(call: Call) -> web.StreamResponse:
    await call.engine.networks.remove(call.path("id"))
    return call.empty()


async def prune_networks(call: Call) -> web.StreamResponse:
    """Predefined networks are never pruned."""
    call.filters(_PRUNE_FILTERS)
    return call.json({"NetworksDeleted": None})


def _body(call: Call, row: NetworkRow, with_members: bool) -> dict[str, Any]:
    return {
        "Name": row.name,
        "Id": row.id,
        "Created": format_rfc3339(row.created_at),
        "Scope": "local",
        "Driver": row.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": _pools(row)},
        "Internal": row.internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": _members(call, row) if with_members else {},
        "Options": _options(row),
        "Labels": row.labels,
    }


def _pools(row: NetworkRow) -> list[dict[str, str]] | None:
    return [{"Subnet": row.subnet, "Gateway": row.gateway}] if row.subnet else None


def _members(call: Call, row: NetworkRow) -> dict[str, Any]:
    return {
        container.id: {
            "Name": container.name,
            "EndpointID": endpoint.endpoint_id,
            "MacAddress": endpoint.mac_address,
            "IPv4Address": f"{endpoint.ip_address}/{endpoint.ip_prefix_len}" if endpoint.ip_address else "",
            "IPv6Address": "",
        }
        for container, endpoint in call.engine.networks.members(row)
    }


def _options(row: NetworkRow) -> dict[str, str]:
    if row.driver != "bridge":
        return {}
    return {
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": str(row.icc).lower(),
        "com.docker.network.bridge.enable_ip_masquerade": str(row.masquerade).lower(),
        "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
        "com.docker.network.bridge.name": row.bridge,
        "com.docker.network.driver.mtu": str(row.mtu),
    }


ROUTES = [
    Route("GET", "/networks", list_networks),
    Route("GET", "/networks/", list_networks),  # as Docker, for clients that end it with a slash
    Route("GET", "/networks/{id}", inspect_network),
    Route("POST", "/networks/create", create_network),
    Route("POST", "/networks/prune", prune_networks, since=(1, 25)),
    Route("DELETE", "/networks/{id}", remove_network),
]
