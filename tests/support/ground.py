"""One container, two ways to it: the OCI command (no monitor) and the daemon's zygote and monitor.

Owns: `Ground`, its two implementations, `Result`. Security tests run on both: on both a process enters a container.
Does not own: the bundles (`tests.support.oci`).
"""

from __future__ import annotations

import asyncio
import copy
import socket
import struct
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from dockyard.linux import seccomp
from dockyard.model.errors import DockyardError
from dockyard.runtime.client import Runtime
from dockyard.runtime.handles import ContainerHandle
from dockyard.runtime.launch import Launch
from tests.support.leaks import CGROUPS
from tests.support.oci import SECONDS, Bundle, OciRuntime

T = TypeVar("T")


class Result(NamedTuple):
    """How a process ended; `error` is set (and `code` -1) if it could not be started."""

    code: int
    out: str
    err: str
    error: str = ""

    @property
    def output(self) -> str:
        """stdout of a process that was started and ended with 0."""
        assert not self.error and self.code == 0, self
        return self.out


class Running(Protocol):
    """A running container."""

    pid: int

    def exec(self, process: dict[str, Any]) -> Result: ...


class Ground(Protocol):
    name: str

    def run(self, bundle: Bundle) -> Result: ...

    def start(self, bundle: Bundle) -> Running: ...


class CommandGround:
    """Through `dockyard-runtime` (or another OCI runtime)."""

    name = "command"

    def __init__(self, runtime: OciRuntime) -> None:
        self._runtime = runtime

    def run(self, bundle: Bundle) -> Result:
        return _of_command(self._runtime.run(bundle, check=False))

    def start(self, bundle: Bundle) -> Running:
        identity = self._runtime.started(bundle)
        return _CommandRunning(self._runtime, identity)


class _CommandRunning:
    def __init__(self, runtime: OciRuntime, identity: str) -> None:
        self._runtime, self._identity = runtime, identity
        self.pid = int(runtime.state(identity)["pid"])

    def exec(self, process: dict[str, Any]) -> Result:
        return _of_command(self._runtime.exec_process(self._identity, process, check=False))


def _of_command(done: Any) -> Result:
    error = done.stderr if done.returncode and done.stderr.startswith("dockyard-runtime: ") else ""
    return Result(-1 if error else done.returncode, done.stdout, done.stderr, error)


class MonitorGround:
    """Through the zygote and a monitor, as the daemon does it."""

    name = "monitor"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._runner = asyncio.Runner()
        self._parent = f"dockyard-test-{uuid.uuid4().hex[:12]}"
        self._handles: list[ContainerHandle] = []
        self.errors = directory / "errors"
        self.errors.touch()
        self.runtime = self.wait(self._make())

    async def _make(self) -> Runtime:
        runtime = Runtime(str(self.errors))
        await runtime.start()
        return runtime

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        async def limited() -> T:
            return await asyncio.wait_for(work, SECONDS)

        return self._runner.run(limited())

    def run(self, bundle: Bundle) -> Result:
        return self.wait(self._run(bundle))

    async def _run(self, bundle: Bundle) -> Result:
        ours, theirs = socket.socketpair()
        try:
            handle = await self._launch(bundle, theirs)
        except DockyardError as failed:
            ours.close()
            return Result(-1, "", "", failed.message)
        out, err = await _read_streams(ours)
        record = await handle.exit
        return Result(record["code"], out, err)

    async def _launch(self, bundle: Bundle, stream: socket.socket | None) -> ContainerHandle:
        identity = uuid.uuid4().hex * 2
        config = copy.deepcopy(bundle.config)
        config["linux"]["cgroupsPath"] = f"/{self._parent}/{identity}"
        profile = config["linux"].pop("seccomp", None)
        state_dir = self._directory / identity
        state_dir.mkdir(mode=0o700)
        launch: Launch = {
            "id": identity,
            "config": config,
            "rootfs": {"type": "directory", "path": str(bundle.root)},
            "stdio": {"tty": False, "open_stdin": False, "stdin_once": False, "console_size": None},
            "log": None,
            "network": None,
            "state_dir": str(state_dir),
        }
        program = seccomp.compile(profile) if profile else None
        attached = [(stream, False, True, True)] if stream is not None else []
        handle = await self.runtime.launch(launch, seccomp=program, attached=attached)
        self._handles.append(handle)
        return handle

    def start(self, bundle: Bundle) -> Running:
        return _MonitorRunning(self, self.wait(self._launch(bundle, None)))

    def close(self) -> None:
        """End every container and the zygote."""
        self.wait(self._close())
        self._runner.close()
        for directory in CGROUPS.glob(f"*/{self._parent}"):
            directory.rmdir()
        if (CGROUPS / self._parent).is_dir():
            (CGROUPS / self._parent).rmdir()

    async def _close(self) -> None:
        for handle in self._handles:
            if not handle.exit.done():
                await handle.kill(9)
            await handle.exit
        await self.runtime.close()


class _MonitorRunning:
    def __init__(self, ground: MonitorGround, handle: ContainerHandle) -> None:
        self._ground, self._handle = ground, handle
        self.pid = handle.started["pid"]

    def exec(self, process: dict[str, Any]) -> Result:
        return self._ground.wait(self._exec(process))

    async def _exec(self, process: dict[str, Any]) -> Result:
        ours, theirs = socket.socketpair()
        spec: Any = {"id": uuid.uuid4().hex, "process": process, "open_stdin": False}
        try:
            running = await self._handle.exec(spec, theirs)
        except DockyardError as failed:
            ours.close()
            return Result(-1, "", "", failed.message)
        out, err = await _read_streams(ours)
        record = await running.exit
        return Result(record["code"], out, err)


async def _read_streams(sock: socket.socket) -> tuple[str, str]:
    """stdout and stderr of a stream in frames, to its end."""
    sock.setblocking(False)
    loop, data = asyncio.get_running_loop(), b""
    while part := await loop.sock_recv(sock, 65536):
        data += part
    sock.close()
    streams = {1: b"", 2: b""}
    while data:
        number, size = struct.unpack(">BxxxI", data[:8])
        streams[number] += data[8 : 8 + size]
        data = data[8 + size :]
    return streams[1].decode(errors="replace"), streams[2].decode(errors="replace")
