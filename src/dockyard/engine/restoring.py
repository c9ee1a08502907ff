"""Find again at start what went on while there was no daemon.

Owns: comparing rows with what runs, adopting, recording exits that nobody saw, sweeping what belongs to nobody,
starting what its policy wants up. Does not own: talking to monitors (`runtime`), layers and networks (they sweep for
themselves).

A daemon may have been killed between any two steps. What that can leave, and what becomes of it:

    directory without a row                      swept; volumes: see `engine.volumes`
    row without a directory (the host restarted) a new one: see `engine.remaking`
    row "created", monitor runs                  adopted: the start had happened
    row "running", monitor runs                  adopted
    row "running", exit record                   recorded, with its own time
    row "running", nothing (the host restarted)  exited, 255
    row "restarting", nothing                    started again
    exit recorded in the row, exit record left   cleared
    monitor without a row                        killed
    `--rm` container that has ended              removed
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from typing import Final

from dockyard.engine import exits, ground, starting
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.engine.remaking import remake
from dockyard.model.errors import DockyardError, SystemFailure, reason
from dockyard.model.lifecycle import State, should_start, start_order
from dockyard.runtime.handles import ContainerHandle
from dockyard.runtime.launch import ExitRecord

log = logging.getLogger(__name__)

HOST_RESTARTED: Final = 255  # exit code of a container that the host's end ended, as Docker gives it
_AT_ONCE: Final = 32


async def restore(context: Context) -> None:
    """Read every container and bring rows and reality together. Call once, before anything else is asked."""
    for row in await context.store.all():
        layout = context.layout
        places = layout.container(row.id), layout.run_container(row.id), layout.spool(row.id)
        container = Container(row, *places)
        context.registry.add(container)
        context.labels.reserve(container.spec.process_label)
    found = await _adopt_all(context)
    await context.networks.restore([container for container in context.registry if container.handle is not None])
    await _open_volumes(context)
    await remake(context)
    for container, record in found:
        by_itself = record["code"] != HOST_RESTARTED
        await exits.ended(context, container, record, restart=False, counts=by_itself)
    _sweep(context)
    _follow_policies(context)


async def _adopt_all(context: Context) -> list[tuple[Container, ExitRecord]]:
    """Connect to what runs; returns those that ended meanwhile."""
    present = _listed(context.layout.run_containers)
    limit = asyncio.Semaphore(_AT_ONCE)
    ended: list[tuple[Container, ExitRecord]] = []

    async def one(container: Container) -> None:
        async with limit:
            record = await _adopt(context, container)
        if record is not None:
            ended.append((container, record))

    known = [c for c in context.registry if c.id in present or c.status.active]
    strangers = present - {container.id for container in context.registry}
    await asyncio.gather(*(one(c) for c in known), *(_end_stranger(context, id_) for id_ in strangers))
    return sorted(ended, key=lambda pair: pair[1]["finished_at"])


async def _adopt(context: Context, container: Container) -> ExitRecord | None:
    """Bring one container's status up to date; its exit record if it has ended unrecorded."""
    status = container.status
    try:
        found = await context.runtime.adopt(container.id, container.run_directory)
    except OSError as error:  # it may run: to go on without it, or to start it once more, would be worse
        raise SystemFailure(f"container {container.id}: its monitor cannot be reached: {reason(error)}") from error
    if isinstance(found, ContainerHandle):
        _adopted(context, container, found)
        return None
    if found is not None:
        if status.active or status.finished_at < found["finished_at"]:
            return found
        exits.remove_state_dir(container)  # recorded already
        return None
    exits.remove_state_dir(container)
    if status.running:
        return ExitRecord(code=HOST_RESTARTED, finished_at=context.clock(), oom_killed=False, error="")
    return None


def _adopted(context: Context, container: Container, handle: ContainerHandle) -> None:
    status = container.status
    if not status.running or status.started_at != handle.started["started_at"]:
        status.exit_code, status.error, status.oom_killed, status.finished_at = 0, "", False, 0
        container.desired.running, container.desired.stopped_by_user = True, False
    status.state = State.PAUSED if handle.frozen else State.RUNNING
    status.pid, status.start_time = handle.started["pid"], handle.started["start_time"]
    status.started_at = handle.started["started_at"]
    kept = ground.read_connections(container)
    if kept is not None:
        status.endpoints, status.ports = kept.endpoints, kept.ports
    exits.watch(context, container, handle, adopted=True)
    context.save_soon(container)


async def _end_stranger(context: Context, container_id: str) -> None:
    """Kill a monitor's container that has no row, and take its run-time directory away."""
    directory = str(context.layout.run_containers / container_id)
    try:
        found = await context.runtime.adopt(container_id, directory)
        if isinstance(found, ContainerHandle):
            log.warning("container %s runs but is not known: killing it", container_id)
            await found.kill(signal.SIGKILL)
            if found.frozen:
                await found.resume()
            await asyncio.wait({found.exit}, timeout=10)
    except (DockyardError, OSError) as error:
        log.warning("container %s is not known and cannot be ended: %s", container_id, error)
        return
    exits.remove_directory(directory)


def _sweep(context: Context) -> None:
    """Directories of containers without a row."""
    known = {container.id for container in context.registry}
    for name in _listed(context.layout.containers) - known:
        context.layout.discard(context.layout.containers / name)


async def _open_volumes(context: Context) -> None:
    used: dict[str, set[str]] = {}  # volume → running containers
    for container in context.registry:
        for name in container.volumes:
            used.setdefault(name, set()).update([container.id] if container.handle is not None else ())
    await context.volumes.open(used.keys(), used)


def _listed(directory: os.PathLike[str]) -> set[str]:
    try:
        return set(os.listdir(directory))
    except FileNotFoundError:
        return set()


def _follow_policies(context: Context) -> None:
    """Start what its policy wants up after a restart of the daemon, in the order in which they need each other; remove
    what was to be gone with its end."""
    wanted: dict[str, Container] = {}
    for container in context.registry:
        if container.handle is not None:
            continue
        if container.host.auto_remove:
            exits.remove_soon(context, container)
        elif should_start(container.host.restart_policy, container.status, container.desired):
            wanted[container.id] = container
    before = start_order(wanted, {id_: set(_needs(context, container)) for id_, container in wanted.items()})
    limit, starts = asyncio.Semaphore(_AT_ONCE), dict[str, asyncio.Task[None]]()

    async def start(container: Container) -> None:
        first = [starts[id_] for id_ in before[container.id]]
        if first:
            await asyncio.wait(first)
        async with limit:
            await starting.start_at_boot(context, container)

    for id_, container in wanted.items():
        starts[id_] = context.spawn(start(container), f"container {id_}: starting it by its policy")


def _needs(context: Context, container: Container) -> Iterator[str]:
    """The ids of the containers whose namespaces, volumes or addresses this one uses."""
    host = container.host
    for mode in (host.network_mode, host.pid_mode, host.ipc_mode):
        if mode.startswith("container:"):
            yield mode.removeprefix("container:")
    for named in (*(host.volumes_from or ()), *(host.links or ())):
        other = context.registry.find(named.partition(":")[0])
        if other is not None:
            yield other.id
