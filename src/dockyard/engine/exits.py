"""What happens when a container's program has ended, whoever ended it.

Owns: recording the exit once, telling it, giving back what the container held, and what follows (restart, removal).
Does not own: deciding to end it (`stopping`), carrying out a removal (`removal`) or a restart (`starting`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from typing import TYPE_CHECKING

from dockyard.engine import container_volumes
from dockyard.engine.container import Container
from dockyard.engine.context import again
from dockyard.model.errors import SystemFailure
from dockyard.model.lifecycle import SECOND, State, restart_pause, should_restart
from dockyard.runtime.handles import ContainerHandle
from dockyard.runtime.launch import ExitRecord

if TYPE_CHECKING:
    from dockyard.engine.context import Context

log = logging.getLogger(__name__)


def watch(context: Context, container: Container, handle: ContainerHandle, *, adopted: bool = False) -> None:
    """Follow a running container to its end. `adopted`: an earlier daemon has started it."""
    container.handle = handle
    container.over = ""
    for tell in context.started:
        tell(container, adopted)
    container.watcher = context.spawn(_watch(context, container, handle), f"container {container.id}: its exit")


async def _watch(context: Context, container: Container, handle: ContainerHandle) -> None:
    record = await asyncio.shield(handle.exit)
    await ended(context, container, record)


async def ended(
    context: Context, container: Container, record: ExitRecord, *, restart: bool = True, counts: bool = True
) -> None:
    """Record an exit, tell it, give back what it held, and go on as its settings say. Without `restart`, somebody else
    starts it again (its state says whether it is to be). `counts`: a start after it is one of those that the policy
    allows."""
    again = _record(context, container, record)
    if again and counts:
        container.status.restart_count += 1
    container.wake("next-exit", "not-running")  # a wait, of either kind, ends here even if it is started again
    await context.networks.release(container.id)
    await container_volumes.end(context, container)
    if container.host.auto_remove and not container.hold:
        remove_soon(context, container)
        return  # no row to write: the next write takes it away
    container.cleaner = context.spawn(_save_then_clean(context, container), f"container {container.id}: its end")
    if again and restart:
        start_again(context, container)


def _record(context: Context, container: Container, record: ExitRecord) -> bool:
    """Put the exit into the status in one step and tell it; whether the policy wants the container back."""
    status = container.status
    endpoints, status.endpoints, status.ports = status.endpoints, {}, {}
    container.handle = None
    status.pid = status.start_time = 0
    status.exit_code, status.error = record["code"], record["error"]
    status.oom_killed, status.finished_at = record["oom_killed"], record["finished_at"]
    if container.over:
        status.error = container.over
    again = not context.closing and should_restart(container.host.restart_policy, status, container.desired)
    for tell in context.ended:
        tell(container)
    status.state = State.RESTARTING if again else State.EXITED
    if status.oom_killed and not container.oom_told:
        context.publish(container, "oom")
    duration = max(0, status.finished_at - status.started_at) // SECOND
    context.publish(container, "die", execDuration=str(duration), exitCode=str(status.exit_code))
    for name, endpoint in endpoints.items():
        kind = name if name in ("host", "none") else "bridge"
        attributes = {"container": container.id, "name": name, "type": kind}
        context.events.publish("network", "disconnect", endpoint.network_id, attributes)
    container.drop_pending()
    return again


async def _save_then_clean(context: Context, container: Container) -> None:
    """The exit record of the runtime goes only when ours is on disk."""
    if not container.removed:
        await context.save(container)
    if container.handle is None:
        remove_state_dir(container)


def start_again(context: Context, container: Container) -> None:
    """By its policy, after a pause that grows."""
    from dockyard.engine.starting import restart_later

    status = container.status
    pause = restart_pause(container.pause_before_restart, status.finished_at - status.started_at)
    container.pause_before_restart = pause
    what = f"container {container.id}: restarting it"
    container.restarting = context.spawn(restart_later(context, container, pause), what)


def cancel_restart(container: Container) -> None:
    """It is not to be started by its policy any more (or somebody starts it right now)."""
    if container.restarting is not None:
        container.restarting.cancel()
        container.restarting = None


async def released(container: Container) -> None:
    """Until a container that has ended holds nothing of the network any more."""
    watcher = container.watcher
    if watcher is not None and not watcher.done():
        await asyncio.wait({watcher})


async def settled(container: Container) -> None:
    """Until everything that belongs to the last exit is done."""
    for task in (container.watcher, container.cleaner):
        if task is not None and not task.done():
            await asyncio.wait({task})


def remove_soon(context: Context, container: Container) -> None:
    """Remove it behind (`--rm`), if need be when there is room for that again."""
    context.spawn(_remove_behind(context, container), f"container {container.id}: removing it")


async def _remove_behind(context: Context, container: Container) -> None:
    from dockyard.engine.removal import remove_ended

    try:
        await remove_ended(context, container)
    except SystemFailure as error:
        log.warning("container %s: removing it: %s; trying again", container.id, error)
        await again(lambda: remove_ended(context, container), f"container {container.id} is not removed")


def remove_state_dir(container: Container) -> None:
    """Take away the run-time directory of a container that does not run. Missing is fine."""
    remove_directory(container.run_directory)


def remove_directory(directory: str) -> None:
    """A small directory of files, and whatever else lies in it."""
    try:
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except FileNotFoundError:
        return
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)
