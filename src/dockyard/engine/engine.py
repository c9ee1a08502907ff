"""The engine: every use case in one place, wired once.

Owns: which services there are, and the order in which those about containers begin and end. Does not own: building
what lies below (the composition root does), nor any use case.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dockyard.engine.containers import Containers
from dockyard.engine.context import Context
from dockyard.engine.deadlines import Deadlines
from dockyard.engine.disk import Disk
from dockyard.engine.events import Events
from dockyard.engine.execs import Execs
from dockyard.engine.files import Files
from dockyard.engine.health import HealthChecks
from dockyard.engine.logs import Logs
from dockyard.engine.named_volumes import NamedVolumes
from dockyard.engine.stats import Stats
from dockyard.engine.system import Settings, System
from dockyard.engine.transfers import Transfers

if TYPE_CHECKING:
    from dockyard.engine.images import Images
    from dockyard.engine.networks import Networks


@dataclass(frozen=True, slots=True)
class Engine:
    """All services. Built by the composition root (or by a program that embeds it): `Engine(context, …)`."""

    context: Context
    containers: Containers
    execs: Execs
    files: Files
    events: Events
    logs: Logs
    images: Images
    networks: Networks
    transfers: Transfers
    system: System
    disk: Disk
    volumes: NamedVolumes
    stats: Stats
    health: HealthChecks
    deadlines: Deadlines

    @classmethod
    def assemble(
        cls,
        context: Context,
        images: Images,
        networks: Networks,
        settings: Settings,
        transfers: Transfers | None = None,
    ) -> Engine:
        """The services about containers over `context`, beside those given. Nothing is asked of them yet."""
        containers = Containers(context)
        execs = Execs(context)
        return cls(
            context=context,
            containers=containers,
            execs=execs,
            files=Files(context),
            events=context.events,
            logs=Logs(context),
            images=images,
            networks=networks,
            transfers=transfers or Transfers(images.services),
            system=System(settings, containers, context.events, context.cgroups, networks.firewall_notes),
            disk=Disk(context, containers, images),
            volumes=NamedVolumes(context),
            stats=Stats(context),
            health=HealthChecks(context, execs),
            deadlines=Deadlines(context),
        )

    async def open(self) -> None:
        """Restore what was there before. The services below are open already."""
        await self.containers.restore()

    async def close(self) -> None:
        """Let go: containers run on, what is to be written is written, streams of events end."""
        context = self.context
        context.closing = True
        await self.transfers.close()
        self.stats.close()
        self.health.close()
        self.deadlines.close()
        self.execs.close()
        context.events.close()
        writes = []
        for container in context.registry:
            for task in (container.watcher, container.restarting):
                if task is not None:
                    task.cancel()
            container.drop_pending()
            if container.written is not None and not container.written.done():
                writes.append(container.written)
        if writes:
            await asyncio.wait(writes, timeout=5)
        for task in list(context.tasks):
            task.cancel()
        await asyncio.gather(*context.tasks, return_exceptions=True)
        context.watcher.close()
