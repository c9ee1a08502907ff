"""Every route of the API, in one list.

Owns: the list. Does not own: any route.
"""

from __future__ import annotations

from dockyard.edge.api import (
    archive,
    attaching,
    auth,
    build,
    build_agents,
    check,
    containers,
    distribution,
    events,
    execs,
    images,
    leases,
    networks,
    stats,
    system,
    update,
    volumes,
)
from dockyard.edge.api.fallback import fallback_routes
from dockyard.edge.routing import Route


def all_routes() -> list[Route]:
    """What is served, and an answer for everything else that Docker's API has."""
    served: list[Route] = []
    for module in (
        system,
        containers,
        archive,
        attaching,
        execs,
        events,
        images,
        networks,
        check,
        leases,
        update,
        stats,
        auth,
        distribution,
        volumes,
        build,
        build_agents,
    ):
        served += module.ROUTES
    return served + fallback_routes(served)
