"""A running container, and a process exec'd into it, as the engine has hold of them.

Owns: what can be asked of their monitor, and how their end is heard of, also when the monitor is lost. Does not own:
the connection (`runtime.link`), starting and adopting containers (`runtime.client`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import time
from typing import Any, cast

import msgspec

from dockyard.linux import process
from dockyard.model.errors import SystemFailure
from dockyard.runtime import channel, leftovers
from dockyard.runtime.launch import ExecSpec, ExitRecord, StartedRecord
from dockyard.runtime.link import Link, MonitorStuck

log = logging.getLogger(__name__)


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
