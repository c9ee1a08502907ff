"""The engine's side of the runtime: asks the zygote for monitors and workers.

Owns: the zygote process (started again when it is lost), starts, the adoption of running containers by a new daemon,
workers' results. Does not own: what a container should be (engine), what is asked of one that runs (`runtime.handles`),
what a monitor does (`runtime.monitor`).
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import socket
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from dockyard.linux import process
from dockyard.model.errors import DockyardError, SystemFailure
from dockyard.runtime import channel, launcher, leftovers, sealed
from dockyard.runtime.handles import ContainerHandle
from dockyard.runtime.launch import ExitRecord, Launch, StartedRecord
from dockyard.runtime.link import LOOK, Link, MonitorStuck, StartFailed, StartLost, send
from dockyard.runtime.sealed import Code

log = logging.getLogger(__name__)

_ADOPTION: Final = 6.0  # s that it has when a daemon begins; what it would say is found elsewhere, too
_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})  # what lacks here, not there


class Runtime:
    """Starts containers. One per daemon."""

    def __init__(self, errors: str = "/dev/null", code: Code | None = None) -> None:
        """`errors`: a file to which the zygote, monitors and workers write what should not happen. `code`: what they
        import from, if this process does so too; else a copy is made at the start, and kept for the next zygote."""
        self._errors = errors
        self._code = code
        self._own_code = code is None
        self._zygote: socket.socket | None = None
        self._zygote_pid = -1
        self._looking: asyncio.TimerHandle | None = None  # whether the zygote does what it was asked
        self._starting = asyncio.Lock()
        self._programs: dict[bytes, int] = {}  # seccomp program -> sealed memfd
        self._handles: set[ContainerHandle] = set()

    async def start(self) -> None:
        """Start the zygote. OSError when this host cannot."""
        await asyncio.to_thread(leftovers.sweep_spares)
        if self._code is None:
            self._code = await asyncio.to_thread(sealed.seal_package)
        await self._connect()

    @property
    def build(self) -> str:
        """Tells one state of the package's files from another; "" before the start."""
        return self._code.build if self._code is not None else ""

    async def _connect(self) -> socket.socket:
        async with self._starting:
            if self._zygote is None:
                if self._code is None:
                    raise SystemFailure("the runtime has not been started")
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                try:
                    self._zygote_pid = launcher.start_zygote(theirs, self._errors, self._code.fd)
                finally:
                    theirs.close()
                ours.setblocking(False)
                self._zygote = ours
                asyncio.get_running_loop().add_reader(ours.fileno(), self._zygote_lost)
            return self._zygote

    def _zygote_lost(self) -> None:
        """The zygote never speaks: readable means that it is gone. The next request starts another."""
        log.error("the zygote (pid %d) is gone; starting another at the next request", self._zygote_pid)
        self._forget_zygote()

    def _look_at_zygote(self) -> None:
        """It never waits for anything but requests: one that stands still has been stopped."""
        self._looking = None
        if self._zygote is not None and process.is_stopped(self._zygote_pid):
            log.error("the zygote (pid %d) is stopped: ending it", self._zygote_pid)
            os.kill(self._zygote_pid, signal.SIGKILL)  # our child, not reaped

    def _forget_zygote(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._zygote is None:
            return
        asyncio.get_running_loop().remove_reader(self._zygote.fileno())
        self._zygote.close()
        self._zygote = None
        pid, self._zygote_pid = self._zygote_pid, -1
        try:
            os.waitpid(pid, 0)  # it ends as soon as its socket does
        except ChildProcessError:
            pass

    async def close(self) -> None:
        """End the zygote and let go of the monitors; containers run on."""
        for handle in list(self._handles):
            handle.abandon()
        self._handles.clear()
        self._forget_zygote()
        for fd in self._programs.values():
            os.close(fd)
        self._programs.clear()
        if self._own_code and self._code is not None:
            os.close(self._code.fd)
            self._code = None

    async def _ask_zygote(self, request: bytes, fds: Sequence[int]) -> None:
        for attempt in (1, 2):
            zygote = await self._connect()
            if self._looking is None:
                self._looking = asyncio.get_running_loop().call_later(LOOK, self._look_at_zygote)
            try:
                await send(zygote, request, fds)
                return
            except OSError as error:
                if error.errno in _OURS:
                    raise
                if zygote is self._zygote:  # not another already, because somebody else has seen it first
                    self._forget_zygote()
                if attempt == 2:
                    raise SystemFailure(f"the runtime's zygote cannot be reached: {error.strerror}") from error

    def _program(self, program: bytes) -> int:
        fd = self._programs.get(program)
        if fd is None:
            fd = self._programs[program] = channel.seal(program, "dockyard-seccomp")
        return fd

    async def launch(
        self,
        launch: Launch,
        *,
        seccomp: bytes | None = None,
        attached: Sequence[tuple[socket.socket, bool, bool, bool]] = (),
        gated: bool = False,
    ) -> ContainerHandle:
        """Make the container and execute its program (`gated`: stop before that, until `begin`).

        `seccomp`: compiled program. `attached`: clients that attached before the start (stream end given away, stdin,
        stdout, stderr), so that no byte of output is missed. Raises StartFailed; SystemFailure (a port in use).
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        data = channel.seal(msgspec.json.encode(launch))
        fds = [theirs.fileno(), data]
        stdio = launch["stdio"]
        message: dict[str, Any] = {
            "state_dir": launch["state_dir"],
            "tty": stdio["tty"],
            "open_stdin": stdio["open_stdin"],
            "stdin_once": stdio["stdin_once"],
            "log": launch["log"],
            "gated": gated,
            "seccomp": seccomp is not None,
            "attached": [list(wants) for _, *wants in attached],
        }
        if seccomp is not None:
            fds.append(self._program(seccomp))
        fds.extend(stream.fileno() for stream, *_ in attached)
        try:
            await self._ask_zygote(msgspec.json.encode(message), fds)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(data)
            for stream, *_ in attached:
                stream.close()
        return await self._await_start(Link(ours, launch["state_dir"]), launch)

    async def _await_start(self, link: Link, launch: Launch) -> ContainerHandle:
        try:
            event = await link.event()
        except asyncio.CancelledError:
            link.close()
            await asyncio.to_thread(leftovers.clear, launch["config"], launch["network"], launch["state_dir"])
            raise
        if event is None:
            await asyncio.to_thread(leftovers.clear, launch["config"], launch["network"], launch["state_dir"])
            raise StartLost
        if event["event"] == "failed":
            link.close()
            if event["code"] < 0:
                raise SystemFailure(event["error"])
            raise StartFailed(event["error"], event["code"])
        return self._handle(launch["id"], launch["state_dir"], link, event)

    def _handle(self, identity: str, state_dir: str, link: Link, event: dict[str, Any]) -> ContainerHandle:
        started = StartedRecord(pid=event["pid"], start_time=event["start_time"], started_at=event["started_at"])
        handle = ContainerHandle(identity, state_dir, link, started)
        self._handles.add(handle)
        handle.exit.add_done_callback(lambda _future: self._handles.discard(handle))
        return handle

    async def adopt(self, container_id: str, state_dir: str) -> ContainerHandle | ExitRecord | None:
        """After a daemon restart: a handle if the container runs, its exit record if it ended meanwhile (monitor lost:
        code 137), None if there is no trace that it ran since the host started."""
        record = leftovers.read_exit(state_dir)
        if record is not None:
            return record
        try:
            directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            link = Link(channel.connect(directory, "monitor.sock"), state_dir)
        except OSError as error:
            if error.errno in _OURS:
                raise
            if not os.path.exists(f"{state_dir}/state.json"):
                return None
            return await asyncio.to_thread(leftovers.take_over, state_dir)
        finally:
            os.close(directory)
        try:
            state = await link.request("state", patience=_ADOPTION)
        except MonitorStuck as error:
            log.warning("container %s: %s", container_id, error)
            state = leftovers.read_state(state_dir)
        except SystemFailure:
            link.close()
            return await asyncio.to_thread(leftovers.take_over, state_dir)
        if "pid" not in state:
            link.close()
            return None
        handle = self._handle(container_id, state_dir, link, state)
        handle.frozen = bool(state.get("frozen"))
        return handle

    async def call(self, function: str, arguments: dict[str, Any], fds: Sequence[int] = ()) -> Any:
        """Run `package.module:function(**arguments, fds=fds)` in a worker process forked by the zygote; returns its
        JSON result. A DockyardError raised there arrives here with its kind and message; a worker that dies raises
        SystemFailure. Cancelling the call ends the worker."""
        ours, theirs = socket.socketpair()
        data = channel.seal(json.dumps({"function": function, "arguments": arguments}).encode())
        try:
            await self._ask_zygote(b"call", [theirs.fileno(), data, *fds])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(data)
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        answer = b""
        try:
            while part := await loop.sock_recv(ours, 65536):
                answer += part
        except ConnectionError:
            answer = b""  # it was killed
        finally:
            ours.close()
        if not answer:
            raise SystemFailure(f"the worker for {function} died")
        return _result(json.loads(answer))


def _result(reply: dict[str, Any]) -> Any:
    if "error" not in reply:
        return reply["result"]
    for kind in DockyardError.__subclasses__():
        if kind is not StartFailed and kind.kind.value == reply["kind"]:
            raise kind(reply["error"])
    raise SystemFailure(reply["error"])
