"""Start a container, by a client or by its restart policy.

Owns: the order of a start, its undoing when a step fails, and what the failure leaves to see. Does not own: what the
runtime is given (`ground`), what happens at the exit (`exits`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Final

from dockyard.engine import cgroup_driver, container_volumes, exits, failures, ground, labels, runtimes
from dockyard.engine.attaching import prune_pending
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.engine.metrics import timed
from dockyard.model.container import EndpointSettings
from dockyard.model.errors import DockyardError, ErrorKind, InvalidArgument, NotFound, passes
from dockyard.model.lifecycle import Event, State
from dockyard.runtime.bundle import cgroup_path
from dockyard.runtime.cgroups.realtime import give_real_time
from dockyard.runtime.handles import ContainerHandle
from dockyard.runtime.link import StartFailed, StartLost

SHORT_RUN: Final = 0.02  # seconds; a start is written this much later, so that a short run is written once, at its end


async def start(context: Context, container: Container, ref: str) -> None:
    """See `Containers.start`."""
    async with container.lock:
        if container.removed:
            raise NotFound(f"No such container: {ref}")
        container.check(Event.START, ref)
        exits.cancel_restart(container)
        container.desired.running, container.desired.stopped_by_user = True, False
        container.status.restart_count = 0
        container.pause_before_restart = 0
        await run(context, container)
    if container.host.restart_policy.name != "no":
        await context.promise(container)  # to start it again must survive what ends the daemon


@timed("start")
async def run(context: Context, container: Container) -> None:
    """Start it now; the caller holds its lock. On failure everything is undone and the error is kept to be seen."""
    await exits.settled(container)
    try:
        handle = await _launch(context, container)
    except BaseException as error:
        await _failed(context, container, error)
        raise
    _started(context, container, handle)


async def _launch(context: Context, container: Container) -> ContainerHandle:
    ground.make_sources(container.mounts)
    await container_volumes.begin(context, container)
    plan, endpoints = None, dict[str, EndpointSettings]()
    container.status.ports = {}
    if not container.host.network_mode.startswith("container:"):
        allocated = await context.networks.allocate(container)
        plan, endpoints = allocated.plan, allocated.endpoints
        container.status.ports = allocated.ports
    container.status.endpoints = endpoints
    _tell_networks(context, container, "connect", endpoints)
    ground.write_files(context, container)
    await labels.label_files(context, container)
    _give_real_time(context, container)
    bundle = context.bundler.make(ground.bundle_input(context, container))
    program = runtimes.program(
        context.runtimes, container.host.runtime, systemd=context.cgroup_driver == cgroup_driver.SYSTEMD
    )
    launch = ground.launch(context, container, bundle.config if program is None else bundle.foreign_config(), plan)
    if program is not None:
        launch["runtime"] = program
    prune_pending(container)
    attached, container.pending = container.pending, []
    filter_program = bundle.seccomp if program is None else None  # others compile linux.seccomp
    try:
        return await context.runtime.launch(launch, seccomp=filter_program, attached=attached)
    except StartFailed as error:
        raise _translated(error) from error


def _give_real_time(context: Context, container: Container) -> None:
    """To the groups above one that wants some. InvalidArgument if the host has not got what the daemon is to give."""
    if container.host.cpu_realtime_runtime and context.cgroup_driver == cgroup_driver.CGROUPFS:
        parent = os.path.dirname(cgroup_path(container.id, container.host))
        try:
            give_real_time(parent, *context.real_time)
        except OSError as error:
            raise InvalidArgument(f"cannot give real time to {parent}: {error.strerror or error}") from error


def _translated(error: StartFailed) -> StartFailed:
    """In the words of Docker, which clients search for the exit code they end with."""
    failure = StartFailed(failures.told(error, failures.CREATE), error.exit_code)
    if failures.is_lookup(error):
        failure.exit_code = 128
    elif error.exit_code not in (126, 127):
        failure.kind = ErrorKind.SYSTEM
    return failure


def _started(context: Context, container: Container, handle: ContainerHandle) -> None:
    status = container.status
    status.state = State.RUNNING
    status.pid, status.start_time = handle.started["pid"], handle.started["start_time"]
    status.started_at = handle.started["started_at"]
    status.finished_at = 0
    status.exit_code, status.error, status.oom_killed = 0, "", False
    context.publish(container, "start")
    ground.tell_linking(context, container)
    exits.watch(context, container, handle)
    context.save_soon(container, delay=SHORT_RUN)


async def _failed(context: Context, container: Container, error: BaseException) -> None:
    """Nothing of the attempt stays but the error and the exit code."""
    container.drop_pending()
    await context.networks.release(container.id)
    await container_volumes.end(context, container)
    exits.remove_state_dir(container)
    status = container.status
    _tell_networks(context, container, "disconnect", status.endpoints)
    status.endpoints, status.ports = {}, {}
    status.pid = status.start_time = 0
    status.error = str(error) if isinstance(error, DockyardError) else type(error).__name__
    status.exit_code = error.exit_code if isinstance(error, StartFailed) else 128
    status.state = State.EXITED if status.started_at else State.CREATED
    container.desired.running = False
    container.wake("next-exit", "not-running")
    context.save_soon(container)
    if container.host.auto_remove:
        exits.remove_soon(context, container)


def _tell_networks(
    context: Context, container: Container, action: str, endpoints: Mapping[str, EndpointSettings]
) -> None:
    for name, endpoint in endpoints.items():
        attributes = {"container": container.id, "name": name, "type": name if name in ("host", "none") else "bridge"}
        context.events.publish("network", action, endpoint.network_id, attributes)


async def restart_later(context: Context, container: Container, pause: int) -> None:
    """Wait `pause` ns, then start it again unless somebody has decided otherwise meanwhile."""
    await asyncio.sleep(pause / 1e9)
    async with container.lock:
        container.restarting = None
        if container.removed or container.state is not State.RESTARTING or context.closing:
            return
        await _run_by_policy(context, container)


async def start_at_boot(context: Context, container: Container) -> None:
    """Start what its policy wants up after a start of the daemon, unless somebody has done something to it since."""
    before = container.state
    async with container.lock:
        if container.removed or container.state is not before or container.running or context.closing:
            return
        container.desired.running, container.desired.stopped_by_user = True, False
        await _run_by_policy(context, container)


async def _run_by_policy(context: Context, container: Container) -> None:
    """A start that the host has no room for is tried again: nobody else would."""
    try:
        await run(context, container)
    except DockyardError as error:
        if (passes(error) or isinstance(error, StartLost)) and not context.closing:
            container.desired.running = True
            container.status.state = State.RESTARTING
            exits.start_again(context, container)
        raise
