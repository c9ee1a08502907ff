"""Leases over HTTP: `/leases…`, an addition of ours (docs/extensions.md).

Owns: these requests and answers, and what the header `X-Dockyard-Lease` of a creation means. Does not own: when a lease
ends and what goes with it (`engine.leases`).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiohttp import web
from msgspec import Struct

from dockyard.edge.routing import Call, Route
from dockyard.engine.extensions import LEASE
from dockyard.engine.leases import Lease
from dockyard.model.errors import InvalidArgument
from dockyard.proto.times import format_rfc3339, parse_duration

HEADER: Final = "X-Dockyard-Lease"
_TTL: Final = "30s"
_HEARTBEAT: Final = 10.0  # s between signs of life to a holder, so that a dead connection is noticed


class LeaseRequest(Struct, rename={"ttl": "TTL"}):
    """`TTL`: ns, or a duration as Go writes it."""

    ttl: int | str | None = None


def leased(call: Call, labels: dict[str, str] | None) -> dict[str, str] | None:
    """The labels of a thing to be made, with that of the lease that the request's header names."""
    lease_id = call.request.headers.get(HEADER, "")
    if not lease_id:
        return labels
    labels = labels or {}
    if labels.setdefault(LEASE, lease_id) != lease_id:
        raise InvalidArgument(f"conflicting leases: {HEADER}: {lease_id} and label {LEASE}={labels[LEASE]}")
    return labels


def _nanoseconds(ttl: int | str) -> int:
    if isinstance(ttl, int):
        return ttl
    try:
        return parse_duration(ttl)
    except ValueError as error:
        raise InvalidArgument(f"invalid TTL of a lease: {error}") from None


def _body(call: Call, lease: Lease) -> dict[str, Any]:
    return {
        "Id": lease.id,
        "TTL": lease.row.ttl,
        "CreatedAt": format_rfc3339(lease.row.created_at),
        "ExpiresAt": format_rfc3339(lease.expires_at) if lease.expires_at else "",
        "Holders": lease.holders,
        "Ending": lease.row.ending,
        **call.engine.leases.belongings(lease),
    }


async def create(call: Call) -> web.StreamResponse:
    request = await call.optional_body(LeaseRequest) or LeaseRequest()
    lease = await call.engine.leases.create(_nanoseconds(_TTL if request.ttl is None else request.ttl))
    return call.json(_body(call, lease), status=201)


async def list_(call: Call) -> web.StreamResponse:
    return call.json([_body(call, lease) for lease in call.engine.leases.list()])


async def inspect(call: Call) -> web.StreamResponse:
    return call.json(_body(call, call.engine.leases.get(call.path("id"))))


async def renew(call: Call) -> web.StreamResponse:
    request = await call.optional_body(LeaseRequest) or LeaseRequest()
    ttl = None if request.ttl is None else _nanoseconds(request.ttl)
    return call.json(_body(call, await call.engine.leases.renew(call.path("id"), ttl)))


async def hold(call: Call) -> web.StreamResponse:
    """While the client reads, the lease does not end. The answer: one line of JSON, then an empty line every ten
    seconds, and its end when somebody has ended the lease."""
    leases = call.engine.leases
    with leases.hold(call.path("id")) as ended:
        lease = leases.get(call.path("id"))
        async with call.progress() as out:
            await out.send(_body(call, lease))
            while not ended.done():
                await asyncio.wait({ended}, timeout=_HEARTBEAT)
                await out.response.write(b"\n")
        return out.response


async def end(call: Call) -> web.StreamResponse:
    """Answers when everything has gone."""
    return call.json(await call.engine.leases.end(call.path("id")))


ROUTES = [
    Route("GET", "/leases", list_),
    Route("POST", "/leases", create),
    Route("GET", "/leases/{id}", inspect),
    Route("POST", "/leases/{id}/renew", renew),
    Route("GET", "/leases/{id}/hold", hold),
    Route("DELETE", "/leases/{id}", end),
]
