"""Run health checks of the containers that run, and act on what they say.

Owns: when a probe runs, its event, ending a container that is to be replaced because it is unhealthy. Does not own: the
rules (`model.health`, `model.lifecycle`), how a command gets into a container and is ended in time (`engine.execs`, the
monitor), starting again (`exits`).

A container costs one timer between probes: no task, no thread. A probe that runs when the daemon goes away is ended by
the monitor when its time is over; the next daemon goes on with the status that was written last.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from typing import Final

from dockyard.engine import stopping
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.engine.execs import Execs
from dockyard.model import health as rules
from dockyard.model.errors import DockyardError
from dockyard.model.health import SECOND, Result
from dockyard.model.lifecycle import State, should_replace
from dockyard.proto.times import format_duration
from dockyard.runtime.handles import ContainerHandle

log = logging.getLogger(__name__)

_PATIENCE: Final = 10.0  # s beyond the time-out after which a monitor is not waited for


class HealthChecks:
    """The health checks of one engine's containers. For its event loop only."""

    def __init__(self, context: Context, execs: Execs) -> None:
        self._context = context
        self._execs = execs
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        context.started.append(self._started)
        context.changed.append(self._replace_if_unhealthy)
        context.ended.append(self._ended)

    def close(self) -> None:
        """No more probes. Containers keep the status that they have."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _started(self, container: Container, adopted: bool) -> None:
        """A container runs: just started, or found by a new daemon, where it keeps its status."""
        status = container.status
        if rules.command(container.config) is None:
            status.health = None
            return
        if not adopted or status.health is None:
            status.health = rules.begin(status.health)
        pause = self._pause(container)
        if adopted:  # not all at once
            pause = pause * (zlib.crc32(container.id.encode()) % 100) // 100
        self._schedule(container, pause)
        if adopted:
            self._replace_if_unhealthy(container)

    def _ended(self, container: Container) -> None:
        """As Docker: what does not run counts as unhealthy."""
        if container.status.health is not None:
            container.status.health.status = rules.UNHEALTHY
        timer = self._timers.pop(container.id, None)
        if timer is not None:
            timer.cancel()
        probe = self._probes.pop(container.id, None)
        if probe is not None:
            probe.cancel()

    def _pause(self, container: Container) -> int:
        config, health = container.config.healthcheck, container.status.health
        assert config is not None and health is not None
        return rules.pause(config, health, self._context.clock() - container.status.started_at)

    def _schedule(self, container: Container, pause: int) -> None:
        loop = asyncio.get_running_loop()
        self._timers[container.id] = loop.call_later(pause / SECOND, self._due, container, container.handle)

    def _due(self, container: Container, handle: ContainerHandle | None) -> None:
        self._timers.pop(container.id, None)
        if container.handle is not handle or container.removed or self._context.closing:
            return
        if container.state is not State.RUNNING:  # paused: nothing can be found out
            self._schedule(container, self._pause(container))
            return
        work = self._probe(container, handle)
        self._probes[container.id] = self._context.spawn(work, f"container {container.id}: its health check")

    async def _probe(self, container: Container, handle: ContainerHandle | None) -> None:
        result = await self._run(container)
        if container.handle is not handle or container.removed or self._context.closing:
            return
        self._probes.pop(container.id, None)
        self._context.metrics.health_checks += 1
        self._context.metrics.health_checks_failed += result.exit_code != 0
        if container.state is State.RUNNING:  # else it was paused in the middle: that says nothing
            self._enter(container, result)
        if container.handle is handle:
            self._schedule(container, self._pause(container))

    async def _run(self, container: Container) -> Result:
        """One probe. Whatever goes wrong with it is its result."""
        config, command = container.config.healthcheck, rules.command(container.config)
        assert config is not None and command is not None
        timeout, start = rules.timeout(config), self._context.clock()
        late = f"Health check exceeded timeout ({format_duration(timeout)})"
        probe = self._execs.probe(container, command, timeout, rules.OUTPUT_LIMIT)
        try:
            done = await asyncio.wait_for(probe, timeout / SECOND + _PATIENCE)
        except TimeoutError:
            return Result(start, self._context.clock(), rules.TIMED_OUT, late)
        except DockyardError as error:
            return Result(start, self._context.clock(), rules.TIMED_OUT, error.message)
        output = rules.cut(done.output, done.truncated)
        if done.timed_out:
            return Result(start, self._context.clock(), rules.TIMED_OUT, f"{late}: {output}" if output else late)
        return Result(start, self._context.clock(), done.exit_code, output)

    def _enter(self, container: Container, result: Result) -> None:
        config, health = container.config.healthcheck, container.status.health
        if config is None or health is None:
            return
        if rules.apply(config, health, result, container.status.started_at):
            self._context.publish(container, f"health_status: {health.status}")
            self._context.save_soon(container)
        self._replace_if_unhealthy(container)

    def _replace_if_unhealthy(self, container: Container) -> None:
        if should_replace(container.host.restart_policy, container.status, container.desired):
            work = stopping.end_unhealthy(self._context, container)
            self._context.spawn(work, f"container {container.id}: ending it, as it is unhealthy")
