"""Everything that a request needs, built once.

Owns: composition of the registry's process, and `Exchange`, one request with what is known of it. Does not own: sockets
(`server`), which request means what (`dispatch`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from dockyard.edge.registry.access import Guard, Identity, make_guard
from dockyard.edge.registry.configuration import Configuration, s3_options
from dockyard.edge.registry.metrics import Metrics, make_metrics
from dockyard.edge.registry.notifications import Notifier
from dockyard.registry.backend import Backend
from dockyard.registry.blobs import Blobs
from dockyard.registry.cache import Cache
from dockyard.registry.catalogue import Catalogue
from dockyard.registry.checking import Checker
from dockyard.registry.collection import Ages, Collector
from dockyard.registry.errors import RegistryError
from dockyard.registry.filesystem import FileBackend
from dockyard.registry.manifests import Manifests
from dockyard.registry.objects import open_s3
from dockyard.registry.uploads import Uploads
from dockyard.registry.upstream import Upstream

log = logging.getLogger("dockyard.registry")


def open_backend(configuration: Configuration) -> Backend:
    """The storage that the configuration names. InvalidArgument."""
    storage = configuration.storage
    if storage.filesystem is not None:
        return FileBackend(Path(storage.filesystem.root))
    assert storage.s3 is not None
    plain = storage.s3.endpoint.startswith("http://")
    return open_s3(storage.s3.bucket, storage.s3.prefix, s3_options(storage.s3), allow_http=plain)


class Core:
    """Storage and what is built on it; needs a running loop only for its calls."""

    def __init__(self, configuration: Configuration) -> None:
        ages = configuration.collection
        self.configuration = configuration
        self.backend = open_backend(configuration)
        self.blobs = Blobs(self.backend, ages.settle, ages.grace)
        self.manifests = Manifests(self.backend, self.blobs, check_blobs=configuration.proxy is None)
        self.uploads = Uploads(self.backend, self.blobs)
        self.catalogue = Catalogue(self.backend)
        self.collector = Collector(
            self.backend,
            self.manifests,
            Ages(ages.grace, ages.settle, ages.upload_age, ages.cache_age),
            untagged=ages.untagged,
            cache=configuration.proxy is not None,
        )

    def checker(self, contents: bool) -> Checker:
        return Checker(self.backend, self.blobs, self.manifests, contents)

    async def close(self) -> None:
        await self.backend.close()


class Service:
    """A registry that answers. `start` and `close` belong to the loop that it runs in."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.core = Core(configuration)
        self.guard: Guard = make_guard(configuration.auth)
        self.metrics: Metrics = make_metrics(configuration.metrics)
        self.notifier = Notifier(configuration.notifications, self.core.backend, self.metrics)
        self.cache: Cache | None = None
        self._collecting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        settings = self.configuration.proxy
        if settings is not None:
            upstream = Upstream(settings.url, settings.username, settings.password, settings.realms, settings.ca)
            core = self.core
            self.cache = Cache(upstream, core.backend, core.blobs, core.manifests, core.uploads, settings.fresh)
        await self.notifier.start()
        if self.configuration.collection.interval > 0 and not self.configuration.read_only:
            self._collecting = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        while True:
            await asyncio.sleep(self.configuration.collection.interval)
            try:
                report = await self.core.collector.collect()
                self.metrics.collected(report.blobs, report.bytes)
                log.info("collection: %s", report)
            except Exception:
                log.exception("collection failed")

    async def close(self) -> None:
        if self._collecting is not None:
            self._collecting.cancel()
            await asyncio.gather(self._collecting, return_exceptions=True)
        await self.notifier.close()
        if self.cache is not None:
            await self.cache.close()
        await self.core.close()

    def refuse_writing(self) -> None:
        """UNSUPPORTED in read-only mode, and in a cache."""
        if self.configuration.read_only:
            raise RegistryError("UNSUPPORTED", "the registry is read-only")
        if self.configuration.proxy is not None:
            raise RegistryError("UNSUPPORTED", "the registry is a pull-through cache")


@dataclass(slots=True)
class Exchange:
    """One request. `repository`, `argument`: from its path (`argument`: tag, digest or upload)."""

    service: Service
    request: web.BaseRequest
    repository: str = ""
    argument: str = ""
    identity: Identity | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def core(self) -> Core:
        return self.service.core

    def query(self, name: str) -> str:
        return self.request.rel_url.query.get(name, "")

    def may(self, repository: str, action: str) -> bool:
        return self.identity is not None and self.identity.may(repository, action)

    @property
    def user(self) -> str:
        return self.identity.name if self.identity else ""

    async def expect(self) -> None:
        """Tells a client that waits before sending its body to go on."""
        if self.request.headers.get("Expect", "").lower() == "100-continue":
            await self.request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.request.writer.output_size = 0
