"""Streams to and from a container's first process, and its terminal.

Owns: attaching before and after the start, resize. Does not own: the streams' bytes (the monitor's), detach keys (the
client's side, `edge`).
"""

from __future__ import annotations

import select
import socket

from dockyard.engine.container import Container, Pending
from dockyard.engine.context import Context
from dockyard.model.errors import Conflict, InvalidArgument, NotFound
from dockyard.model.lifecycle import Event


async def attach(
    context: Context, container: Container, ref: str, *, stdin: bool, stdout: bool, stderr: bool
) -> socket.socket:
    """See `Containers.attach`."""
    async with container.lock:  # a start under way has its list of pending clients already
        if container.removed:
            raise NotFound(f"No such container: {ref}")
        container.check(Event.ATTACH, ref)
        stdin = stdin and container.config.open_stdin
        if container.handle is not None:
            stream = await container.handle.attach(stdin=stdin, stdout=stdout, stderr=stderr)
        else:
            prune_pending(container)
            stream, theirs = socket.socketpair()
            stream.setblocking(False)
            theirs.setblocking(False)
            container.pending.append(Pending(theirs, stdin, stdout, stderr))
    context.publish(container, "attach")
    return stream


def prune_pending(container: Container) -> None:
    """Forget clients that attached and went away before the start: their end of the pair is closed."""
    if not container.pending:
        return
    poll = select.poll()
    for pending in container.pending:
        poll.register(pending.stream, 0)  # POLLHUP is always told
    hung_up = {fd for fd, events in poll.poll(0) if events & (select.POLLHUP | select.POLLERR)}
    keep = []
    for pending in container.pending:
        if pending.stream.fileno() in hung_up:
            pending.stream.close()
        else:
            keep.append(pending)
    container.pending = keep


async def resize(context: Context, container: Container, ref: str, height: int, width: int) -> None:
    """See `Containers.resize`."""
    container.check(Event.RESIZE, ref)
    check_size(height, width)
    if container.handle is None:
        raise Conflict(f"container {container.id} is not running")
    if container.config.tty:  # without a terminal there is nothing to resize, which is no error in Docker
        await container.handle.resize(height, width)
    context.publish(container, "resize", height=str(height), width=str(width))


def check_size(height: int, width: int) -> None:
    """InvalidArgument for a size that a terminal cannot have."""
    if not (0 <= height <= 0xFFFF and 0 <= width <= 0xFFFF):
        raise InvalidArgument(f"invalid terminal size: {height}x{width}")
