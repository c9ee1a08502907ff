"""Containers and volumes whose directories did not survive a power loss are given new ones.

Owns: which containers, when, and what is made. Does not own: making (`store.snapshots`, `creation`).

A container's row is on disk when its client is told so; its directories are with it in the kernel, and on disk some
seconds later. What a program in it has written and forced to disk has taken the directories along; so those that are
not there were as good as empty, and nothing is lost with them. To force them to disk at each creation would take longer
than all the rest of it.
"""

from __future__ import annotations

import logging

from dockyard.engine import creation
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.model.errors import DockyardError

log = logging.getLogger(__name__)


async def remake(context: Context) -> None:
    """Call when all containers are known, before any is started. After the first start since the machine's own, what
    is missing was taken away by somebody, and that is told (`checking`), not mended."""
    if not await context.snapshots.is_new_boot():
        return
    context.volumes.remake()
    for container in context.registry:
        if container.handle is not None or _is_whole(context, container):
            continue
        try:
            await creation.remake(context, container)
        except (DockyardError, OSError) as error:
            log.warning("container %s: its files are missing: %s", container.id, error)
        else:
            log.warning("container %s: its files were not on disk when the machine went down", container.id)
    await context.snapshots.remember_boot()


def _is_whole(context: Context, container: Container) -> bool:
    snapshots = context.snapshots
    there = context.layout.container(container.id).is_dir() and snapshots.writable(container.id).is_dir()
    return there and snapshots.chain_of(container.id) == container.spec.chain_id
