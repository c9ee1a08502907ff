"""An API server on a unix socket, over services written for the test: HTTP itself is under test, not the engine."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from dockyard.edge.api.routes import all_routes
from dockyard.edge.listeners import Listener, parse_address
from dockyard.edge.listeners import listen as listen_on
from dockyard.edge.routing import Route
from dockyard.edge.server import ApiServer
from dockyard.engine import Engine
from dockyard.engine.container import Container, WaitResult
from dockyard.engine.containers import Containers
from dockyard.engine.events import Events
from dockyard.engine.execs import Exec, ExecConfig, Execs
from dockyard.engine.logs import LogRequest, Logs, LogStream
from dockyard.engine.system import Settings, System
from dockyard.model.container import ContainerConfig, HostConfig
from dockyard.model.errors import NotFound
from dockyard.model.lifecycle import Desired, Status
from dockyard.runtime.cgroups.facts import CgroupFacts
from dockyard.store.containers import ContainerRow, ContainerSpec

T = TypeVar("T")


def make_container(*, tty: bool = False, name: str = "web") -> Container:
    config = ContainerConfig(image="busybox", tty=tty, cmd=["sh"], labels={"a": "b"})
    spec = ContainerSpec(
        created_at=1_700_000_000_500_000_000, config=config, host=HostConfig(network_mode="bridge"),
        image_id="sha256:" + "1" * 64, image_ref="busybox", path="sh", args=["-c", "echo hello world"],
    )  # fmt: skip
    return Container(ContainerRow("c" * 64, name, spec, Status(), Desired()), Path("/data/c"), Path("/run/c"))


class OneContainer(Containers):
    """Knows one container; its streams end in socket pairs that the test holds the other ends of."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.programs: list[socket.socket] = []
        self.left = 0
        self.created: list[tuple[ContainerConfig, HostConfig, Any]] = []
        self.stopped = threading.Event()
        self.waits: list[asyncio.Future[WaitResult]] = []

    def get(self, ref: str) -> Container:
        if ref not in (self.container.id, self.container.name):
            raise NotFound(f"No such container: {ref}")
        return self.container

    def list(self, filters: Any = None, *, all: bool = False, limit: int = 0) -> list[Container]:
        return [self.container]

    async def create(self, config: Any, host: Any, networks: Any = None, *, name: str = "", platform: str = "") -> Any:
        from dockyard.engine.containers import Created

        self.created.append((config, host, networks))
        return Created("d" * 64, [])

    async def attach(
        self, ref: str, *, stdin: bool = False, stdout: bool = False, stderr: bool = False
    ) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.settimeout(5)
        self.programs.append(ours)
        return theirs

    def detached(self, ref: str) -> None:
        self.left += 1

    async def stop(self, ref: str, *, signal: str = "", timeout: int | None = None) -> None:
        await asyncio.sleep(0.3)
        self.stopped.set()

    def wait(self, ref: str, condition: str = "") -> asyncio.Future[WaitResult]:
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        self.waits.append(future)
        return future


class OneExec(Execs):
    def __init__(self, containers: OneContainer) -> None:
        self._containers = containers
        self.error: Exception | None = None
        self.process = Exec("e" * 64, "c" * 64, ExecConfig(cmd=["cat"], attach_stdin=True, attach_stdout=True))

    def get(self, exec_id: str) -> Exec:
        return self.process

    async def start(
        self, exec_id: str, *, detach: bool = False, console_size: list[int] | None = None
    ) -> socket.socket | None:
        if self.error is not None:
            raise self.error
        return None if detach else await self._containers.attach("web")


class EndlessLogs(Logs):
    """One chunk, then silence until the reader goes away."""

    def __init__(self) -> None:
        self.closed = 0

    def read(self, ref: str, request: LogRequest) -> LogStream:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield b"hello\n"
                if request.follow:
                    await asyncio.Event().wait()
            finally:
                self.closed += 1

        return LogStream(tty=True, chunks=chunks())


class ServerThread:
    """The server in a loop of its own thread, so that tests speak to it with blocking sockets."""

    def __init__(self, listen: Callable[[], list[Listener]], tty: bool, extra: list[Route]) -> None:
        self.containers = OneContainer(make_container(tty=tty))
        self.logs = EndlessLogs()
        self.execs = OneExec(self.containers)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.call(self._start(listen, extra))

    async def _start(self, listen: Callable[[], list[Listener]], extra: list[Route]) -> None:
        events = Events(time.time_ns)
        system = System(Settings(data_root="/"), self.containers, events, CgroupFacts(version=2))
        self.events = events
        self.listeners = listen()
        services = dict.fromkeys((service.name for service in fields(Engine)), cast(Any, None))
        services |= {"containers": self.containers, "execs": self.execs, "events": events, "logs": self.logs}
        self.engine = Engine(**{**services, "system": system})
        self.server = ApiServer(self.engine, extra + all_routes(), logging.getLogger("test"))
        await self.server.start(self.listeners)

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def tasks(self) -> int:
        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return int(self.call(count()))

    def close(self) -> None:
        self.call(self.server.close(1.0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def connect(self) -> socket.socket:
        name = self.listeners[0].socket.getsockname()
        sock = socket.socket(self.listeners[0].socket.family)
        sock.settimeout(5)
        sock.connect(name)
        return sock

    def request(self, text: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """Send a head (lines joined by newlines) and a body; read the whole answer of a connection that closes."""
        with self.connect() as sock:
            lines = [*text.split("\n"), "Host: x", f"Content-Length: {len(body)}", "Connection: close", "", ""]
            head = "\r\n".join(lines)
            sock.sendall(head.encode() + body)
            return parse(read_all(sock))


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerThread]]:
    running: list[ServerThread] = []

    def start(*, tty: bool = False, host: str = "", extra: list[Route] | None = None) -> ServerThread:
        address = parse_address(host or f"unix://{tmp_path}/api.sock", "", tls=False)
        running.append(ServerThread(lambda: listen_on(address, "", {}), tty, extra or []))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture
def server(start_server: Callable[..., ServerThread]) -> ServerThread:
    return start_server()
