"""The host fails: disks that are full, processes that stand still or are killed, a power loss.

Nothing may be lost by it, and everything goes on when the fault is over, without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.engine import Engine
from dockyard.linux import mounts
from dockyard.model.container import ContainerConfig, HostConfig, RestartPolicy
from dockyard.model.errors import NO_SPACE, SystemFailure
from dockyard.model.lifecycle import State
from dockyard.store.db import Database
from tests.support.engineground import Ground, fresh_ground, make, monitor_of, run, with_engine

NO_NETWORK = HostConfig(network_mode="none")
GO = "while [ ! -e /tmp/go ]; do sleep 0.05; done; rm /tmp/go; exit 7"


class Small:
    """A file system of a few megabytes over a directory, which can be filled up."""

    def __init__(self, place: Path, megabytes: int) -> None:
        self._place, self._filler = place, place / "filler"
        mounts.mount("tmpfs", str(place), "tmpfs", 0, f"size={megabytes}m,mode=711")

    def fill(self) -> None:
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(65536)):
                pass

    def make_room(self) -> None:
        self._filler.unlink()


@pytest.fixture
def ground() -> Iterator[Ground]:
    with fresh_ground() as made:
        yield made


@pytest.fixture
def data(ground: Ground) -> Iterator[Small]:
    """The data root's own file system. A container's layer lies on a tmpfs then."""
    yield Small(ground.data, 96)


@pytest.fixture
def runtime(ground: Ground) -> Iterator[Small]:
    """The run directory's."""
    yield Small(ground.run, 16)


async def eventually(engine: Engine, ref: str, state: State | None, seconds: float = 15) -> None:
    """None: it is gone."""
    end = time.monotonic() + seconds
    while (found := engine.context.registry.find(ref)) is not None or state is not None:
        if found is not None and found.state is state:
            return
        assert time.monotonic() < end, f"{ref} is {found and found.state}, {found and found.status.error}"
        await asyncio.sleep(0.02)


def go(engine: Engine, ref: str) -> None:
    """Let a program that waits for it end."""
    Path(f"/proc/{engine.containers.get(ref).status.pid}/root/tmp/go").touch()


# --- the data root ---


def test_a_full_data_root_takes_nothing_away_and_lets_go(ground: Ground, data: Small) -> None:
    async def body(engine: Engine) -> None:
        always = HostConfig(network_mode="none", restart_policy=RestartPolicy("always"))
        for name, host in (("kept", NO_NETWORK), ("again", always), ("gone", NO_NETWORK)):
            await run(engine, "sh", "-c", GO, name=name, host=host)
        await run(engine, "sh", "-c", GO, name="short", host=HostConfig(network_mode="none", auto_remove=True))
        stopped = await make(engine, "true", name="stopped")
        data.fill()
        for name in ("again", "short"):
            go(engine, name)
        with pytest.raises(SystemFailure, match=NO_SPACE):
            await engine.containers.start("stopped")
        await engine.containers.remove("gone", force=True)  # what else is there to make room with?
        await eventually(engine, "again", State.RESTARTING)
        data.make_room()
        await eventually(engine, "short", None)
        await eventually(engine, "again", State.RUNNING)
        assert engine.containers.get("kept").state is State.RUNNING
        await engine.containers.start("stopped")
        assert engine.containers.get("stopped").id == stopped
        assert [item async for item in engine.check.run(quick=True)] == []
        names = set(os.listdir(ground.data / "containers"))
        assert names == {engine.containers.get(name).id for name in ("kept", "again", "stopped")}

    with_engine(ground, body)


def test_the_database_takes_writes_on_a_full_disk(tmp_path: Path) -> None:
    small = Small(tmp_path, 8)
    database = Database(tmp_path / "dockyard.db")
    try:
        database.open()
        small.fill()

        async def write() -> None:
            for number in range(100):
                values = (str(number), "x" * 100)
                await database.write(lambda c, v=values: c.execute("INSERT INTO meta VALUES (?, ?)", v) and None)

        asyncio.run(write())
        database.close()
        small.fill()
        database.open()  # also a start finds room
        assert asyncio.run(database.read(lambda c: c.execute("SELECT count(*) FROM meta").fetchone())) == (100,)

        async def fill() -> None:
            with pytest.raises(SystemFailure, match=f"dockyard.db: {NO_SPACE}"):
                await database.write(lambda c: c.execute("INSERT INTO meta VALUES ('big', zeroblob(9000000))") and None)
            assert await database.read(lambda c: c.execute("SELECT key FROM meta WHERE key = 'big'").fetchall()) == []

        asyncio.run(fill())
    finally:
        database.close()
        mounts.umount(str(tmp_path))


# --- the run directory ---


def test_an_exit_code_needs_no_room(ground: Ground, runtime: Small) -> None:
    async def body(engine: Engine) -> None:
        await run(engine, "sh", "-c", GO, name="box")
        await run(engine, "sh", "-c", GO, name="other")
        stopped = await make(engine, "true")
        runtime.fill()
        with pytest.raises(SystemFailure, match=NO_SPACE):
            await engine.containers.start(stopped)
        go(engine, "box")
        await eventually(engine, "box", State.EXITED)
        assert (engine.containers.get("box").status.exit_code, engine.containers.get("box").status.error) == (7, "")
        os.kill(engine.containers.get("other").status.pid, signal.SIGKILL)
        engine.context.closing = True  # what it hears of this end, it keeps for itself

    async def after(engine: Engine) -> None:
        assert engine.containers.get("other").status.exit_code == 137
        assert engine.containers.get("other").status.error == ""
        runtime.make_room()

    with_engine(ground, body)
    with_engine(ground, after)


# --- processes that stand still ---


def test_a_monitor_that_was_stopped_holds_nobody_up(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        box = await run(engine, "sleep", "1000", name="box")
        os.kill(monitor_of(ground, box), signal.SIGSTOP)
        with pytest.raises(SystemFailure, match="monitor does not answer: it is stopped"):
            await engine.containers.pause("box")
        await engine.containers.rename("box", "renamed")  # its lock is free
        await run(engine, "true")

    async def after(engine: Engine) -> None:
        assert engine.containers.get("renamed").state is State.RUNNING
        os.kill(monitor_of(ground, engine.containers.get("renamed").id), signal.SIGCONT)
        await engine.containers.pause("renamed")  # what was asked in vain has been undone
        await engine.containers.unpause("renamed")
        await engine.containers.kill("renamed")
        assert engine.containers.get("renamed").status.error == ""

    with_engine(ground, body)
    with_engine(ground, after)


def test_a_zygote_that_was_stopped_is_replaced(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        await engine.context.runtime.call(
            "dockyard.store.verifying:blob", {"path": "/etc/passwd", "digest": "sha256:0"}
        )
        os.kill(engine.context.runtime._zygote_pid, signal.SIGSTOP)
        with pytest.raises(SystemFailure, match="ended before the container started"):
            await run(engine, "true", name="box")
        await engine.containers.start("box")

    with_engine(ground, body)


# --- power loss ---


def test_containers_whose_directories_were_not_on_disk(ground: Ground) -> None:
    async def body(engine: Engine) -> None:
        config = ContainerConfig(
            image="test/busybox:latest", cmd=["sleep", "100"], volumes={"/v": {}}, working_dir="/w"
        )
        await engine.containers.create(config, NO_NETWORK, name="box")
        await engine.containers.create(config, NO_NETWORK, name="half")

    def lose() -> None:
        for place in ("containers", "volumes"):
            for name in os.listdir(ground.data / place):
                (ground.data / place / name).rename(ground.data / "trash" / f"{place}-{name}")
        first, second = (ground.data / "snapshots" / "overlay" / "c").iterdir()
        first.rename(ground.data / "trash" / "layer")
        (second / "fs").rename(ground.data / "trash" / "fs")

    async def told(engine: Engine) -> None:
        damaged = sorted(item.kind for item in [each async for each in engine.check.run(quick=True)])
        assert damaged == ["container", "container", "volume", "volume"]

    async def whole(engine: Engine) -> None:
        assert [item async for item in engine.check.run(quick=True)] == []
        for name in ("box", "half"):
            await engine.containers.start(name)
            pid = engine.containers.get(name).status.pid
            assert os.readlink(f"/proc/{pid}/cwd") == "/w"
            (mounted,) = engine.containers.get(name).mounts
            assert os.path.samefile(f"/proc/{pid}/root/v", mounted.source)

    with_engine(ground, body)
    lose()
    with_engine(ground, told)  # somebody has taken them away while the machine was up
    with contextlib.closing(sqlite3.connect(ground.data / "dockyard.db")) as connection, connection:
        connection.execute("UPDATE meta SET value = 'another' WHERE key = 'boot'")
    with_engine(ground, whole)
