"""Images to and from registries.

Owns: `Transfers`, the one interface for pull, push, login, search and a look at a registry's manifest; identical pulls
share one transfer, and a transfer ends with the last client that waits for it. Does not own: the work (a module for
each verb), local images (`engine.images`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import replace

from dockyard.engine.images.services import Services
from dockyard.engine.transfers import looking, pulling, pushing
from dockyard.engine.transfers.downloads import Downloads
from dockyard.engine.transfers.looking import Distribution, SearchResult
from dockyard.engine.transfers.progress import Board, Feed, Message
from dockyard.engine.transfers.shared import Pool
from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import Platform
from dockyard.proto import platforms, references
from dockyard.proto.dockerconfig import Credentials, registry_of
from dockyard.proto.filters import Filters
from dockyard.proto.references import DEFAULT_DOMAIN, Reference
from dockyard.proto.registries import Place, RegistryRules, places
from dockyard.store.remote import hostsfiles, tls
from dockyard.store.remote.download import download, free_bytes
from dockyard.store.remote.repository import Repository
from dockyard.store.remote.session import Session, Shared
from dockyard.store.remote.transport import Limits, Transport
from dockyard.store.spooling import temporary_file

__all__ = ["Distribution", "Limits", "Message", "SearchResult", "Transfers"]

_NOBODY = Credentials()
_READ = 1 << 20


class Transfers:
    """All transfers of a daemon. For the event loop's thread. `close()` at the end."""

    def __init__(
        self,
        services: Services,
        rules: RegistryRules | None = None,
        *,
        downloads: int = 3,
        uploads: int = 5,
        limits: Limits | None = None,
        certificates: tuple[str, ...] = tls.DIRECTORIES,
    ) -> None:
        """`downloads`, `uploads`: layers at a time. `certificates`: directories like /etc/docker/certs.d."""
        self._services = services
        self._rules = rules or RegistryRules()
        self._transport = Transport(self._rules, limits, certificates)
        self._shared = Shared(self._transport)
        self._downloads = Downloads(services, downloads)
        self._uploads = asyncio.Semaphore(uploads)
        self._pool: Pool[None] = Pool()

    def reconfigure(self, rules: RegistryRules, *, downloads: int, uploads: int, attempts: int) -> None:
        """From now on; what is under way goes on as it was begun. `attempts`: tries for a blob."""
        self._rules = self._transport.rules = rules
        self._transport.limits = replace(self._transport.limits, downloads=attempts)
        self._shared = Shared(self._transport)  # what it has found out of a host may be what may not be done any more
        self._downloads.allow(downloads)
        self._uploads = asyncio.Semaphore(uploads)

    async def close(self) -> None:
        """End what is under way. What was fetched stays for the next try."""
        await self._pool.close()
        await self._downloads.close()
        await self._transport.close()

    @property
    def transport(self) -> Transport:
        """Connections to the web, for others that fetch."""
        return self._transport

    @property
    def downloads(self) -> Downloads:
        """Layers on their way here, of whatever is fetched."""
        return self._downloads

    async def repositories(self, reference: Reference, credentials: Credentials, *, push: bool) -> list[Repository]:
        """Where a reference is to be asked for, in turn (to push: one)."""
        return await self._repositories(reference, credentials, mirrors=not push, push=push)

    @asynccontextmanager
    async def fetch(self, url: str, progress: Callable[[int, int], None]) -> AsyncIterator[AsyncIterator[bytes]]:
        """What is at a web address, once all of it is here. `progress`: is told the bytes so far and in all (0: not
        known). NotFound, InvalidArgument, Forbidden, SystemFailure naming the address."""
        layout = self._services.layout
        with temporary_file(layout) as fd:
            await download(self._transport, url, fd, limit=free_bytes(str(layout.ingest)), progress=progress)
            os.lseek(fd, 0, os.SEEK_SET)
            yield _content(fd)

    # --- verbs -----------------------------------------------------------------------------------------------------

    async def pull(
        self, name: str, *, tag: str = "", platform: str = "", credentials: Credentials = _NOBODY
    ) -> AsyncGenerator[Message, None]:
        """Have an image, or, of a name without tag and digest, all images of the repository. Tells how it goes.

        `tag`: a tag or digest, in place of the name's. NotFound, InvalidArgument, … in Docker's words.
        """
        reference = _asked(name, tag)
        repositories = await self._repositories(reference, credentials, mirrors=True)
        self._services.layout.sweep_partials()
        asked = [reference]
        if not reference.tag and not reference.digest:
            tags = await pulling.tags(repositories, reference)
            asked = [reference._replace(tag=tag) for tag in tags if references.is_tag(tag)]
        for one in asked:
            key = ("pull", one.complete, platform, credentials)

            def start(board: Board, one: Reference = one) -> Awaitable[None]:
                return pulling.pull_image(self._services, self._downloads, repositories, one, platform, board)

            async for message in self._told(key, start):
                yield message

    async def push(
        self, name: str, *, tag: str = "", credentials: Credentials = _NOBODY, wanted: Platform | None = None
    ) -> AsyncGenerator[Message, None]:
        """Send an image, or all images of a repository, to its registry. Tells how it goes. `wanted`: one platform."""
        reference = references.parse(name)
        if reference.digest:
            raise InvalidArgument("cannot push a digest reference")
        if tag:
            reference = reference._replace(tag=references.check_tag(tag))
        yield Message(f"The push refers to repository [{reference.repository}]")
        images = pushing.choose(self._services, reference)
        (repository,) = await self._repositories(reference, credentials, push=True)
        for image, name_ in images:

            def start(board: Board, image: pushing.Image = image, name_: Reference = name_) -> Awaitable[None]:
                return pushing.push_image(
                    self._services, self._uploads, self._rules, repository, image, name_, board, wanted
                )

            shown = platforms.show(wanted) if wanted is not None else ""
            async for message in self._told(("push", name_.complete, image.id, shown, credentials), start):
                yield message

    async def log_in(self, credentials: Credentials) -> None:
        """Verify credentials at `credentials.server` ("" is docker.io). Unauthorized if they are not taken."""
        domain = registry_of(credentials.server) if credentials.server else DEFAULT_DOMAIN
        self._transport.forget_certificates()
        await (await self._session(domain, credentials._replace(server=""))).log_in()

    async def search(
        self, term: str, *, limit: int, filters: Filters, credentials: Credentials = _NOBODY
    ) -> list[SearchResult]:
        """Repositories by words: of docker.io, or HOST/WORDS of a registry that offers a search."""
        domain, words = looking.split_term(term)
        host = looking.search_host(domain)
        session = await self._session(host, _belongs(credentials, domain))
        return await looking.search(session, domain, words, limit, filters)

    async def distribution(self, name: str, credentials: Credentials = _NOBODY) -> Distribution:
        """What a registry has under a name: the manifest's descriptor and its platforms. Nothing is stored."""
        reference = references.parse(name).with_default_tag()
        repositories = await self._repositories(reference, credentials, mirrors=True)
        return await looking.inspect(repositories, reference)

    # --- below -----------------------------------------------------------------------------------------------------

    async def _told(self, key: Hashable, start: Callable[[Board], Awaitable[None]]) -> AsyncGenerator[Message, None]:
        """Messages of a work that may be shared, to its end; its error is raised then."""
        feed = Feed()
        task = asyncio.create_task(self._pool.join(key, start, feed))
        task.add_done_callback(lambda _: feed.close())
        try:
            async for message in feed:
                yield message
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _repositories(
        self, reference: Reference, credentials: Credentials, *, mirrors: bool = False, push: bool = False
    ) -> list[Repository]:
        self._transport.forget_certificates()
        own = _belongs(credentials, reference.domain)
        return [
            Repository(Session(self._shared, place, own), reference.path, push=push)
            for place in await self._places(reference.domain, mirrors=mirrors)
        ]

    async def _places(self, domain: str, *, mirrors: bool) -> list[Place]:
        """Where a registry's content is, by the configuration and by hosts.toml, which changes without a restart."""
        insecure = await self._transport.is_insecure(domain)
        hosts = await asyncio.to_thread(hostsfiles.read, domain, self._transport.certificates)
        return places(self._rules, domain, insecure, mirrors=mirrors, server=hosts.server, others=hosts.mirrors)

    async def _session(self, domain: str, credentials: Credentials) -> Session:
        place = (await self._places(domain, mirrors=False))[-1]
        return Session(self._shared, place, credentials)


def _belongs(credentials: Credentials, domain: str) -> Credentials:
    """The credentials, if the client did not say that they are another registry's (S38)."""
    if credentials.server and registry_of(credentials.server) != domain:
        return _NOBODY
    return credentials


def _asked(name: str, tag: str) -> Reference:
    reference = references.parse(name)
    if not tag:
        return reference
    if ":" in tag:
        return references.parse(f"{reference.repository}@{tag}")
    return reference._replace(tag=references.check_tag(tag))


async def _content(fd: int) -> AsyncIterator[bytes]:
    while data := await asyncio.to_thread(os.read, fd, _READ):
        yield data
