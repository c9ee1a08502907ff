"""`--link`: what a container on the default bridge is told of others, and taking that back.

Owns: whom a link means (settled when the container is made), the names for /etc/hosts, the variables of a link,
`unlink`. Does not own: writing /etc/hosts (`ground`), the environment as a whole (`runtime.bundle`). Source: Docker's
description of legacy links.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.model.errors import Conflict, InvalidArgument, NotFound, SystemFailure

HOST_NETWORK: Final = (
    "conflicting options: host type networking can't be used with links. This would result in undefined behavior"
)
_UNTOLD: Final = frozenset({"HOME", "PATH"})  # variables of the other that mean nothing here


class Link(NamedTuple):
    """One link: the container, the name that it has for the other, its address ("": has none, or does not run)."""

    other: Container
    alias: str
    address: str


def resolve(context: Context, asked: Sequence[str]) -> list[str]:
    """The links of a new container as `ID:alias`, so that they survive a rename of the other. InvalidArgument (a 404
    would say that the image is missing) for one that is not there, or has no address of its own."""
    return [f"{_target(context, ref).id}:{alias or ref.lstrip('/')}" for ref, alias in map(_parts, asked)]


def _target(context: Context, ref: str) -> Container:
    """Who has the address: a container in another's network shares that one's."""
    looked_for = ref
    while (other := context.registry.find(looked_for)) is not None:
        if other.host.network_mode == "host":
            raise InvalidArgument(HOST_NETWORK)
        if not other.host.network_mode.startswith("container:"):
            return other
        looked_for = other.host.network_mode.removeprefix("container:")
    raise InvalidArgument(f"could not get container for {ref}: No such container: {looked_for}")


def links(context: Context, container: Container) -> Iterator[Link]:
    """The links of a container. NotFound if one of the others is gone."""
    for text in container.host.links or ():
        ref, alias = _parts(text)
        other = context.registry.get(ref)
        addresses = (end.ip_address for end in other.status.endpoints.values() if other.running and end.ip_address)
        yield Link(other, alias or other.name, next(addresses, ""))


def _parts(text: str) -> tuple[str, str]:
    """`other:alias` or `/other:/container/alias`."""
    ref, _, alias = text.partition(":")
    return ref, alias.rpartition("/")[2]


def check(context: Context, container: Container) -> None:
    """Conflict for a link to one that does not run or is gone."""
    for ref, alias in map(_parts, container.host.links or ()):
        other = context.registry.find(ref)
        if other is None or not other.running:
            name = ref.lstrip("/") if other is None else other.name
            raise Conflict(f"Cannot link to a non running container: /{name} AS /{container.name}/{alias or name}")


def shown(context: Context, container: Container) -> list[tuple[str, str]]:
    """(the other's name as it is now, its alias) of each link; of one that is gone what is known of it."""
    pairs = []
    for ref, alias in map(_parts, container.host.links or ()):
        other = context.registry.find(ref)
        name = ref.lstrip("/") if other is None else other.name
        pairs.append((name, alias or name))
    return pairs


def names_given(context: Context) -> dict[str, list[str]]:
    """By container id: the names that others have given it, `OTHER/alias`."""
    given: dict[str, list[str]] = {}
    for container in context.registry.made_with_links():
        for ref, alias in map(_parts, container.host.links or ()):
            other = context.registry.find(ref)
            if other is not None:
                given.setdefault(other.id, []).append(f"{container.name}/{alias or other.name}")
    return given


def linking(context: Context, container: Container) -> Iterator[Container]:
    """The running containers that have a link to this one."""
    for other in context.registry.made_with_links():
        others = [_parts(text)[0] for text in other.host.links or () if other.running]
        if any(context.registry.find(ref) is container for ref in others):
            yield other


def hosts(context: Context, container: Container) -> Iterator[tuple[str, list[str]]]:
    """(address, names) for /etc/hosts, of those that run."""
    for other, alias, address in links(context, container):
        if address:
            yield address, list(dict.fromkeys((alias, other.config.hostname, other.name)))


def variables(context: Context, container: Container) -> list[str]:
    """The variables that tell a program of its links' names, ports and environments. Of one that does not run, or is
    gone, there are none."""
    told: list[str] = []
    try:
        for link in links(context, container):
            if link.other.running:
                told += _variables(container, link)
    except NotFound:
        pass  # the start says so, an exec goes without
    return told


def _variables(container: Container, link: Link) -> Iterator[str]:
    prefix = link.alias.upper().replace("-", "_")
    ports = sorted(link.other.config.exposed_ports or (), key=_order) if link.address else []
    for place, port in enumerate(ports):
        number, _, protocol = port.partition("/")
        url = f"{protocol or 'tcp'}://{link.address}:{number}"
        if not place:
            yield f"{prefix}_PORT={url}"
        name = f"{prefix}_PORT_{number}_{(protocol or 'tcp').upper()}"
        yield f"{name}={url}"
        yield f"{name}_ADDR={link.address}"
        yield f"{name}_PORT={number}"
        yield f"{name}_PROTO={protocol or 'tcp'}"
    yield f"{prefix}_NAME=/{container.name}/{link.alias}"
    for variable in link.other.config.env or ():
        key, equals, _ = variable.partition("=")
        if equals and key not in _UNTOLD:
            yield f"{prefix}_ENV_{variable}"


def _order(port: str) -> tuple[int, bool]:
    """By number; of one number, TCP first."""
    number, _, protocol = port.partition("/")
    return int(number.partition("-")[0] or 0), protocol not in ("", "tcp")


async def unlink(
    context: Context, container: Container, alias: str, write_hosts: Callable[[Context, Container], None]
) -> None:
    """Take a link away: from the settings, and by `write_hosts` from the names that a running container knows.

    NotFound if it has no such link; SystemFailure if the file cannot be written.
    """
    async with container.lock:
        if container.removed:
            raise NotFound(f"No such container: {container.name}")
        named = zip(container.host.links or (), shown(context, container), strict=True)
        kept = [text for text, (_, known_as) in named if known_as != alias]
        if len(kept) == len(container.host.links or ()):
            raise NotFound(f"No such link: /{container.name}/{alias}")
        spec = replace(container.spec, host=replace(container.host, links=kept or None))
        await context.store.save_spec(container.id, spec)
        container.spec = spec
        if container.running:
            try:
                write_hosts(context, container)
            except OSError as error:
                raise SystemFailure(f"container {container.id}: {error.strerror}: {error.filename}") from error
