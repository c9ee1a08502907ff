"""The engine: every use case in one place, wired once.

Owns: which services there are, and the order in which those about containers begin and end. Does not own: building
what lies below (the composition root does), nor any use case.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dockyard.engine.builds import Builds
from dockyard.engine.checking import Check
from dockyard.engine.containers import Containers
from dockyard.engine.context import Context
from dockyard.engine.deadlines import Deadlines
from dockyard.engine.disk import Disk
from dockyard.engine.events import Events
from dockyard.engine.execs import Execs
from dockyard.engine.extensions import LEASE
from dockyard.engine.files import Files
from dockyard.engine.health import HealthChecks
from dockyard.engine.leases import Kind, Leases
from dockyard.engine.logs import Logs
from dockyard.engine.named_volumes import NamedVolumes
from dockyard.engine.oom import OomEvents
from dockyard.engine.shipping import Shipping
from dockyard.engine.stats import Stats
from dockyard.engine.system import Settings, System
from dockyard.engine.transfers import Transfers
from dockyard.proto.filters import Filters
from dockyard.store.builds.cache import BuildCache

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
    builds: Builds
    system: System
    disk: Disk
    check: Check
    volumes: NamedVolumes
    stats: Stats
    health: HealthChecks
    deadlines: Deadlines
    oom: OomEvents
    leases: Leases
    shipping: Shipping

    @classmethod
    def assemble(
        cls,
        context: Context,
        images: Images,
        networks: Networks,
        settings: Settings,
        transfers: Transfers | None = None,
        build_cache: BuildCache | None = None,
    ) -> Engine:
        """The services about containers over `context`, beside those given. Nothing is asked of them yet."""
        transfers = transfers or Transfers(images.services)
        services = images.services
        cache = build_cache or BuildCache(services.layout, services.database, services.snapshots, services.clock)
        containers = Containers(context)
        execs = Execs(context)
        volumes = NamedVolumes(context)
        _own_by_leases(context, containers, networks, volumes)
        return cls(
            context=context,
            containers=containers,
            execs=execs,
            files=Files(context, images),
            events=context.events,
            logs=Logs(context),
            images=images,
            networks=networks,
            transfers=transfers,
            builds=Builds(context, services, transfers, cache),
            system=System(settings, containers, context.events, context.cgroups, networks.firewall_notes),
            disk=Disk(context, containers, images),
            check=Check(context, images, cache),
            volumes=volumes,
            stats=Stats(context),
            health=HealthChecks(context, execs),
            deadlines=Deadlines(context),
            oom=OomEvents(context),
            leases=context.leases,
            shipping=Shipping(context),
        )

    async def open(self) -> None:
        """Restore what was there before. The services below are open already."""
        await self.containers.restore()
        await self.leases.open()
        self.shipping.open()

    async def close(self) -> None:
        """Let go: containers run on, what is to be written is written, streams of events end."""
        context = self.context
        context.closing = True
        await self.leases.close()
        await self.builds.close()
        await self.transfers.close()
        self.stats.close()
        self.health.close()
        self.deadlines.close()
        self.oom.close()
        self.shipping.close()
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


def _own_by_leases(context: Context, containers: Containers, networks: Networks, volumes: NamedVolumes) -> None:
    """What goes with a lease, and in which order: networks and volumes are in use while their containers are there."""

    def containers_of(lease: str) -> list[str]:
        return [container.id for container in context.registry if container.labels.get(LEASE) == lease]

    def networks_of(lease: str) -> list[str]:
        return [row.id for row in networks.list(Filters()) if row.labels.get(LEASE) == lease]

    def volumes_of(lease: str) -> list[str]:
        return [volume.name for volume in context.volumes.list() if (volume.labels or {}).get(LEASE) == lease]

    remove_container = functools.partial(containers.remove, force=True, volumes=True)
    context.leases.own(Kind("Containers", containers_of, remove_container))
    context.leases.own(Kind("Networks", networks_of, networks.remove))
    context.leases.own(Kind("Volumes", volumes_of, functools.partial(volumes.remove, force=True)))
