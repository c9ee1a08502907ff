"""Blobs into a registry that breaks off, forgets, wants pieces of a size, or had everything already."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from aiohttp import web

from dockyard.model.errors import DockyardError, InvalidArgument, Unavailable
from dockyard.proto.dockerconfig import Credentials
from dockyard.proto.registries import Place, RegistryRules
from dockyard.store.remote.repository import Repository
from dockyard.store.remote.session import Session, Shared
from dockyard.store.remote.transport import Limits, Transport
from dockyard.store.remote.uploading import Upload
from tests.support.fakeregistry import FakeRegistry, digest_of, error

DATA = os.urandom(30_000_000)
PATIENCE = Limits(connect=2, silence=2, tries=3, delay=0.01)


class Bytes:
    """A content: of a known size, or (`made`) one that is known at the end only."""

    def __init__(self, data: bytes, *, made: bool = False) -> None:
        self.data, self.made = data, made
        self.size = None if made else len(data)
        self.starts: list[int] = []
        self._ended = not made

    def known(self) -> tuple[str, int] | None:
        return (digest_of(self.data), len(self.data)) if self._ended else None

    async def chunks(self, start: int) -> AsyncGenerator[bytes, None]:
        self.starts.append(start)
        for place in range(start, len(self.data), 300_000):
            yield self.data[place : place + 300_000]
        self._ended = True


def run(work: Callable[[FakeRegistry, Repository], Awaitable[None]], limits: Limits = PATIENCE) -> None:
    async def main() -> None:
        transport = Transport(RegistryRules(), limits)
        try:
            async with FakeRegistry() as registry:
                session = Session(Shared(transport), Place(registry.host, ("http",)), Credentials())
                await work(registry, Repository(session, "a/x", push=True))
        finally:
            await transport.close()

    asyncio.run(main())


@pytest.mark.parametrize("data", [DATA, b""])
def test_what_fits_goes_in_one_request(data: bytes) -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        done = await Upload(repository, Bytes(data), "layer").run()
        assert done == (digest_of(data), len(data)) and registry.blobs == {done[0]: data}
        assert [method for method, path, _ in registry.log if "uploads" in path] == ["POST", "PUT"]
        assert registry.pieces == [("PUT", "", len(data))]

    run(work)


def test_a_large_one_goes_in_pieces() -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        registry.least = 8_000_000
        await Upload(repository, Bytes(DATA), "layer", piece=1_000_000).run()
        assert registry.pieces == [
            ("PATCH", "0-7999999", 8_000_000), ("PATCH", "8000000-15999999", 8_000_000),
            ("PATCH", "16000000-23999999", 8_000_000), ("PUT", "24000000-29999999", 6_000_000),
        ]  # fmt: skip
        assert digest_of(DATA) in registry.blobs

    run(work)


@pytest.mark.parametrize("made", [False, True])
def test_a_broken_upload_goes_on_where_it_broke(made: bool) -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        registry.breaks = [5_000_000, 4_000_000]
        told: list[float] = []
        content = Bytes(DATA, made=made)
        done = await Upload(repository, content, "layer", told.append).run()
        assert done == (digest_of(DATA), len(DATA)) and registry.blobs[done[0]] == DATA
        assert content.starts == [0, 5_000_000, 9_000_000] and len(told) == 2
        if made:  # pieces of 8 MiB at least, in whole chunks
            assert [place.partition("-")[0] for _, place, _ in registry.pieces] == [
                "", "5000000", "9000000", "17400000", "25800000", ""]  # fmt: skip
        else:
            assert [place for _, place, _ in registry.pieces] == ["", "5000000-29999999", "9000000-29999999"]
        assert sum(size for _, _, size in registry.pieces) == len(DATA)  # not a byte twice

    run(work)


@pytest.mark.parametrize("made", [False, True])
def test_an_upload_that_is_forgotten_begins_anew(made: bool) -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        registry.breaks, registry.forgets = [5_000_000], True
        content = Bytes(DATA, made=made)
        await Upload(repository, content, "layer").run()
        assert content.starts == [0, 0] and digest_of(DATA) in registry.blobs
        assert not registry.uploads

    run(work)


def test_parts_that_do_not_fit_together_are_sent_anew() -> None:
    """A registry that says more than it has: its digest does not fit, once."""

    async def work(registry: FakeRegistry, repository: Repository) -> None:
        registry.breaks = [5_000_000]

        async def lie(request: web.Request) -> web.StreamResponse | None:
            if request.method != "GET":
                return None
            (key,) = registry.uploads
            registry.uploads[key] += b"x" * 10
            headers = {"Location": request.path, "Range": f"0-{len(registry.uploads[key]) - 1}"}
            return web.Response(status=204, headers=headers)

        registry.hooks.append(("/uploads/u", lie))
        content = Bytes(DATA)
        await Upload(repository, content, "layer").run()
        assert content.starts == [0, 5_000_010, 0] and registry.blobs[digest_of(DATA)] == DATA

    run(work)


def test_a_break_after_the_end_sends_nothing_again() -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        async def lose(request: web.Request) -> web.StreamResponse | None:
            if request.method != "PUT":
                return None
            data = await request.read()
            registry.blobs[digest_of(data)] = data
            registry.uploads.clear()
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        registry.hooks.append(("/uploads/u", lose))
        content = Bytes(DATA)
        assert (await Upload(repository, content, "layer").run())[0] == digest_of(DATA)
        assert content.starts == [0]

    run(work)


def test_an_upload_that_is_still_held_is_waited_for() -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        registry.breaks = [5_000_000]
        busy = iter([True])

        async def hold(request: web.Request) -> web.StreamResponse | None:
            if "Content-Range" in request.headers and next(busy, False):
                return error(409, "BLOB_UPLOAD_INVALID", "another request is adding to it")
            return None

        registry.hooks.append(("/uploads/u", hold))
        content = Bytes(DATA)
        await Upload(repository, content, "layer").run()
        assert content.starts[:1] == [0] and content.starts[-1] == 5_000_000 and 0 not in content.starts[1:]

    run(work)


def test_a_registry_that_stops_taking_bytes_is_given_up() -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        async def stall(request: web.Request) -> web.StreamResponse | None:
            if request.method == "PUT":
                await asyncio.sleep(20)
            return None

        registry.hooks.append(("/uploads/u", stall))
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="i/o timeout"):
            await Upload(repository, Bytes(DATA), "layer").run()
        assert time.monotonic() - begun < 5

    run(work, Limits(connect=2, silence=0.3, tries=2, delay=0.01))


def test_trying_ends() -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        registry.breaks = [10_000] * 100
        with pytest.raises(Unavailable):
            await Upload(repository, Bytes(DATA), "layer").run()
        assert len(registry.pieces) == 3

    run(work)


@pytest.mark.parametrize(
    ("status", "kind", "tries"), [(413, InvalidArgument, 1), (403, DockyardError, 1), (503, Unavailable, 3)]
)
def test_refusals_are_told(status: int, kind: type[DockyardError], tries: int) -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        async def refuse(request: web.Request) -> web.StreamResponse | None:
            return error(status, "DENIED", "no room for you") if request.method == "PUT" else None

        registry.hooks.append(("/uploads/u", refuse))
        with pytest.raises(kind, match="no room for you"):
            await Upload(repository, Bytes(b"x" * 100), "layer sha256:1").run()
        assert len(registry.asked("/uploads/u", "PUT")) == tries

    run(work)


def test_a_store_that_lacks_bytes_is_told() -> None:
    async def work(registry: FakeRegistry, repository: Repository) -> None:
        content = Bytes(b"x" * 1000)
        content.size = 2000
        with pytest.raises(InvalidArgument, match="layer sha256:1: 1000 bytes of it are missing in the store"):
            await Upload(repository, content, "layer sha256:1").run()
        assert not registry.blobs

    run(work)
