"""Signals, stop, pause.

Owns: how a container is asked to end, and made to when it does not. Does not own: what happens at the end (`exits`).

A stop holds no lock while it waits, so that a forced removal or a kill need not wait for it.
"""

from __future__ import annotations

import asyncio
import signal as signals
from typing import Final

from dockyard.engine import exits, starting
from dockyard.engine.container import Container, WaitResult
from dockyard.engine.context import Context
from dockyard.engine.signals import parse_signal
from dockyard.model.errors import Conflict, DockyardError, NotFound, NotModified, SystemFailure
from dockyard.model.lifecycle import Event, State, should_replace
from dockyard.proto.times import format_duration
from dockyard.runtime.handles import ContainerHandle

DEFAULT_TIMEOUT: Final = 10  # seconds
KILL_PATIENCE: Final = 10  # seconds for a process to go after SIGKILL, then again after the end of its monitor


async def stop(context: Context, container: Container, ref: str, signal: str, timeout: int | None) -> None:
    """See `Containers.stop`."""
    number = parse_signal(signal or container.config.stop_signal or "SIGTERM")
    if timeout is None:
        timeout = container.config.stop_timeout
    if timeout is None:
        timeout = DEFAULT_TIMEOUT
    async with container.lock:
        container.check(Event.STOP, ref)
        container.desired.running, container.desired.stopped_by_user = False, True
        handle = container.handle
        if handle is None:
            _end_restarting(context, container)
            await _remember(context, container)
            return
        gone = container.add_waiter("next-exit")
        await _send(context, container, handle, number)
    try:
        await _await_end(context, container, handle, gone, timeout)
    finally:
        gone.cancel()
    await exits.settled(container)
    context.publish(container, "stop")
    await _remember(context, container)


def _end_restarting(context: Context, container: Container) -> None:
    """A container that was to be started again stays down."""
    exits.cancel_restart(container)
    container.status.state = State.EXITED
    container.wake("not-running")
    context.publish(container, "stop")


async def _remember(context: Context, container: Container) -> None:
    """That a client stopped it has to be known after a restart of the daemon, if its policy asks."""
    if container.host.restart_policy.name != "no" and not container.removed:
        await context.promise(container)


async def _await_end(
    context: Context, container: Container, handle: ContainerHandle, gone: asyncio.Future[WaitResult], timeout: int
) -> None:
    try:
        await asyncio.wait_for(asyncio.shield(gone), timeout if timeout >= 0 else None)
        return
    except TimeoutError:
        pass
    await kill_now(context, container, handle, gone)


async def end_overdue(context: Context, container: Container) -> None:
    """Stop a container whose maximum run time is over. Its policy does not bring it back, as after a client's stop."""
    limit = format_duration(container.host.maximum_runtime)
    container.over = f"maximum run time of {limit} exceeded"
    context.publish(container, "max_runtime", limit=limit)
    try:
        await stop(context, container, container.id, "", None)
    except (NotModified, NotFound):
        return  # it has just ended by itself


async def end_unhealthy(context: Context, container: Container) -> None:
    """End a container as a stop does, but without saying that it should be down: its exit starts it again."""
    async with container.lock:
        handle = container.handle
        if handle is None or not should_replace(container.host.restart_policy, container.status, container.desired):
            return
        gone = container.add_waiter("next-exit")
        await _send(context, container, handle, parse_signal(container.config.stop_signal or "SIGTERM"))
    timeout = container.config.stop_timeout
    try:
        await _await_end(context, container, handle, gone, DEFAULT_TIMEOUT if timeout is None else timeout)
    finally:
        gone.cancel()


async def kill_now(
    context: Context, container: Container, handle: ContainerHandle, gone: asyncio.Future[WaitResult]
) -> None:
    """SIGKILL, and wait until it has gone; if nobody tells of its end, its monitor is ended too.

    SystemFailure if it is there even then (a process stuck in the kernel)."""
    await _send(context, container, handle, signals.SIGKILL)
    for last in (False, True):
        try:
            await asyncio.wait_for(asyncio.shield(gone), KILL_PATIENCE)
            return
        except TimeoutError:
            if last:
                raise SystemFailure(
                    f"container {container.id} PID {container.status.pid} is zombie and can not be killed"
                ) from None
            await handle.end_monitor()


async def _send(context: Context, container: Container, handle: ContainerHandle, number: int) -> None:
    """Deliver a signal; a frozen container is thawed so that it can act on it. One that has just ended is fine."""
    try:
        await handle.kill(number)
    except SystemFailure:
        if container.handle is handle and not handle.exit.done():
            # It may be on its way out: the exit is told when its log is complete.
            await asyncio.wait({handle.exit}, timeout=2)
            if not handle.exit.done():
                raise
        return
    context.publish(container, "kill", signal=str(int(number)))
    if container.state is State.PAUSED and _thaws(container, number):
        await _thaw(context, container, handle)


def _ends(container: Container, number: int) -> bool:
    """Whether this signal is meant to end it."""
    return number == signals.SIGKILL or number == parse_signal(container.config.stop_signal or "SIGTERM")


def _thaws(container: Container, number: int) -> bool:
    """Whether a frozen container has to act on this signal. As in Docker: any that may end it, which is every one
    unless it has named its own."""
    return not container.config.stop_signal or _ends(container, number)


async def _thaw(context: Context, container: Container, handle: ContainerHandle) -> None:
    try:
        await handle.resume()
    except DockyardError:
        return  # it has ended meanwhile
    if container.state is State.PAUSED:
        container.status.state = State.RUNNING
        context.publish(container, "unpause")


async def kill(context: Context, container: Container, ref: str, signal: str) -> None:
    """See `Containers.kill`."""
    number = parse_signal(signal or "KILL")
    if container.handle is None:
        async with container.lock:  # a start may be under way
            container.check(Event.KILL, ref)
    container.check(Event.KILL, ref)
    ends = _ends(container, number)
    if ends:
        container.desired.running, container.desired.stopped_by_user = False, True
    handle = container.handle
    if handle is None:
        _end_restarting(context, container)
    elif number == signals.SIGKILL:
        gone = container.add_waiter("next-exit")
        try:
            await kill_now(context, container, handle, gone)
        finally:
            gone.cancel()
    else:
        await _send(context, container, handle, number)
    if ends:
        await _remember(context, container)


async def restart(context: Context, container: Container, ref: str, signal: str, timeout: int | None) -> None:
    """See `Containers.restart`."""
    container.check(Event.RESTART, ref)
    container.hold = True
    try:
        await _stop_and_start(context, container, ref, signal, timeout)
    finally:
        container.hold = False
        if container.host.auto_remove and not container.running and container.status.started_at:
            exits.remove_soon(context, container)
    context.publish(container, "restart")


async def _stop_and_start(context: Context, container: Container, ref: str, signal: str, timeout: int | None) -> None:
    try:
        await stop(context, container, ref, signal, timeout)
    except NotModified:
        pass
    try:
        await starting.start(context, container, ref)
    except NotModified:
        pass  # somebody else has started it in between


async def pause(context: Context, container: Container, ref: str) -> None:
    """See `Containers.pause`."""
    await _freeze(context, container, ref, Event.PAUSE, State.PAUSED)


async def unpause(context: Context, container: Container, ref: str) -> None:
    """See `Containers.unpause`."""
    await _freeze(context, container, ref, Event.UNPAUSE, State.RUNNING)


async def _freeze(context: Context, container: Container, ref: str, event: Event, state: State) -> None:
    async with container.lock:
        container.check(event, ref)
        handle = _handle(container)
        await (handle.pause() if event is Event.PAUSE else handle.resume())
        if container.handle is handle:
            container.status.state = state
    context.publish(container, event.value)
    context.save_soon(container)


def _handle(container: Container) -> ContainerHandle:
    """The live connection. NotFound once removed, Conflict if it has just ended."""
    if container.removed:
        raise NotFound(f"No such container: {container.id}")
    if container.handle is None:
        raise Conflict(f"container {container.id} is not running")
    return container.handle
