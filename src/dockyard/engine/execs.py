"""Processes run in running containers on request.

Owns: `Exec` instances, from their creation to some minutes after their end, and `probe`: one of the engine's own, for
health checks. Does not own: how a process gets into a container and how it is ended in time (`runtime`). Instances live
in memory only: a daemon restart forgets them, as Docker's does; what they run goes on, and ends when its time is over.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import Final, NamedTuple

from msgspec import Struct

from dockyard.engine import failures, links
from dockyard.engine.attaching import check_size
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.engine.ground import console_size as useful_size
from dockyard.engine.signals import parse_signal
from dockyard.model.errors import Conflict, DockyardError, InvalidArgument, NotFound
from dockyard.model.lifecycle import SECOND, Event
from dockyard.proto.frames import FrameReader
from dockyard.runtime.bundle import BundleInput, ExecInput
from dockyard.runtime.handles import ExecHandle
from dockyard.runtime.launch import ExecSpec, ExitRecord
from dockyard.runtime.link import StartFailed

KEPT: Final = 300.0  # seconds that an ended or never started instance can still be inspected


class ExecConfig(Struct):
    """What is to be run, as a client asks for it."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: list[int] | None = None  # [height, width] in characters
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: list[str] | None = None
    timeout: int = 0  # ns; ours: after that it is killed, and all that it has started; 0: never


class Probed(NamedTuple):
    """How one of the engine's own commands ended."""

    exit_code: int
    output: bytes  # the beginning of stdout and stderr together
    truncated: bool  # there was more
    timed_out: bool


def _command(config: ExecConfig) -> str:
    """As Docker's events tell it: the program, a space, its arguments."""
    program, *arguments = config.cmd or [""]
    return f"{program} {' '.join(arguments)}"


class Exec:
    """One exec instance."""

    __slots__ = (
        "config", "container_id", "exit_code", "forget", "handle", "id", "pid", "running", "started", "timed_out",
        "user",
    )  # fmt: skip

    def __init__(self, id: str, container_id: str, config: ExecConfig, user: str = "") -> None:
        self.id = id
        self.container_id = container_id
        self.config = config
        self.user = user  # whose process it is: the container's, if nobody else was asked for
        self.started = False
        self.running = False
        self.timed_out = False  # it was killed because its time was over
        self.exit_code: int | None = None  # None: has not ended
        self.pid = 0
        self.handle: ExecHandle | None = None
        self.forget: asyncio.TimerHandle | None = None


class Execs:
    """Every exec instance of this engine."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._execs: dict[str, Exec] = {}
        context.ended.append(self._container_ended)
        context.removed.append(self._container_gone)

    async def create(self, ref: str, config: ExecConfig) -> str:
        """Prepare a process in a running container; returns its id. Conflict if that does not run or is paused."""
        container = self._context.registry.get(ref)
        if not config.cmd:
            raise InvalidArgument("No exec command specified")
        if any("\0" in word for word in config.cmd):
            raise InvalidArgument("invalid command: it contains a NUL byte")
        if config.timeout < 0 or 0 < config.timeout < SECOND // 1000:
            raise InvalidArgument("Timeout of an exec cannot be negative or less than 1ms")
        container.check(Event.EXEC, ref)
        return self._add(container, config).id

    def _add(self, container: Container, config: ExecConfig) -> Exec:
        user = config.user or container.config.user
        instance = Exec(secrets.token_hex(32), container.id, config, user)
        self._execs[instance.id] = instance
        container.exec_ids.append(instance.id)
        self._forget_later(instance)
        self._tell(container, instance, f"exec_create: {_command(config)}")
        return instance

    async def start(
        self, exec_id: str, *, detach: bool = False, console_size: list[int] | None = None
    ) -> socket.socket | None:
        """Run it. Returns a stream socket as `ContainerHandle.attach` does (EOF at the end), None when detached.

        NotFound "No such exec instance: ID"; Conflict if it ran already; StartFailed (126, 127) in Docker's words.
        """
        instance = self.get(exec_id)
        container = self._context.registry.get(instance.container_id)
        if instance.started:
            state = "is already running" if instance.running else "has already run"
            raise Conflict(f"exec command {exec_id} {state}")
        container.check(Event.EXEC)
        handle = container.handle
        if handle is None:
            raise Conflict(f"container {container.id} is not running")
        instance.started = True
        spec = self._spec(container, instance, console_size or instance.config.console_size)
        ours, theirs = (None, None) if detach else socket.socketpair()
        try:
            instance.handle = await handle.exec(spec, theirs, timeout=instance.config.timeout / SECOND)
        except BaseException as error:
            if ours is not None:
                ours.close()
            self._failed(container, instance, error)
            if isinstance(error, StartFailed):
                raise StartFailed(failures.told(error, failures.EXEC), error.exit_code) from error
            raise
        self._running(container, instance, instance.handle)
        if ours is not None:
            ours.setblocking(False)
        return ours

    def get(self, exec_id: str) -> Exec:
        """For inspect. NotFound "No such exec instance: ID"."""
        instance = self._execs.get(exec_id)
        if instance is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return instance

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        """Set the terminal's size in characters. Conflict if it does not run."""
        instance = self.get(exec_id)
        check_size(height, width)
        if instance.handle is None or not instance.running:
            raise Conflict(f"exec {exec_id} is not running")
        if instance.config.tty:
            await instance.handle.resize(height, width)

    async def kill(self, exec_id: str, signal: str = "") -> None:
        """Send a signal by name or number to a running one. KILL (the default) ends everything that it has started,
        too. Conflict if it does not run."""
        instance = self.get(exec_id)
        number = parse_signal(signal or "KILL")
        handle = instance.handle
        if handle is None or not instance.running:
            raise Conflict(f"exec {exec_id} is not running")
        try:
            await handle.kill(number)
        except DockyardError:
            if instance.running:
                raise
            raise Conflict(f"exec {exec_id} is not running") from None
        container = self._context.registry.find(instance.container_id)
        if container is not None:
            self._tell(container, instance, "exec_kill", signal=str(number))

    async def probe(self, container: Container, command: list[str], timeout: int, limit: int) -> Probed:
        """Run a command of the engine's own and wait for its end; `timeout` in ns, `limit`: bytes of output to keep.

        StartFailed if it cannot be run, Conflict if the container does not run any more.
        """
        config = ExecConfig(cmd=command, attach_stdout=True, attach_stderr=True, timeout=timeout)
        instance = self._add(container, config)
        try:
            stream = await self.start(instance.id)
            assert stream is not None
            with stream:
                output, truncated = await _collect(stream, limit)
            if instance.handle is not None:
                await asyncio.shield(instance.handle.exit)
            while instance.running:
                await asyncio.sleep(0)  # until that has been noted
            return Probed(instance.exit_code or 0, output, truncated, instance.timed_out)
        finally:
            if instance.forget is not None:
                instance.forget.cancel()
            self._forget(instance)

    def detached(self, exec_id: str) -> None:
        """Note that a client left by its detach keys (event `exec_detach`)."""
        instance = self.get(exec_id)
        container = self._context.registry.find(instance.container_id)
        if container is not None:
            self._tell(container, instance, "exec_detach")

    def _spec(self, container: Container, instance: Exec, size: list[int] | None) -> ExecSpec:
        config = instance.config
        around = BundleInput(
            id=container.id,
            name=container.name,
            config=container.config,
            host=container.host,
            args=[],
            hostname=container.config.hostname,
            domainname=container.config.domainname,
            env=links.variables(self._context, container),
            process_label=self._context.labels.of(container).process,
        )
        wanted = ExecInput(
            args=config.cmd or [],
            env=config.env or (),
            user=config.user,
            cwd=config.working_dir,
            tty=config.tty,
            privileged=config.privileged,
            console_size=useful_size(size),
        )
        process = self._context.bundler.exec_process(around, wanted)
        own_cgroups = container.host.cgroupns_mode != "host"
        return ExecSpec(id=instance.id, process=process, open_stdin=config.attach_stdin, own_cgroups=own_cgroups)

    def _running(self, container: Container, instance: Exec, handle: ExecHandle) -> None:
        instance.running, instance.pid = True, handle.pid
        if instance.forget is not None:
            instance.forget.cancel()
        self._tell(container, instance, f"exec_start: {_command(instance.config)}")
        handle.exit.add_done_callback(lambda done: self._ended(container, instance, done.result()))

    def _ended(self, container: Container, instance: Exec, record: ExitRecord) -> None:
        instance.running, instance.exit_code, instance.handle = False, record["code"], None
        instance.timed_out = record.get("timed_out", False)
        if instance.id in container.exec_ids:
            container.exec_ids.remove(instance.id)
        self._tell(container, instance, "exec_die", exitCode=str(record["code"]))
        self._forget_later(instance)

    def _failed(self, container: Container, instance: Exec, error: BaseException) -> None:
        instance.exit_code = error.exit_code if isinstance(error, StartFailed) else 128
        if instance.id in container.exec_ids:
            container.exec_ids.remove(instance.id)
        self._forget_later(instance)

    def _forget_later(self, instance: Exec) -> None:
        if instance.forget is not None:
            instance.forget.cancel()
        if self._execs.get(instance.id) is not instance:
            return
        instance.forget = asyncio.get_running_loop().call_later(KEPT, self._forget, instance)

    def _forget(self, instance: Exec) -> None:
        self._execs.pop(instance.id, None)
        container = self._context.registry.find(instance.container_id)
        if container is not None and instance.id in container.exec_ids:
            container.exec_ids.remove(instance.id)

    def _container_ended(self, container: Container) -> None:
        """What was prepared for this run of the container and never started, is not for its next one."""
        prepared = [id_ for id_ in container.exec_ids if id_ in self._execs and not self._execs[id_].started]
        for exec_id in prepared:
            if (timer := self._execs[exec_id].forget) is not None:
                timer.cancel()
            self._forget(self._execs[exec_id])

    def _container_gone(self, container: Container) -> None:
        for exec_id in [id_ for id_, instance in self._execs.items() if instance.container_id == container.id]:
            instance = self._execs.pop(exec_id)
            if instance.forget is not None:
                instance.forget.cancel()

    def _tell(self, container: Container, instance: Exec, action: str, **attributes: str) -> None:
        self._context.publish(container, action, execID=instance.id, **attributes)

    def close(self) -> None:
        for instance in self._execs.values():
            if instance.forget is not None:
                instance.forget.cancel()


async def _collect(stream: socket.socket, limit: int) -> tuple[bytes, bool]:
    """The beginning of what is written, and whether there was more; all of it is read, so that nobody has to wait."""
    loop, frames = asyncio.get_running_loop(), FrameReader()
    kept, truncated = bytearray(), False
    while part := await loop.sock_recv(stream, 65536):
        for _, data in frames.feed(part):
            room = limit - len(kept)
            kept += data[: max(room, 0)]
            truncated = truncated or len(data) > room
    return bytes(kept), truncated
