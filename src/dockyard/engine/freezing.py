"""A container that stands still while its files are copied.

Owns: `still`: nobody starts, stops or changes it meanwhile, and if it runs its processes are frozen, with Docker's
events. A daemon that ends in the middle leaves no container frozen: the container's monitor sees to that.
Does not own: what is copied (`committing`, `forking`), a client's own pause (`stopping`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from dockyard.engine import exits
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.model.errors import Conflict, DockyardError, NotFound, SystemFailure
from dockyard.model.lifecycle import State
from dockyard.runtime.handles import ContainerHandle

_END: Final = 2.0  # seconds between the end of a monitor's connection and the exit that it has left


@asynccontextmanager
async def still(
    context: Context, container: Container, ref: str, *, freeze: bool = True
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Holds the container's lock, and freezes it if it runs (`freeze`); gives a function that lets it go on at once.

    NotFound once removed; Conflict if it is being removed, SystemFailure if it cannot be frozen.
    """
    async with container.lock:
        if container.removed:
            raise NotFound(f"No such container: {ref}")
        if container.state in (State.DEAD, State.REMOVING):
            raise Conflict(f"container {container.id} is being removed")
        frozen = False
        if freeze and container.state is State.RUNNING and container.handle is not None:
            handle = container.handle
            frozen = await _freeze(container, handle)
            if frozen:
                container.status.state = State.PAUSED
                context.publish(container, "pause")

        async def go_on() -> None:
            nonlocal frozen
            if not frozen:
                return
            frozen = False
            await _thaw(context, container)

        try:
            yield go_on
        finally:
            await go_on()


async def _freeze(container: Container, handle: ContainerHandle) -> bool:
    """Whether it stands still; False: it has ended meanwhile, which is as good."""
    try:
        await handle.pause(held=True)
    except SystemFailure:
        await asyncio.wait({handle.exit}, timeout=_END)  # of a monitor that has gone, the exit is about to be known
        if not handle.exit.done():
            raise
        await exits.released(container)
        return False
    return container.handle is handle


async def _thaw(context: Context, container: Container) -> None:
    if container.handle is None or container.state is not State.PAUSED:
        return  # it was killed meanwhile
    try:
        await container.handle.resume()
    except DockyardError:
        if container.handle is not None:
            raise
        return
    if container.state is State.PAUSED:
        container.status.state = State.RUNNING
        context.publish(container, "unpause")
