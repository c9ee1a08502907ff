"""Stop containers whose maximum run time is over (`HostConfig.MaximumRuntime`).

Owns: one timer a container that has such a limit, counted from its start, also across restarts of the daemon. Does not
own: stopping (`stopping`).
"""

from __future__ import annotations

import asyncio
import logging

from dockyard.engine import stopping
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.model.lifecycle import SECOND

log = logging.getLogger(__name__)


class Deadlines:
    """The run-time limits of one engine's containers. For its event loop only."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._timers: dict[str, asyncio.TimerHandle] = {}
        context.started.append(lambda container, adopted: self.set(container))
        context.changed.append(self.set)
        context.ended.append(self._forget)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def set(self, container: Container) -> None:
        """Heed the limit as it is now, of a container that runs; one that is over already ends it at once."""
        self._forget(container)
        limit, handle = container.host.maximum_runtime, container.handle
        if not limit or handle is None:
            return
        left = container.status.started_at + limit - self._context.clock()

        def over() -> None:
            self._timers.pop(container.id, None)
            if container.handle is handle and not self._context.closing:
                work = stopping.end_overdue(self._context, container)
                self._context.spawn(work, f"container {container.id}: ending it at its maximum run time")

        self._timers[container.id] = asyncio.get_running_loop().call_later(max(left, 0) / SECOND, over)

    def _forget(self, container: Container) -> None:
        timer = self._timers.pop(container.id, None)
        if timer is not None:
            timer.cancel()
