"""Engines without an API, on a data root and an exec root of their own: what tests of use cases share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from dockyard.assembly import assemble
from dockyard.configuration import Configuration
from dockyard.engine import Engine
from dockyard.engine.logs import LogRequest
from dockyard.linux import mounts
from dockyard.model.container import ContainerConfig, HostConfig
from tests.support import busybox

IMAGE = "test/busybox:latest"
NO_NETWORK = HostConfig(network_mode="none")


class Ground:
    """One data root and one exec root; engines on it, one after another."""

    def __init__(self) -> None:
        self.data = Path(tempfile.mkdtemp(prefix="dyk-", dir="/tmp"))
        self.run = Path(tempfile.mkdtemp(prefix="dyk-", dir="/run"))
        self.driver = ""  # of snapshots; "": what is found to work

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        settings = Configuration(
            data_root=str(self.data), exec_root=str(self.run), bridge="none", storage_driver=self.driver
        )
        async with contextlib.AsyncExitStack() as stack:
            built: Any = await assemble(settings, stack)
            engine: Engine = getattr(built, "engine", built)
            if not engine.images.count():
                tar = busybox.docker_archive([IMAGE], [busybox.rootfs_tar()], {"Cmd": ["sh"]})
                await engine.images.load(once(tar))
            yield engine

    def rows(self) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.data / "dockyard.db")) as connection:
            return connection.execute("SELECT name, status, desired FROM containers").fetchall()

    def left(self) -> list[str]:
        """What of any container is still there."""
        found = [f"run: {name}" for name in os.listdir(self.run / "containers")]
        found += [f"directory: {name}" for name in os.listdir(self.data / "containers")]
        found += [f"row: {row[0]}" for row in self.rows()]
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{self.data}/" in line]
        return found


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


@contextlib.contextmanager
def fresh_ground() -> Iterator[Ground]:
    """A ground that has nothing of any container left at the end."""
    ground = Ground()
    yield ground

    async def clear() -> None:
        async with ground.engine() as engine:
            for container in engine.containers.list(all=True):
                await engine.containers.remove(container.id, force=True, volumes=True)

    try:
        asyncio.run(clear())
        left = ground.left()
    finally:
        for root in (ground.data, ground.run):
            if os.path.ismount(root):
                mounts.umount(str(root))
            shutil.rmtree(root, ignore_errors=True)
    assert not left, left


def with_engine(ground: Ground, body: Callable[[Engine], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with ground.engine() as engine:
            await body(engine)

    asyncio.run(main())


async def make(engine: Engine, *cmd: str, name: str = "", host: HostConfig = NO_NETWORK, **config: Any) -> str:
    asked = ContainerConfig(image=IMAGE, cmd=list(cmd), **config)
    return (await engine.containers.create(asked, host, name=name)).id


async def run(engine: Engine, *cmd: str, name: str = "", host: HostConfig = NO_NETWORK, **config: Any) -> str:
    container_id = await make(engine, *cmd, name=name, host=host, **config)
    await engine.containers.start(container_id)
    return container_id


async def read_all(stream: socket.socket) -> bytes:
    loop, out = asyncio.get_running_loop(), b""
    with stream:
        while part := await loop.sock_recv(stream, 65536):
            out += part
    return out


async def log_of(engine: Engine, ref: str, **request: Any) -> bytes:
    return b"".join([chunk async for chunk in engine.logs.read(ref, LogRequest(**request)).chunks])


async def until_logged(engine: Engine, ref: str, text: bytes, times: int = 1) -> None:
    """Until a program has said so: it has its signal handlers only some time after its start."""
    for _ in range(1000):
        if (await log_of(engine, ref)).count(text) >= times:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{ref} never said {text!r}")


async def until(true: Callable[[], object], seconds: float = 15) -> None:
    for _ in range(int(seconds / 0.01)):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


def monitor_of(ground: Ground, container_id: str) -> int:
    """The pid of a running container's monitor."""
    return int(json.loads((ground.run / "containers" / container_id / "state.json").read_text())["monitor"])


def alive(pid: int) -> bool:
    """Whether a process is there and is no zombie (whoever inherited it may take its time)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def frame(stream: int, text: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text
