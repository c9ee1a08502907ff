"""The build cache as something that takes space: what is in it, and making room.

Owns: `usage`, `prune`, and the look after each build that keeps the cache within bounds. Does not own: which rows go
(`proto.buildgc`), the rows (`store.builds.cache`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import NamedTuple

from dockyard.engine.builds.ground import Ground
from dockyard.model.errors import DockyardError
from dockyard.proto.buildgc import Candidate, Limits, Selection, choose, default_policy
from dockyard.store.builds.cache import INTERNAL, Record

log = logging.getLogger(__name__)


class CacheRecord(NamedTuple):
    """A row as clients see it. Sizes in bytes, times in ns."""

    id: str
    parents: list[str]
    type: str
    description: str
    in_use: bool
    shared: bool
    size: int
    created_at: int
    last_used_at: int
    usage_count: int


async def usage(ground: Ground) -> list[CacheRecord]:
    """Every row, the oldest first; directories of cache mounts are measured by workers."""
    await _measure(ground)
    shared = _layers_of_images(ground)
    sizes = _own_sizes(ground)
    records = [record for record in ground.cache if record.type != INTERNAL]
    return [
        CacheRecord(
            record.id, list(record.parents), record.type, record.description, ground.cache.in_use(record),
            record.chain in shared and record.made, sizes[record.id], record.created, record.last_used, record.uses,
        )
        for record in sorted(records, key=lambda record: (record.created, record.id))
    ]  # fmt: skip


async def prune(ground: Ground, selection: Selection, limits: Limits) -> tuple[list[str], int]:
    """Remove rows; (their ids, bytes that this freed)."""
    state = await asyncio.to_thread(os.statvfs, ground.context.layout.data_root)
    await _measure(ground)
    chosen = choose(_candidates(ground), selection, limits, state.f_bavail * state.f_frsize)
    return chosen, await _remove(ground, chosen)


async def keep_within_bounds(ground: Ground) -> None:
    """What a host does by itself after a build (`proto.buildgc.default_policy`)."""
    try:
        state = await asyncio.to_thread(os.statvfs, ground.context.layout.data_root)
        size = state.f_blocks * state.f_frsize
        for rule in default_policy(ground.context.clock(), size):
            chosen = choose(_candidates(ground), rule.selection, rule.limits, state.f_bavail * state.f_frsize)
            if chosen:
                freed = await _remove(ground, chosen)
                log.info(
                    "build cache: %d entries were not used for long and are removed (%d bytes)", len(chosen), freed
                )
    except (DockyardError, OSError) as error:
        log.warning("the build cache could not be kept within bounds: %s", error)


async def _remove(ground: Ground, ids: list[str]) -> int:
    cache = ground.cache
    doomed = [record for record_id in ids if (record := cache.get(record_id)) is not None and not cache.in_use(record)]
    freed = sum(record.size for record in doomed if record.directory)
    if not len({record.id for record in cache if record.type != INTERNAL} - set(ids)):
        doomed += [record for record in cache if record.type == INTERNAL and not cache.in_use(record)]
    cache.remove(doomed)
    gone = await ground.services.collect()
    return freed + sum(layer.document.size for layer in gone)


def _candidates(ground: Ground) -> list[Candidate]:
    shared = _layers_of_images(ground)
    sizes = _own_sizes(ground)
    return [
        Candidate(
            record.id, record.type, record.description, sizes[record.id], record.last_used, record.uses,
            ground.cache.in_use(record), record.chain in shared and record.made, tuple(record.parents),
        )
        for record in ground.cache
        if record.type != INTERNAL
    ]  # fmt: skip


def _own_sizes(ground: Ground) -> dict[str, int]:
    """What each row's own layer or directory takes; a layer that several rows have counts once, for the last used."""
    counted: set[str] = set()
    sizes: dict[str, int] = {}
    for record in sorted(ground.cache, key=lambda record: -record.last_used):
        again = record.chain is not None and record.chain in counted
        sizes[record.id] = 0 if again else record.size
        if record.chain is not None:
            counted.add(record.chain)
    return sizes


def _layers_of_images(ground: Ground) -> set[str]:
    """Chains that images (or containers) would keep without the cache."""
    snapshots = ground.context.snapshots
    tops = {image.chain_id for image in ground.services.catalogue} | snapshots.chains_of_containers()
    return {layer.chain_id for top in tops if top is not None for layer in snapshots.chain(top)}


async def _measure(ground: Ground) -> None:
    """How much the directories of rows have in them by now."""
    limit = asyncio.Semaphore(4)

    async def one(record: Record) -> None:
        async with limit:
            path = str(ground.context.layout.build_mount(record.directory))
            found = await ground.context.runtime.call("dockyard.store.copytree:usage", {"path": path})
            record.size = int(found["size"])

    await asyncio.gather(*(one(record) for record in ground.cache if record.directory))
