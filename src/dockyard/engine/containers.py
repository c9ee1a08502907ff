"""Everything that may be asked of containers.

Owns: the one interface that `edge` and embedding programs see. Does not own: any of the work; each verb lives in a
module of its own (`creation`, `starting`, `stopping`, `removal`, `listing`, `attaching`, `top`, `restoring`).

`ref` is always an id, a name, or the unambiguous beginning of an id. Every method raises NotFound
"No such container: REF" for one that does not exist.
"""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple

from dockyard.engine.container import Container, WaitResult
from dockyard.model.container import ContainerConfig, EndpointSettings, HostConfig
from dockyard.proto.filters import Filters


class Created(NamedTuple):
    id: str
    warnings: list[str]


class Pruned(NamedTuple):
    ids: list[str]
    space_reclaimed: int  # bytes


class Sizes(NamedTuple):
    rw: int  # bytes of the writable layer
    root_fs: int  # bytes of image and writable layer together


class ProcessList(NamedTuple):
    titles: list[str]
    processes: list[list[str]]


class Containers:
    async def create(
        self,
        config: ContainerConfig,
        host: HostConfig,
        networks: dict[str, EndpointSettings] | None = None,
        *,
        name: str = "",
        platform: str = "",
    ) -> Created:
        """Make a container out of an image; it does not run yet.

        `networks`: the endpoints asked for, by network name or id. Raises NotFound "No such image: …", Conflict for a
        name in use (naming its holder), InvalidArgument for anything else that is wrong; then nothing was made.
        """
        raise NotImplementedError

    def get(self, ref: str) -> Container:
        """The container itself: attributes to read, `lifecycle.status_text(container.status, now)` for `ps`."""
        raise NotImplementedError

    def list(self, filters: Filters | None = None, *, all: bool = False, limit: int = 0) -> list[Container]:
        """Newest first. Without `all` only those that run; `limit` > 0: the newest ones, running or not.

        InvalidArgument for an unknown filter or value; NotFound for `before`/`since` of an unknown container.
        """
        raise NotImplementedError

    async def sizes(self, container: Container) -> Sizes:
        """For `ps -s` and `inspect -s`; reads the writable layer."""
        raise NotImplementedError

    async def start(self, ref: str) -> None:
        """Run a container. NotModified if it runs; StartFailed (kind INVALID, `.exit_code`) if its program cannot."""
        raise NotImplementedError

    async def stop(self, ref: str, *, signal: str = "", timeout: int | None = None) -> None:
        """Signal (the container's, else SIGTERM), wait `timeout` s (the container's, else 10; -1: for ever), SIGKILL.

        NotModified if it does not run.
        """
        raise NotImplementedError

    async def restart(self, ref: str, *, signal: str = "", timeout: int | None = None) -> None:
        """Stop it if it runs, then start it."""
        raise NotImplementedError

    async def kill(self, ref: str, signal: str = "") -> None:
        """Send a signal by name or number ("" = KILL). Conflict if it does not run."""
        raise NotImplementedError

    async def pause(self, ref: str) -> None:
        raise NotImplementedError

    async def unpause(self, ref: str) -> None:
        raise NotImplementedError

    def wait(self, ref: str, condition: str = "") -> asyncio.Future[WaitResult]:
        """Wait for "not-running" (default; at once if so), "next-exit" or "removed".

        Not a coroutine: the wait stands when this returns, so that a client may be answered its head and start the
        container afterwards. Cancel the future to give up.
        """
        raise NotImplementedError

    async def rename(self, ref: str, name: str) -> None:
        raise NotImplementedError

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """Take a container away; `force` kills it first, `volumes` takes its anonymous volumes too."""
        raise NotImplementedError

    async def prune(self, filters: Filters | None = None) -> Pruned:
        """Remove all that do not run. Filters: until, label, label!."""
        raise NotImplementedError

    async def attach(
        self, ref: str, *, stdin: bool = False, stdout: bool = False, stderr: bool = False
    ) -> socket.socket:
        """A non-blocking stream socket as `ContainerHandle.attach` describes it; the caller closes it.

        Works before the start: output then begins with the first byte. EOF when the output is complete.
        """
        raise NotImplementedError

    def detached(self, ref: str) -> None:
        """Note that a client left by its detach keys (event `detach`)."""
        raise NotImplementedError

    async def resize(self, ref: str, height: int, width: int) -> None:
        """Set the terminal's size in characters. Conflict if it does not run."""
        raise NotImplementedError

    async def top(self, ref: str, arguments: str = "") -> ProcessList:
        """Its processes, in columns as `ps` with these arguments has them (default -ef)."""
        raise NotImplementedError
