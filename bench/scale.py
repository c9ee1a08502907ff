"""Many containers: what lists, sizes and prunes of them cost, and one with many ports.

Owns: making them, one piece of work on them each. Does not own: how often, what is made of the figures.
"""

from __future__ import annotations

import time
from typing import Any

from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

CONTAINERS = 200
PORTS = 50
_FIRST_PORT = 21000


def make(api: Connection) -> None:
    """Containers that have not been started."""
    for _ in range(CONTAINERS):
        steps.create(api, "true", host={"NetworkMode": "none"})


def listed(api: Connection, path: str, **query: Any) -> float:
    """Seconds of a GET."""
    begun = time.perf_counter()
    steps.expect(api.get(path, **query), 200)
    return time.perf_counter() - begun


def pruned(api: Connection) -> float:
    begun = time.perf_counter()
    steps.expect(api.post("/containers/prune"), 200)
    return time.perf_counter() - begun


def ports(engine: Engine) -> float:
    """Seconds of a start and a removal of a container that publishes many ports."""
    numbers = range(_FIRST_PORT, _FIRST_PORT + PORTS)
    bindings = {f"{number}/tcp": [{"HostPort": str(number)}] for number in numbers}
    with engine.api(300) as api:
        exposed: dict[str, Any] = {port: {} for port in bindings}
        container = steps.create(api, "sleep", "1000", host={"PortBindings": bindings}, ExposedPorts=exposed)
        begun = time.perf_counter()
        steps.start(api, container)
        steps.remove(api, container)
        return time.perf_counter() - begun
