"""What the collector takes and what it leaves, with ages of fractions of a second."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dockyard.edge.registry.configuration import Configuration
from dockyard.edge.registry.service import Core
from dockyard.registry import names
from dockyard.registry.errors import RegistryError
from tests.unit.registry.conftest import make_bucket
from tests.unit.registry.support import CONFIG, OCI_INDEX, OCI_MANIFEST, descriptor, digest_of, image

AGES = {"grace": 0.4, "settle": 0.2, "upload_age": 0.4, "interval": 0}


def core_on(storage: dict[str, Any], **more: Any) -> Core:
    return Core(msgspec.convert({"storage": storage, "collection": AGES | more}, Configuration))


async def one(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def push_blob(core: Core, content: bytes, repository: str = "a/b") -> str:
    upload = await core.uploads.get(repository, await core.uploads.begin(repository))
    await core.uploads.append(upload, one(content))
    await core.uploads.finish(upload._replace(size=len(content)), digest_of(content))
    return digest_of(content)


async def push(core: Core, tag: str, *layers: bytes, repository: str = "a/b") -> str:
    for content in (b"{}", *layers):
        await push_blob(core, content, repository)
    raw = image(b"{}", *layers)
    return (await core.manifests.put(repository, tag or digest_of(raw), raw, OCI_MANIFEST)).digest


async def old(core: Core) -> None:
    await asyncio.sleep(0.5)


async def has(core: Core, digest: str, repository: str = "a/b") -> bool:
    with contextlib.suppress(RegistryError):
        fd, _ = await core.blobs.open(await core.blobs.find(repository, digest))
        if fd is not None:
            os.close(fd)
        return True
    return False


async def data_files(core: Core) -> list[str]:
    return [entry.name async for entry in core.backend.walk(names.BLOBS)]


@pytest.fixture
def core(tmp_path: Path) -> Core:
    return core_on({"filesystem": {"root": str(tmp_path)}})


def test_what_an_image_needs_stays_and_the_rest_goes(core: Core) -> None:
    async def main() -> None:
        await push(core, "v1", b"kept")
        stray = await push_blob(core, b"stray")
        await core.collector.collect()
        assert await has(core, stray)  # young
        await old(core)
        report = await core.collector.collect()
        assert (report.condemned, report.blobs, report.bytes) == (1, 1, 5)
        assert not await has(core, stray) and await has(core, digest_of(b"kept"))
        assert len(await data_files(core)) == 2
        assert [each async for each in core.checker(True).findings()] == []

    asyncio.run(main())


def test_after_a_deletion_everything_goes(core: Core) -> None:
    async def main() -> None:
        digest = await push(core, "v1", b"layer")
        await push(core, "v1", b"layer", repository="other")
        await old(core)
        await core.manifests.delete("a/b", digest)
        assert (await core.collector.collect()).blobs == 0  # the other repository needs them
        await core.manifests.delete("other", digest)
        await old(core)
        assert (await core.collector.collect()).blobs == 2
        assert await data_files(core) == []
        assert [each async for each in core.backend.walk(names.REPOSITORIES)] == []

    asyncio.run(main())


def test_someone_who_asked_is_not_disappointed(core: Core) -> None:
    """A client that was told that a blob is there leaves it out of its push."""

    async def main() -> None:
        digest = await push_blob(core, b"layer")
        await push_blob(core, b"{}")
        await old(core)
        for each in (digest, digest_of(b"{}")):
            await core.blobs.renew("a/b", await core.blobs.find("a/b", each))
        await core.collector.round()
        raw = image(b"{}", b"layer")
        await core.manifests.put("a/b", "v1", raw, OCI_MANIFEST)
        await old(core)
        await core.collector.collect()
        assert await has(core, digest)

    asyncio.run(main())


def test_a_condemned_blob_that_is_pushed_again_gets_new_bytes(core: Core) -> None:
    async def main() -> None:
        digest = await push_blob(core, b"layer")
        await old(core)
        assert (await core.collector.round()).condemned == 1
        await push(core, "v1", b"layer")
        await asyncio.sleep(0.3)
        report = await core.collector.round()
        assert report.blobs == 1  # the condemned instance
        assert await has(core, digest)
        assert [each async for each in core.checker(True).findings()] == []

    asyncio.run(main())


def test_untagged_manifests_go_only_if_asked_and_only_if_nothing_names_them(tmp_path: Path) -> None:
    async def main() -> None:
        core = core_on({"filesystem": {"root": str(tmp_path)}}, untagged=True)
        child = await push(core, "", b"child")
        stray = await push(core, "", b"stray")
        subject = await push(core, "v1", b"subject")
        raw = (await core.manifests.get("a/b", child)).content
        index = msgspec.json.encode({"schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST, raw)]})
        await core.manifests.put("a/b", "multi", index, OCI_INDEX)
        companion = msgspec.json.decode(image(b"{}")) | {
            "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1},
            "artifactType": CONFIG,
        }
        signature = msgspec.json.encode(companion)
        await core.manifests.put("a/b", digest_of(signature), signature, OCI_MANIFEST)
        await old(core)
        report = await core.collector.collect()
        assert report.manifests == 1
        with pytest.raises(RegistryError):
            await core.manifests.get("a/b", stray)
        for digest in (child, subject, digest_of(signature)):
            await core.manifests.get("a/b", digest)
        await core.manifests.delete("a/b", subject)
        await core.collector.collect()
        assert await core.manifests.referrers("a/b", subject, None) == []

    asyncio.run(main())


def test_the_same_on_s3(s3_endpoint: str) -> None:
    async def main() -> None:
        core = core_on({"s3": make_bucket(s3_endpoint)}, grace=2.5, settle=1.2)
        digest = await push(core, "v1", b"kept", b"going")
        await push(core, "v1", b"kept", repository="other")
        await push_blob(core, b"stray")
        await asyncio.sleep(3.7)
        await core.manifests.delete("a/b", digest)
        report = await core.collector.collect()
        assert (report.blobs, report.bytes) == (2, 10)
        assert await has(core, digest_of(b"kept"), "other") and not await has(core, digest_of(b"going"))
        assert [each async for each in core.checker(True).findings()] == []
        assert len(await data_files(core)) == 2

    asyncio.run(main())


def test_what_kills_leave_goes(core: Core) -> None:
    """Uploads, refs of a manifest that never came, tags and referrers without a manifest, a mark without its bytes."""

    async def main() -> None:
        await push(core, "v1", b"kept")
        await core.uploads.begin("a/b")
        hexa = "0" * 64
        leftovers = [
            f"{names.refs('a/b', 'sha256:' + hexa)}/1-5.m.{'1' * 64}.aa",
            f"{names.referrers('a/b', 'sha256:' + hexa)}/{'1' * 64}",
            names.tag("a/b", "dangling"),
        ]
        for key in leftovers:
            await core.backend.write(key, f"sha256:{hexa}".encode())
        mark = names.data("sha256:" + hexa, "1-5") + names.CONDEMNED
        await core.backend.write(mark, b"x")
        await old(core)
        report = await core.collector.collect()
        assert (report.uploads, report.refs > 0, report.tags) == (1, True, 1)
        await core.collector.round()
        for key in (*leftovers, mark):
            assert await core.backend.stat(key) is None, key
        assert (await core.manifests.tags("a/b")).keys() == {"v1"}

    asyncio.run(main())


def test_check_names_what_is_wrong(core: Core, tmp_path: Path) -> None:
    async def main() -> None:
        await push(core, "v1", b"damaged", b"missing")
        for content, change in ((b"damaged", b"DAMAGED"), (b"missing", None)):
            blob = await core.blobs.find("a/b", digest_of(content))
            path = tmp_path / names.data(blob.digest, blob.instances[0])
            if change:
                path.write_bytes(change)
            else:
                path.unlink()
        found = [each async for each in core.checker(True).findings()]
        assert len(found) == 2
        assert f"a/b:v1: blob {digest_of(b'damaged')} is damaged" in found[0]
        assert found[1] == f"a/b:v1: blob {digest_of(b'missing')} is missing"

    asyncio.run(main())


@pytest.mark.parametrize("step", range(1, 60))
def test_a_kill_after_any_write_leaves_tags_that_verify(tmp_path: Path, step: int) -> None:
    """The storage stops taking anything after `step` changes: what is there verifies, and the push can be repeated."""

    class Died(BaseException):
        pass

    async def main() -> None:
        core = core_on({"filesystem": {"root": str(tmp_path)}})
        await push(core, "v1", b"first")
        backend: Any = core.backend
        count = 0

        def counted(name: str) -> None:
            whole = getattr(backend, name)

            async def method(*arguments: Any, **more: Any) -> Any:
                nonlocal count
                count += 1
                if count > step:
                    raise Died
                return await whole(*arguments, **more)

            setattr(backend, name, method)

        for name in ("write", "delete", "delete_if", "begin", "append", "finish", "copy", "discard"):
            counted(name)
        with contextlib.suppress(Died):
            digest = await push(core, "v1", b"second")
            await push(core, "v2", b"second")
            await core.manifests.delete("a/b", digest)
        core = core_on({"filesystem": {"root": str(tmp_path)}})
        assert [each async for each in core.checker(True).findings()] == []
        await push(core, "v1", b"second")
        assert [each async for each in core.checker(True).findings()] == []

    asyncio.run(main())
