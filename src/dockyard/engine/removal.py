"""Take containers away.

Owns: the order of a removal (the row first, then what it named), pruning. Does not own: ending a running one
(`stopping`).
"""

from __future__ import annotations

import asyncio
import logging

from dockyard.engine import exits, stopping
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.engine.metrics import timed
from dockyard.model.errors import DockyardError, InvalidArgument, NotFound
from dockyard.model.lifecycle import Event, State
from dockyard.proto.filters import Filters
from dockyard.proto.times import parse_moment
from dockyard.store.volumes import delete

log = logging.getLogger(__name__)

_AT_ONCE = 32  # of those that are pruned: their rows go together
PRUNE_FILTERS = frozenset({"until", "label", "label!"})


async def remove(context: Context, container: Container, ref: str, *, force: bool, volumes: bool) -> None:
    """See `Containers.remove`."""
    event = Event.FORCE_REMOVE if force else Event.REMOVE
    if container.state is State.REMOVING:
        container.check(event, ref)
    async with container.lock:
        if container.removed:
            raise NotFound(f"No such container: {ref}")
        container.check(event, ref)
        container.desired.running, container.desired.stopped_by_user = False, True
        exits.cancel_restart(container)
        handle = container.handle
        if handle is not None:
            gone = container.add_waiter("next-exit")
            try:
                await stopping.kill_now(context, container, handle, gone)
            finally:
                gone.cancel()
        await _take_away(context, container, volumes=volumes)


async def remove_ended(context: Context, container: Container) -> None:
    """Remove a `--rm` container that has ended, unless somebody did, or started it again."""
    async with container.lock:
        if container.removed or container.running or container.state is State.RESTARTING:
            return
        await _take_away(context, container, volumes=True)


@timed("delete")
async def _take_away(context: Context, container: Container, *, volumes: bool) -> None:
    before = container.status.state
    container.status.state = State.REMOVING
    going = _own_volumes(context, container) if volumes else set()
    try:
        await exits.released(container)
        context.volumes.doubt(going)
        await context.store.delete(container.id, also=lambda connection: delete(connection, going))
    except BaseException:
        context.volumes.undoubt(going)
        container.status.state = before
        raise
    container.removed = True
    context.registry.discard(container)
    context.labels.release(container.spec.process_label)
    container.drop_pending()
    _clean(context, container, going)
    for tell in context.removed:
        tell(container)
    for name in going:
        context.events.publish("volume", "destroy", name, {"driver": "local"})
    context.publish(container, "destroy")
    container.wake("removed", "not-running", "next-exit")


def _clean(context: Context, container: Container, volumes: set[str]) -> None:
    """What the row named. What cannot be taken away now is taken by the sweep of the next start."""
    exits.remove_state_dir(container)
    try:
        context.snapshots.remove(container.id)
        context.layout.discard(context.layout.container(container.id))
        context.volumes.forget(volumes)
    except (DockyardError, OSError) as error:
        log.warning("container %s: left for the sweep: %s", container.id, error)


def _own_volumes(context: Context, container: Container) -> set[str]:
    """Its anonymous volumes that no other container uses."""
    mine = {point.name for point in container.mounts if point.type == "volume" and point.anonymous}
    mine = {name for name in mine if context.registry.of_volume(name) == [container]}
    return {name for name in mine if not context.volumes.claimed(name)}


async def prune(context: Context, filters: Filters) -> tuple[list[str], int]:
    """Remove all that do not run; their ids and the bytes that this gave back."""
    filters.check(PRUNE_FILTERS)
    until = _until(context, filters)
    unused = [c for c in context.registry if _prunable(c) and c.created_at < until and _labels_match(c, filters)]
    sizes = await context.snapshots.usages([container.id for container in unused])
    waiting = iter(zip(unused, sizes, strict=True))
    removed: list[str] = []
    space = 0

    async def one_after_the_other() -> None:
        nonlocal space
        for container, size in waiting:
            if container.removed or not _prunable(container):
                continue
            try:
                await remove(context, container, container.id, force=False, volumes=False)
            except DockyardError as error:
                log.warning("prune: container %s stays: %s", container.id, error)
                continue
            removed.append(container.id)
            space += size

    await asyncio.gather(*(one_after_the_other() for _ in range(_AT_ONCE)))
    if removed or filters:
        context.events.publish("container", "prune", "", {"reclaimed": str(space)})
    return removed, space


def _prunable(container: Container) -> bool:
    return container.state in (State.CREATED, State.EXITED, State.DEAD) and not container.lock.locked()


def _until(context: Context, filters: Filters) -> int:
    values = filters.get("until")
    if not values:
        return context.clock() + 1
    if len(values) > 1:
        raise InvalidArgument("more than one until filter specified")
    try:
        return parse_moment(values[0], context.clock())
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def _labels_match(container: Container, filters: Filters) -> bool:
    return filters.labels(container.labels) and filters.not_labels(container.labels)
