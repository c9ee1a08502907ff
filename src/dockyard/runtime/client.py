"""The engine's side of the runtime: asks the zygote for monitors and workers, and talks to them.

Owns: the zygote process (started again when it is lost), one connection to each container's monitor, adoption of
running containers by a new daemon, and what is left to do when a monitor is lost.
Does not own: what a container should be (engine), what a monitor does (`runtime.monitor`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import msgspec

from dockyard.linux import process
from dockyard.model.errors import DockyardError, ErrorKind, SystemFailure
from dockyard.runtime import channel, launcher, leftovers, sealed
from dockyard.runtime.launch import ExecSpec, ExitRecord, Launch, StartedRecord
from dockyard.runtime.sealed import Code

log = logging.getLogger(__name__)

PATIENCE: Final = 45.0  # s that a monitor has for an answer: an exec may hold it up for 30
_LOOK: Final = 2.0  # s after which it is looked whether it has been stopped, and the zygote
_ADOPTION: Final = 6.0  # s that it has when a daemon begins; what it would say is found elsewhere, too
_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})  # what lacks here, not there


class StartFailed(DockyardError):
    """The process could not be started; nothing of it is left behind.

    `exit_code` is what `docker run` shows: 127 not found, 126 not executable, 128 anything else.
    """

    kind = ErrorKind.INVALID

    def __init__(self, message: str, exit_code: int = 128) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class MonitorGone(SystemFailure):
    """The monitor has ended, and the container with it, while it was to be asked something."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("the container is not running: its monitor is gone")


class StartLost(SystemFailure):
    """What was to make the container has been killed; nothing of it is left behind, and nothing is wrong with it."""

    def __init__(self) -> None:
        super().__init__("the container's monitor ended before the container started")


class MonitorStuck(SystemFailure):
    """The monitor lives and does not answer: somebody has stopped it, or it waits for something."""


class Link:
    """One connection to a monitor: requests with answers, and events. For use by one event loop."""

    def __init__(self, sock: socket.socket, state_dir: str) -> None:
        self._sock = sock
        self._state_dir = state_dir
        self._loop = asyncio.get_running_loop()
        self._sequence = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        while not self.closed:
            try:
                received = channel.hear(self._sock)
            except BlockingIOError:
                return
            if received is None:
                self.close()
                return
            message, fds = received
            channel.close_all(fds)
            if "event" in message:
                self._events.put_nowait(message)
            else:
                future = self._waiting.pop(message.get("seq") or 0, None)
                if future is not None and not future.done():
                    future.set_result(message)

    async def event(self) -> dict[str, Any] | None:
        """The next event, None when the monitor is gone."""
        return await self._events.get()

    async def request(
        self, op: str, fds: Sequence[int] = (), *, patience: float = PATIENCE, **arguments: Any
    ) -> dict[str, Any]:
        """Ask and await the answer, for `patience` s. MonitorGone, MonitorStuck; SystemFailure when it refuses,
        StartFailed with its code."""
        if self.closed:
            raise MonitorGone
        self._sequence += 1
        sequence = self._sequence
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting[sequence] = future
        timer = self._loop.call_later(_LOOK, self._look, sequence, self._loop.time() + patience)
        try:
            await send(self._sock, msgspec.json.encode({"op": op, "seq": sequence, **arguments}), fds, future.done)
            answer = await future
        except OSError as error:
            self._waiting.pop(sequence, None)
            raise MonitorGone from error
        finally:
            timer.cancel()
        if "gone" in answer:
            raise MonitorGone
        if "stuck" in answer:
            raise MonitorStuck(f"the container's monitor does not answer{answer['stuck']}")
        if "error" in answer:
            if "code" in answer:
                raise StartFailed(answer["error"], answer["code"])
            raise SystemFailure(answer["error"])
        return answer

    def _look(self, sequence: int, until: float) -> None:
        """There is no answer yet: is it still worth waiting?"""
        if sequence not in self._waiting:
            return
        stopped = leftovers.is_stopped(self._state_dir)
        if not stopped and self._loop.time() < until:
            self._loop.call_later(_LOOK, self._look, sequence, until)
            return
        future = self._waiting.pop(sequence)
        if not future.done():
            future.set_result({"stuck": ": it is stopped" if stopped else ""})

    def post(self, op: str, **arguments: Any) -> None:
        """Say something that is not answered, if there is room: what a stuck monitor is to do when it goes on."""
        with contextlib.suppress(OSError):
            self._sock.sendmsg([msgspec.json.encode({"op": op, **arguments})], (), socket.MSG_NOSIGNAL)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_result({"gone": True})
        self._waiting.clear()
        self._events.put_nowait(None)


async def send(
    sock: socket.socket, message: bytes, fds: Sequence[int] = (), given_up: Callable[[], bool] = lambda: False
) -> None:
    """One message, waiting for room unless it is `given_up`."""
    while not given_up():
        try:
            sock.sendmsg([message], channel.rights(fds), socket.MSG_NOSIGNAL)
            return
        except BlockingIOError:
            await asyncio.sleep(0.002)  # a SEQPACKET socket whose reader is busy: rare, and soon over


class ExecHandle:
    """A process started by exec in a running container. `exit` resolves with its code."""

    def __init__(self, container: ContainerHandle, identity: str, pid: int) -> None:
        self._container = container
        self.id = identity
        self.pid = pid
        self.exit: asyncio.Future[ExitRecord] = asyncio.get_running_loop().create_future()

    async def resize(self, height: int, width: int) -> None:
        """Set its terminal's size in characters. SystemFailure without a terminal."""
        await self._container.link.request("resize", exec=self.id, height=height, width=width)

    async def kill(self, signal: int) -> None:
        """Send a signal to the process; SIGKILL ends all that it has started, too. SystemFailure if it is gone."""
        await self._container.link.request("kill", exec=self.id, signal=signal)


class ContainerHandle:
    """A live connection to one container's monitor.

    `exit` resolves when the container's first process has ended, its log is complete and its kernel objects are gone
    (monitor lost: code 137, error "monitor lost").
    """

    def __init__(self, identity: str, state_dir: str, link: Link, started: StartedRecord) -> None:
        self.id = identity
        self.started = started
        self.link = link
        self.frozen = False
        self._state_dir = state_dir
        self._execs: dict[str, ExecHandle] = {}
        self._early: dict[str, ExitRecord] = {}  # execs that ended before their start was answered
        self.exit: asyncio.Future[ExitRecord] = asyncio.get_running_loop().create_future()
        self._follower = asyncio.get_running_loop().create_task(self._follow())

    @functools.cached_property
    def cgroup(self) -> str:
        """The container's cgroupsPath."""
        return leftovers.control_group(self._state_dir)

    async def _follow(self) -> None:
        end = await self._end()
        self.link.close()
        killed = ExitRecord(code=137, finished_at=end["finished_at"], oom_killed=False, error="")
        for handle in self._execs.values():
            if not handle.exit.done():
                handle.exit.set_result(killed)
        if not self.exit.done():
            self.exit.set_result(end)

    async def _end(self) -> ExitRecord:
        while event := await self.link.event():
            if event["event"] == "exec-exit":
                self._exec_ended(event["id"], exit_record(event))
            elif event["event"] == "exit":
                return exit_record(event)
            elif event["event"] == "log":
                log.warning("container %s: %s", self.id, event["text"])
        return await asyncio.to_thread(leftovers.take_over, self._state_dir)

    def _exec_ended(self, identity: str, record: ExitRecord) -> None:
        handle = self._execs.pop(identity, None)
        if handle is None:
            self._early[identity] = record
        elif not handle.exit.done():
            handle.exit.set_result(record)

    def abandon(self) -> None:
        """Let go of the monitor without a word; the container runs on."""
        self._follower.cancel()
        self.link.close()

    async def begin(self) -> None:
        """Let a container that was launched gated execute its program (OCI start). StartFailed."""
        await self.link.request("begin")

    async def kill(self, signal: int) -> None:
        """Send a signal to the first process. SystemFailure if it is gone. Does not need the monitor."""
        try:
            fd = process.open_process(self.started["pid"], self.started["start_time"])
        except OSError as error:
            raise SystemFailure(f"the container's first process is gone: {error.strerror}") from error
        try:
            process.pidfd_send_signal(fd, signal)
        except OSError as error:
            raise SystemFailure(f"signal {signal} cannot be sent: {error.strerror}") from error
        finally:
            os.close(fd)

    async def end_monitor(self) -> None:
        """End a monitor that does not do its work any more; `exit` then tells `monitor lost`."""
        await asyncio.to_thread(leftovers.end_monitor, self._state_dir)

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> socket.socket:
        """A connected non-blocking SOCK_STREAM socket: output as raw bytes (terminal) or in frames of 8 bytes header
        (stream 1 stdout, 2 stderr); what is written to it goes to the program's stdin; shutdown(SHUT_WR) closes stdin
        where the container has stdin_once. Its end: the output is complete."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            await self.link.request("attach", (theirs.fileno(),), stdin=stdin, stdout=stdout, stderr=stderr)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    async def resize(self, height: int, width: int) -> None:
        """Set the terminal's size in characters. SystemFailure without a terminal."""
        await self.link.request("resize", height=height, width=width)

    async def exec(self, spec: ExecSpec, stream: socket.socket | None, *, timeout: float = 0) -> ExecHandle:
        """Run a process in the container; `stream` (one end of a socket pair, given away) carries its stdio as
        `attach` does; None: output is discarded. `timeout` (s, 0: none): it and all that it has started are killed
        then, by the monitor, whether or not there is a daemon; its exit record says so. Raises StartFailed."""
        data = channel.seal(msgspec.json.encode(spec))
        fds = [data] if stream is None else [data, stream.fileno()]
        try:
            answer = await self.link.request(
                "exec",
                fds,
                id=spec["id"],
                tty=bool(spec["process"].get("terminal")),
                open_stdin=spec["open_stdin"],
                timeout=timeout,
            )
        except MonitorStuck:
            self.link.post("kill", exec=spec["id"], signal=9)
            raise
        finally:
            os.close(data)
            if stream is not None:
                stream.close()
        handle = ExecHandle(self, spec["id"], answer["pid"])
        early = self._early.pop(spec["id"], None)
        if early is not None:
            handle.exit.set_result(early)
        elif self.exit.done() or self.link.closed:
            handle.exit.set_result(ExitRecord(code=137, finished_at=time.time_ns(), oom_killed=False, error=""))
        else:
            self._execs[spec["id"]] = handle
        return handle

    async def pause(self, *, held: bool = False) -> None:
        """Freeze every process. Returns when they stand still. `held`: they go on if this daemon ends."""
        try:
            await self.link.request("freeze", frozen=True, held=held)
        except MonitorStuck:
            self.link.post("freeze", frozen=False)
            raise
        self.frozen = True

    async def resume(self) -> None:
        await self.link.request("freeze", frozen=False)
        self.frozen = False

    async def pids(self) -> list[int]:
        """Host pids of all processes in the container's control group."""
        return cast(list[int], (await self.link.request("pids"))["pids"])


def exit_record(event: dict[str, Any]) -> ExitRecord:
    record = ExitRecord(
        code=event["code"],
        finished_at=event["finished_at"],
        oom_killed=bool(event.get("oom_killed")),
        error=event.get("error") or "",
    )
    if event.get("timed_out"):
        record["timed_out"] = True
    return record


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
                self._looking = asyncio.get_running_loop().call_later(_LOOK, self._look_at_zygote)
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
