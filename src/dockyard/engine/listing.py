"""Choose containers for `ps`.

Owns: the filters of the list and what each means. Does not own: Docker's JSON, the texts of the columns.
Reads only what is in memory and takes no lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from dockyard.engine.container import Container
from dockyard.engine.context import Context, Image
from dockyard.model.errors import DockyardError, NotFound
from dockyard.model.health import STATUSES, describe
from dockyard.model.lifecycle import State
from dockyard.proto.filters import Filters

FILTERS: Final = frozenset({
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "label!", "name",
    "network", "publish", "since", "status", "volume",
})  # fmt: skip
_PORTS: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?\Z")

Test = Callable[[Container], bool]


def choose(context: Context, filters: Filters, *, all: bool, limit: int) -> list[Container]:
    """See `Containers.list`."""
    filters.check(FILTERS)
    tests = list(_tests(context, filters))
    if not all and limit <= 0 and "status" not in filters:
        tests.insert(0, _is_active)
    found = [container for container in context.registry if not container.removed]
    for test in tests:
        found = [container for container in found if test(container)]
    found.reverse()  # newest first
    return found[:limit] if limit > 0 else found


def _is_active(container: Container) -> bool:
    return container.status.active


def _tests(context: Context, filters: Filters) -> Iterator[Test]:
    """One test for each filter that is given."""
    makers: dict[str, Callable[[], Test]] = {
        "status": lambda: _status(filters),
        "exited": lambda: _exited(filters),
        "before": lambda: _before(context, filters),
        "since": lambda: _since(context, filters),
        "ancestor": lambda: _ancestor(context, filters),
        "label": lambda: lambda c: filters.labels(c.labels),
        "label!": lambda: lambda c: filters.not_labels(c.labels),
        "id": lambda: lambda c: filters.regex("id", c.id),
        "name": lambda: lambda c: filters.regex("name", c.name, f"/{c.name}"),
        "network": lambda: _network(context, filters),
        "volume": lambda: _volume(filters),
        "publish": lambda: _published(filters),
        "expose": lambda: _exposed(filters),
        "health": lambda: _health(filters),
        "isolation": lambda: lambda c: True,  # a word of Windows': any value means all, as with Docker on Linux
        "is-task": lambda: _is_task(filters),
    }
    for key in filters:
        if filters.get(key):
            yield makers[key]()


def _status(filters: Filters) -> Test:
    known = {state.value for state in State}
    if not set(filters.get("status")) <= known:
        raise filters.invalid("status")
    wanted = frozenset(filters.get("status"))
    return lambda c: c.state.value in wanted


def _exited(filters: Filters) -> Test:
    try:
        codes = frozenset(int(value) for value in filters.get("exited"))
    except ValueError:
        raise filters.invalid("exited") from None
    return lambda c: not c.status.active and c.status.started_at > 0 and c.status.exit_code in codes


def _before(context: Context, filters: Filters) -> Test:
    moment = min(context.registry.get(ref).created_at for ref in filters.get("before"))
    return lambda c: c.created_at < moment


def _since(context: Context, filters: Filters) -> Test:
    moment = max(context.registry.get(ref).created_at for ref in filters.get("since"))
    return lambda c: c.created_at > moment


def _ancestor(context: Context, filters: Filters) -> Test:
    """By image: its name as it was given at creation, whatever has that name or id now, or was made on top of it."""
    refs = set(filters.get("ancestor"))
    ancestors = [image for image in (_image(context, ref) for ref in refs) if image is not None]
    known = {image.id: True for image in ancestors}

    def descends(image_id: str) -> bool:
        if image_id not in known:
            image = _image(context, image_id)
            known[image_id] = image is not None and any(image.descends_from(ancestor) for ancestor in ancestors)
        return known[image_id]

    return lambda c: c.image_ref in refs or descends(c.image_id)


def _image(context: Context, ref: str) -> Image | None:
    try:
        return context.images.get(ref)
    except DockyardError:
        return None


def _network(context: Context, filters: Filters) -> Test:
    """By name, or by the beginning of the id, also of one that a stopped container is going to join."""
    wanted = tuple(filters.get("network"))

    def test(container: Container) -> bool:
        for name, endpoint in container.endpoints.items():
            if name in wanted or (endpoint.network_id or _network_id(context, name)).startswith(wanted):
                return True
        return False

    return test


def _network_id(context: Context, name: str) -> str:
    try:
        return context.networks.get(name).id
    except NotFound:
        return ""


def _volume(filters: Filters) -> Test:
    wanted = frozenset(filters.get("volume"))
    return lambda c: any(wanted & {point.name, point.source, point.destination} for point in c.mounts)


def _port_numbers(filters: Filters, key: str) -> frozenset[str]:
    """Every "port/protocol" that the values of a port filter mean."""
    ports: set[str] = set()
    for value in filters.get(key):
        match = _PORTS.match(value)
        if not match or not int(match[1]) <= int(match[2] or match[1]) <= 65535:
            raise filters.invalid(key)
        ports.update(f"{n}/{match[3] or 'tcp'}" for n in range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(ports)


def _published(filters: Filters) -> Test:
    wanted = _port_numbers(filters, "publish")

    def test(container: Container) -> bool:
        for port, bindings in (container.ports or container.host.port_bindings or {}).items():
            protocol = port.rpartition("/")[2]
            if any(f"{binding.host_port}/{protocol}" in wanted for binding in bindings or ()):
                return True
        return False

    return test


def _exposed(filters: Filters) -> Test:
    wanted = _port_numbers(filters, "expose")
    return lambda c: any(port in wanted for port in (*(c.config.exposed_ports or ()), *(c.host.port_bindings or ())))


def _health(filters: Filters) -> Test:
    wanted = frozenset(filters.get("health"))
    if not wanted <= STATUSES:
        raise filters.invalid("health")
    return lambda c: describe(c.status.health) in wanted


def _is_task(filters: Filters) -> Test:
    wanted = filters.boolean("is-task")
    return lambda c: not wanted
