"""Images go by themselves on hosts that nobody looks after.

Owns: `Collector`: looks every minute how full the data root's disk is and which images are used, removes what the
policy says. Does not own: the policy (`proto.imagegc`), what a removal is (`removal`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Final

from dockyard.engine.images import removal
from dockyard.engine.images.catalogue import Image
from dockyard.engine.images.services import Services
from dockyard.model.errors import DockyardError
from dockyard.proto.imagegc import Candidate, Policy, plan

log = logging.getLogger(__name__)
INTERVAL: Final = 60.0  # seconds
_REMEMBERED: Final = 3600 * 10**9  # ns: how much of an image's last use a restart may forget


class Collector:
    """`start()` once, `close()` at the end; `check()` is one look. For the event loop's thread."""

    def __init__(self, services: Services, policy: Policy, interval: float = INTERVAL) -> None:
        self._services = services
        self._policy = policy
        self._interval = interval
        self._used: dict[str, int] = {}  # image -> when it was last seen in use, ns
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._policy.on:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.check()
            except (DockyardError, OSError) as error:
                log.warning("images could not be collected: %s", error)

    async def check(self) -> list[str]:
        """Remove what the policy says now; returns the ids of what went."""
        services = self._services
        state = await asyncio.to_thread(os.statvfs, services.layout.data_root)
        size = state.f_blocks * state.f_frsize
        candidates = self._candidates()
        await self._remember(candidates)
        chosen = plan(candidates, self._policy, services.clock(), size - state.f_bavail * state.f_frsize, size)
        gone = []
        for image_id in chosen:
            image = services.catalogue.by_id(image_id)
            if image is None or services.users(image):
                continue  # things have changed while others went
            if await removal.remove_unused(services, image):
                gone.append(image_id)
                log.info("image %s (%s) was not used and is removed", image.short_id, ", ".join(image.names))
        return gone

    async def _remember(self, candidates: list[Candidate]) -> None:
        """Write down what is in use, in one transaction, if it is not known to the hour."""
        now = self._services.clock()
        used = [self._services.catalogue.by_id(candidate.id) for candidate in candidates if candidate.in_use]
        records = [image.record for image in used if image is not None and now - image.record.used_at >= _REMEMBERED]
        for record in records:
            record.used_at = now
        if records:
            await self._services.commit([(record, []) for record in records])

    def _candidates(self) -> list[Candidate]:
        now = self._services.clock()
        images = list(self._services.catalogue)
        self._used = {image.id: self._used.get(image.id, 0) for image in images}  # finer than `used_at`
        found = []
        for image in images:
            in_use = bool(self._services.users(image))
            if in_use:
                self._used[image.id] = now
            found.append(self._candidate(image, in_use))
        return found

    def _candidate(self, image: Image, in_use: bool) -> Candidate:
        came = image.record.tagged_at or image.created
        layers = self._services.snapshots.chain(image.chain_id)
        return Candidate(
            id=image.id,
            repositories=frozenset(reference.repository for reference in image.references),
            came=came,
            last_used=max(self._used[image.id], image.record.used_at, came),
            in_use=in_use,
            layers=tuple((layer.chain_id, layer.document.size) for layer in layers),
        )
