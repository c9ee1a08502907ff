"""Logs that go to receivers elsewhere: what the engine has to do with it.

Owns: spools of containers (made before a start, marked at the removal), telling the shipper. Does not own: the shipper
(`runtime.shipper`), what a container's log is (`logspec`).

What a kill can leave: a spool whose container was never started or has no row (marked at the next start of the daemon),
a shipper that has not been told (it is, then).
"""

from __future__ import annotations

import msgspec

from dockyard.engine import logspec
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.model.errors import SystemFailure
from dockyard.proto.logdrivers import REMOTE
from dockyard.proto.logformats import Source
from dockyard.runtime.shipper.client import ShipperClient
from dockyard.runtime.shipper.spool import Spool, spools


def prepare(container: Container) -> None:
    """Before a start: what the shipper needs to know. SystemFailure if the disk refuses; InvalidArgument for a tag."""
    source = logspec.shipping(container)
    if source is None:
        return
    try:
        Spool(container.spool).prepare(msgspec.convert(source, Source))
    except OSError as error:
        raise SystemFailure(f"container {container.id}: {error.strerror}: {error.filename}") from error


class Shipping:
    """Keeps the shipper informed."""

    def __init__(self, context: Context) -> None:
        layout = context.layout
        self._context = context
        self._client = ShipperClient(
            context.runtime.call, str(layout.exec_root), str(layout.spools), context.runtime.build
        )
        context.started.append(self._started)
        context.removed.append(self._removed)

    def open(self) -> None:
        """After containers were restored: what was missed is told."""
        found = spools(self._context.layout.spools)
        for spool in found:
            if self._context.registry.find(spool.id) is None:
                spool.remove()
        if found:
            self._context.spawn(self._client.look(), "the shipper of logs")

    def close(self) -> None:
        self._client.close()

    def _started(self, container: Container, _adopted: bool) -> None:
        self._tell(container)

    def _removed(self, container: Container) -> None:
        if container.spec.log_driver in REMOTE and Spool(container.spool).remove():
            self._tell(container)

    def _tell(self, container: Container) -> None:
        if container.spec.log_driver in REMOTE:
            work = self._client.look(container.id)
            self._context.spawn(work, f"container {container.id}: the shipper of its log")
