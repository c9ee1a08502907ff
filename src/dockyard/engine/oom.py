"""The event that a container has run out of memory, when it happens: its first process may live on.

Owns: which containers are watched, telling each time. Does not own: noticing it (`runtime.oomwatch`), what an exit
says of it (`exits`).

Only containers with a memory limit are watched: others run out of memory with the host, or with a parent that somebody
else limits, and their exit tells.
"""

from __future__ import annotations

import logging

from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.runtime.oomwatch import OomWatch

log = logging.getLogger(__name__)


class OomEvents:
    """One per engine; for its event loop only."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._watch = OomWatch()
        context.started.append(self._started)
        context.changed.append(self._set)
        context.ended.append(self._ended)

    def close(self) -> None:
        """No more events."""
        self._watch.close()

    def _started(self, container: Container, adopted: bool) -> None:
        container.oom_told = False
        self._set(container)

    def _set(self, container: Container) -> None:
        handle = container.handle
        if handle is None or container.host.memory <= 0:
            return
        try:
            self._watch.add(container.id, handle.cgroup, lambda: self._tell(container))
        except OSError as error:  # it has ended already, or there is no memory controller
            log.debug("container %s: its memory is not watched: %s", container.id, error)

    def _tell(self, container: Container) -> None:
        container.oom_told = True
        self._context.publish(container, "oom")

    def _ended(self, container: Container) -> None:
        self._watch.remove(container.id)
