"""What every storage backend promises (`registry.backend.Backend`)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dockyard.edge.registry.configuration import Configuration
from dockyard.edge.registry.service import open_backend
from dockyard.registry.backend import Backend, Missing
from dockyard.registry.errors import WrongDigest, WrongOffset
from tests.unit.registry.support import digest_of

Run = Callable[[Callable[[Backend], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def run(storage: dict[str, Any]) -> Run:
    def runner(test: Callable[[Backend], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            backend = open_backend(msgspec.convert({"storage": storage}, Configuration))
            try:
                await test(backend)
            finally:
                await backend.close()

        asyncio.run(main())

    return runner


async def source(*parts: bytes, fail: BaseException | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if fail is not None:
        raise fail


async def read(backend: Backend, key: str, start: int, length: int) -> bytes:
    return b"".join([data async for data in backend.stream(key, start, length)])


def test_small_objects(run: Run) -> None:
    async def test(backend: Backend) -> None:
        with pytest.raises(Missing):
            await backend.read("repos/a/x")
        await backend.write("repos/a/x", b"one")
        await backend.write("repos/a/x", b"two")
        await backend.write("repos/a/empty", b"")
        await backend.sync(["repos/a/x", "repos/gone/y"])
        assert await backend.read("repos/a/x") == b"two"
        entry = await backend.stat("repos/a/x")
        assert entry is not None and entry.size == 3
        assert abs(entry.modified - await backend.now()) < 60
        listing = await backend.below("repos/a")
        assert listing.names == ["empty", "x"] and listing.folders == []
        assert (await backend.below("repos")).folders == ["a"]
        assert await backend.below("repos/nothing") == ([], [])
        assert sorted([each.name async for each in backend.walk("repos")]) == ["repos/a/empty", "repos/a/x"]
        await backend.copy("repos/a/x", "repos/b/c/x")
        await backend.delete("repos/a/x", "repos/a/never")
        assert await backend.stat("repos/a/x") is None
        assert await backend.read("repos/b/c/x") == b"two"
        with pytest.raises(Missing):
            await backend.copy("repos/a/x", "repos/z")
        assert await backend.stat("repos/z") is None

    run(test)


def test_a_conditional_deletion_spares_what_came_meanwhile(run: Run) -> None:
    async def test(backend: Backend) -> None:
        await backend.write("tags/t", b"new")
        assert not await backend.delete_if("tags/t", b"old")
        assert await backend.read("tags/t") == b"new"
        assert await backend.delete_if("tags/t", b"new")
        assert all(entry.size == 0 for entry in (await backend.below("tags")).files)
        assert not await backend.delete_if("tags/never", b"new")

    run(test)


@pytest.mark.parametrize("size", [0, 10, 20_000_001])
def test_an_upload_becomes_an_object(run: Run, size: int) -> None:
    content = os.urandom(size)
    digest = digest_of(content)

    async def test(backend: Backend) -> None:
        await backend.begin("uploads/u", b"state")
        hasher = hashlib.sha256()
        parts = [content[at : at + 300_000] for at in range(0, size, 300_000)]
        assert await backend.append("uploads/u", 0, source(*parts), hasher) == size
        assert await backend.state("uploads/u") == (b"state", size)
        known = (size, f"sha256:{hasher.hexdigest()}")
        assert await backend.finish("uploads/u", digest, known, lambda found: f"blobs/{found}") == size
        assert await read(backend, f"blobs/{size}", 0, size) == content
        assert await read(backend, f"blobs/{size}", size // 2, size // 3) == content[size // 2 :][: size // 3]
        with pytest.raises(Missing):
            await backend.state("uploads/u")
        assert [each async for each in backend.walk("uploads")] == []

    run(test)


def test_an_upload_in_chunks(run: Run) -> None:
    content = os.urandom(700_000)

    async def test(backend: Backend) -> None:
        await backend.begin("uploads/u", b"state")
        await backend.append("uploads/u", 0, source(content[:300_000]), None)
        with pytest.raises(WrongOffset) as error:
            await backend.append("uploads/u", 5, source(b"x"), None)
        assert error.value.size == 300_000
        await backend.append("uploads/u", 300_000, source(content[300_000:]), None)
        assert await backend.finish("uploads/u", digest_of(content), None, None) == 700_000  # only compared
        assert await backend.finish("uploads/u", digest_of(content), None, lambda size: "blobs/b") == 700_000
        assert await read(backend, "blobs/b", 0, 700_000) == content

    run(test)


def test_s31_an_upload_with_another_digest_becomes_nothing(run: Run) -> None:
    async def test(backend: Backend) -> None:
        await backend.begin("uploads/u", b"state")
        await backend.append("uploads/u", 0, source(b"some", b"thing"), None)
        with pytest.raises(WrongDigest):
            await backend.finish("uploads/u", digest_of(b"else"), None, lambda size: "blobs/b")
        assert await backend.stat("blobs/b") is None
        assert (await backend.state("uploads/u"))[1] == 9
        await backend.discard("uploads/u")
        assert [each async for each in backend.walk("uploads")] == []

    run(test)


def test_a_source_that_fails_leaves_a_usable_upload(run: Run) -> None:
    async def test(backend: Backend) -> None:
        await backend.begin("uploads/u", b"state")
        with pytest.raises(Exception, match="broken"):
            await backend.append("uploads/u", 0, source(b"x" * 20_000_000, fail=ConnectionError("broken")), None)
        size = (await backend.state("uploads/u"))[1]
        assert size in (0, 20_000_000)
        await backend.append("uploads/u", size, source(b"x" * (20_000_000 - size) + b"y"), None)
        digest = digest_of(b"x" * 20_000_000 + b"y")
        await backend.finish("uploads/u", digest, None, lambda size: "blobs/b")

    run(test)


def test_files_keep_no_temporaries_and_no_empty_folders(tmp_path: Path) -> None:
    async def main() -> None:
        backend = open_backend(msgspec.convert({"storage": {"filesystem": {"root": str(tmp_path)}}}, Configuration))
        await backend.write("repos/a/b/c/x", b"one")
        await backend.delete("repos/a/b/c/x")
        await backend.close()
        assert sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")) == ["repos", "tmp"]

    asyncio.run(main())
