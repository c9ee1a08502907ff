"""Cache mounts that go from one machine to another as tars."""

from __future__ import annotations

import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from dockyard.engine import Engine
from dockyard.model.errors import Conflict, DockyardError, InvalidArgument, NotFound
from tests.support.builds import File, build, chunks, context
from tests.support.engineground import IMAGE, Ground, fresh_ground, with_engine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
RUN = f"FROM {IMAGE}\nUSER 1000\nRUN --mount=type=cache,target=/c,id=pip,uid=1000 "
WRITES = RUN + "echo kept > /c/f; mkdir -m 0700 /c/d\n"
READS = RUN + "cat /c/f; stat -c %a:%u /c/d; touch /c/x\n"


@pytest.fixture
def ground() -> Iterator[Ground]:
    with fresh_ground() as ground:
        yield ground


async def exported(engine: Engine, identity: str) -> bytes:
    async with aclosing(engine.builds.export_mount(identity)) as found:
        return b"".join([chunk async for chunk in found])


def directories(ground: Ground) -> int:
    return len(os.listdir(ground.data / "builds" / "mounts"))


def test_a_cache_mount_goes_to_another_machine(ground: Ground) -> None:
    tars: list[bytes] = []

    async def first(engine: Engine) -> None:
        await build(engine, WRITES)
        tars.append(await exported(engine, "pip"))
        with pytest.raises(NotFound, match="no such cache mount: npm"):
            await exported(engine, "npm")

    async def second(engine: Engine) -> None:
        await engine.builds.import_mount("pip", chunks(tars[0]))
        assert "kept\n700:1000\n" in (await build(engine, READS)).log
        await engine.builds.import_mount("pip", chunks(context({"f": "new\n"})))  # in place of what it was
        told = await build(engine, READS.replace("stat -c %a:%u /c/d", "ls /c"), no_cache=True)
        assert "new\nf\n" in told.log

    async def after_a_restart(engine: Engine) -> None:
        assert "new\n" in (await build(engine, READS.replace("stat -c %a:%u /c/d", "true"))).log

    with_engine(ground, first)
    with fresh_ground() as other:
        with_engine(other, second)
        assert directories(other) == 1
        with_engine(other, after_a_restart)


def test_s43_an_import_that_fails_leaves_what_was(ground: Ground) -> None:
    outside = ground.data.parent / "outside"

    async def body(engine: Engine) -> None:
        await build(engine, WRITES)
        before = await exported(engine, "pip")
        hostile = {"l": File(link=str(ground.data.parent)), "l/outside": b"x"}
        up = context({"../../outside": b"x"})
        for bad in (b"no tar" * 999, before[:700], context({"a": File(kind=tarfile.LNKTYPE, link="/etc/passwd")}), up):
            with pytest.raises(DockyardError):
                await engine.builds.import_mount("pip", chunks(bad))
        with pytest.raises(InvalidArgument, match="identity"):
            await engine.builds.import_mount("", chunks(before))

        async def broken() -> AsyncIterator[bytes]:
            yield before[:600]
            raise ConnectionError("gone")

        with pytest.raises(ConnectionError):
            await engine.builds.import_mount("pip", broken())
        assert await exported(engine, "pip") == before and directories(ground) == 1
        try:
            await engine.builds.import_mount("other", chunks(context(hostile)))
        except DockyardError:
            pass
        assert not outside.exists()
        (record,) = engine.builds._ground.cache.mounts("pip")
        with engine.builds._ground.cache.holding(record), pytest.raises(Conflict, match="in use"):
            await engine.builds.import_mount("pip", chunks(before))

    with_engine(ground, body)
