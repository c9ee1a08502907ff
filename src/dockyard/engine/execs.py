"""Processes run in running containers on request.

Owns: `Exec` instances, from their creation to some minutes after their end. Does not own: how a process gets into a
container (`runtime`). Instances live in memory only: a daemon restart forgets them, as Docker's does.
"""

from __future__ import annotations

import socket

from msgspec import Struct


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


class Exec:
    """One exec instance."""

    __slots__ = ("config", "container_id", "exit_code", "id", "pid", "running")

    def __init__(self, id: str, container_id: str, config: ExecConfig) -> None:
        self.id = id
        self.container_id = container_id
        self.config = config
        self.running = False
        self.exit_code: int | None = None  # None: has not ended
        self.pid = 0


class Execs:
    async def create(self, ref: str, config: ExecConfig) -> str:
        """Prepare a process in a running container; returns its id. Conflict if that does not run or is paused."""
        raise NotImplementedError

    async def start(
        self, exec_id: str, *, detach: bool = False, tty: bool | None = None, console_size: list[int] | None = None
    ) -> socket.socket | None:
        """Run it. Returns a stream socket as `ContainerHandle.attach` does (EOF at the end), None when detached.

        NotFound "No such exec instance: ID"; Conflict if it ran already; StartFailed (126, 127) in Docker's words.
        """
        raise NotImplementedError

    def get(self, exec_id: str) -> Exec:
        """For inspect. NotFound."""
        raise NotImplementedError

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        raise NotImplementedError

    def detached(self, exec_id: str) -> None:
        """Note that a client left by its detach keys (event `exec_detach`)."""
        raise NotImplementedError
