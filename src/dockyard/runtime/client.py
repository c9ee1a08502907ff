"""The engine's side of the runtime: asks the zygote for monitors and talks to them.

Owns: the zygote process, one connection to each container's monitor, re-adoption after a daemon restart.
Does not own: what a container should be (engine), what the monitor does (runtime.monitor).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from dockyard.model.errors import DockyardError, ErrorKind
from dockyard.runtime.launch import ExecSpec, ExitRecord, Launch, StartedRecord


class StartFailed(DockyardError):
    """The container's process could not be started; nothing of it is left behind.

    `exit_code` is what `docker run` shows: 127 not found, 126 not executable, 128 anything else.
    """

    kind = ErrorKind.INVALID

    def __init__(self, message: str, exit_code: int = 128) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ExecHandle:
    """A process started by exec in a running container."""

    pid: int
    exit: asyncio.Future[ExitRecord]

    async def resize(self, height: int, width: int) -> None: ...


class ContainerHandle:
    """A live connection to one container's monitor.

    `exit` resolves when the container's first process has ended, its log is complete and its kernel objects are gone
    (monitor lost: code 137, error "monitor lost").
    """

    id: str
    started: StartedRecord
    exit: asyncio.Future[ExitRecord]

    async def begin(self) -> None:
        """Let a container made with `create=True` execute its program (OCI start)."""

    async def kill(self, signal: int) -> None:
        """Send a signal to PID 1. SystemFailure if the process is gone."""

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> socket.socket:
        """A connected non-blocking SOCK_STREAM socket: output as raw bytes (tty) or 8-byte-header frames
        (stream 1 stdout, 2 stderr); what is written to it goes to the program's stdin; shutdown(SHUT_WR) closes stdin
        if `stdin_once`. EOF when the output is complete. May be called before the program runs (attach first, start
        later: see Runtime.attach_pending)."""
        raise NotImplementedError

    async def resize(self, height: int, width: int) -> None: ...

    async def exec(self, spec: ExecSpec, stream: socket.socket | None) -> ExecHandle:
        """Run a process in the container; `stream` (one end of a socketpair, given away) carries its stdio exactly as
        `attach` does; None: output is discarded. Raises StartFailed."""
        raise NotImplementedError

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def pids(self) -> list[int]:
        """Host pids of all processes in the container's cgroup."""
        raise NotImplementedError


class Runtime:
    """Starts containers. One per daemon."""

    async def start(self) -> None: ...

    async def close(self) -> None:
        """Ends the zygote; containers run on."""

    async def launch(self, launch: Launch, *, attached: Sequence[tuple[socket.socket, bool, bool, bool]] = ()) -> ContainerHandle:
        """Make the container and execute its program. `attached`: sockets of clients that attached before the start
        (stream end given away, stdin, stdout, stderr), so that no byte of output is missed. Raises StartFailed, or
        Conflict/SystemFailure (a port in use names the port)."""
        raise NotImplementedError

    async def adopt(self, container_id: str, state_dir: str) -> ContainerHandle | ExitRecord | None:
        """After a daemon restart: a handle if the container runs, its exit record if it ended meanwhile (monitor lost:
        code 137), None if it never ran."""
        raise NotImplementedError

    async def call(self, function: str, arguments: dict[str, Any], fds: Sequence[int] = ()) -> Any:
        """Run `package.module:function(**arguments, fds=fds)` in a worker process forked by the zygote; returns its
        JSON result. A DockyardError raised there arrives here with its kind and message; a worker that dies raises
        SystemFailure. Cancelling the call ends the worker."""
        raise NotImplementedError
