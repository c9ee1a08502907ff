"""`--link`: what a container on the default bridge is told of others, and taking that back.

Owns: the names for /etc/hosts, the variables of a link, `unlink`. Does not own: writing /etc/hosts (`ground`), the
environment as a whole (`runtime.bundle`). Source: Docker's description of legacy links.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from msgspec.structs import replace

from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.model.errors import Conflict, DockyardError, NotFound, SystemFailure

_UNTOLD: Final = frozenset({"HOME", "PATH"})  # variables of the other that mean nothing here


class Link(NamedTuple):
    """One link: the container, the name that it has for the other, its address ("": has none, or does not run)."""

    other: Container
    alias: str
    address: str


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
    """Conflict for a link to one that does not run, NotFound for one to what is gone."""
    for other, alias, _ in links(context, container):
        if not other.running:
            raise Conflict(f"Cannot link to a non running container: /{other.name} AS /{container.name}/{alias}")


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
        kept = [text for text in container.host.links or () if _alias(context, text) != alias]
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


def _alias(context: Context, text: str) -> str:
    ref, alias = _parts(text)
    if alias:
        return alias
    try:
        return context.registry.get(ref).name
    except DockyardError:
        return ref
