"""What containers use, once or every second.

Owns: `Stats`: one collector for all who watch, which reads each watched container once a second in a thread, however
many watch it, and rests when nobody does. Does not own: control groups (`runtime.cgroups.usage`), Docker's JSON of it
(`edge.api.stats`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Final, NamedTuple

from dockyard.engine.container import Container, WaitResult
from dockyard.engine.context import Context
from dockyard.runtime.bundle import cgroup_path
from dockyard.runtime.cgroups.usage import Meter, Usage

PERIOD: Final = 1.0  # seconds between two readings
_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")  # ns
_Clock = Callable[[], int]
_PROCESSORS: Final = 7  # user, nice, system, idle, iowait, irq, softirq; steal and guests are in others' time


class NetworkCount(NamedTuple):
    """What one interface has carried."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


class Sample(NamedTuple):
    """One reading of one container. Without `usage` it does not run."""

    container: Container
    at: int = 0  # ns since the epoch
    usage: Usage | None = None
    networks: dict[str, NetworkCount] | None = None  # None: it has none of its own
    system_cpu: int = 0  # ns of all processors of the host together
    processors: int = 0
    before: Sample | None = None  # the reading before, if there was one


class Stats:
    """For the event loop's thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._watched: dict[str, _Watched] = {}
        self._task: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._read_again = asyncio.Event()  # another one for each round
        self._closed = False

    def close(self) -> None:
        """Every stream ends."""
        if self._task is not None:
            self._task.cancel()
        self._closed = True
        self._read_again.set()

    async def once(self, ref: str, *, one_shot: bool = False) -> Sample:
        """One reading; with the one of a second before it unless `one_shot`. NotFound."""
        container = self._context.registry.get(ref)
        if container.handle is None:
            return Sample(container)
        reading = _Reading(container)
        try:
            first = await asyncio.to_thread(reading.take, self._context.clock, _Host.now(), None)
            if one_shot or first.usage is None:
                return first
            await asyncio.sleep(PERIOD)
            return await asyncio.to_thread(reading.take, self._context.clock, _Host.now(), first)
        finally:
            reading.close()

    async def stream(self, ref: str) -> AsyncGenerator[Sample, None]:
        """A reading every second, the first at once, until the container is removed. NotFound."""
        container = self._context.registry.get(ref)
        watched = self._watched.setdefault(container.id, _Watched(container))
        watched.watchers += 1
        removed = container.add_waiter("removed")
        removed.add_done_callback(self._gone)
        try:
            if watched.latest.usage is None:
                await self._read([watched])
            yield (told := watched.latest)
            if self._task is None or self._task.done():
                self._task = asyncio.get_running_loop().create_task(self._collect())
            while not (self._closed or container.removed):
                await self._read_again.wait()
                if watched.latest is not told and not container.removed:
                    yield (told := watched.latest)
        finally:
            watched.watchers -= 1
            removed.cancel()

    def _gone(self, removed: asyncio.Future[WaitResult]) -> None:
        if not removed.cancelled():
            self._wake()

    def _wake(self) -> None:
        """Every stream looks: at a new reading, or whether its container is gone (clients wait for that end)."""
        self._read_again.set()
        self._read_again = asyncio.Event()

    async def _read(self, watched: list[_Watched]) -> None:
        async with self._reading:
            await asyncio.to_thread(_read_all, watched, self._context.clock)

    async def _collect(self) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time()
        while self._watched:
            at += PERIOD
            await asyncio.sleep(max(at - loop.time(), 0))
            await self._read(list(self._watched.values()))
            for identity, watched in list(self._watched.items()):
                if watched.container.removed or not watched.watchers:
                    watched.close()
                    del self._watched[identity]
            self._wake()


class _Watched:
    """One container and those who watch it."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.watchers = 0
        self.latest = Sample(container)
        self._reading: _Reading | None = None

    def read(self, clock: _Clock, host: _Host) -> None:
        """In a thread."""
        handle = self.container.handle
        if self._reading is not None and self._reading.handle is not handle:
            self.close()
        if handle is None:
            self.latest = Sample(self.container)
            return
        if self._reading is None:
            self._reading = _Reading(self.container)
            self.latest = Sample(self.container)
        before = self.latest if self.latest.usage else None
        self.latest = self._reading.take(clock, host, before)

    def close(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None


class _Host(NamedTuple):
    """What is the same for all containers at one moment."""

    system_cpu: int
    processors: int

    @classmethod
    def now(cls) -> _Host:
        return cls(system_time(), os.sysconf("SC_NPROCESSORS_ONLN"))


class _Reading:
    """The open files of one run of a container."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.handle = container.handle
        self._meter: Meter | None = None
        self._network = -1

    def take(self, clock: _Clock, host: _Host, before: Sample | None) -> Sample:
        """A sample without usage when the container has just ended."""
        try:
            if self._meter is None:
                found = self.handle.cgroup if self.handle else ""
                self._meter = Meter(found or cgroup_path(self.container.id, self.container.host))
                if self.container.host.network_mode != "host":
                    self._network = os.open(f"/proc/{self.container.status.pid}/net/dev", os.O_RDONLY | os.O_CLOEXEC)
            usage = self._meter.read()
            networks = None if self._network < 0 else network_counts(os.pread(self._network, 1 << 16, 0).decode())
        except OSError:
            return Sample(self.container)
        # The chain of samples has two links: an older one is let go of.
        last = Sample(*before[:-1]) if before is not None else None
        return Sample(self.container, clock(), usage, networks, host.system_cpu, host.processors, last)

    def close(self) -> None:
        if self._meter is not None:
            self._meter.close()
            self._meter = None
        if self._network >= 0:
            os.close(self._network)
            self._network = -1


def _read_all(watched: list[_Watched], clock: _Clock) -> None:
    host = _Host.now()
    for each in watched:
        each.read(clock, host)


def system_time() -> int:
    """ns that all processors together have spent, idle ones too: the first line of /proc/stat (proc(5))."""
    words = Path("/proc/stat").read_text().partition("\n")[0].split()
    return sum(int(word) for word in words[1 : 1 + _PROCESSORS]) * _TICK


def network_counts(text: str) -> dict[str, NetworkCount]:
    """/proc/PID/net/dev → interfaces but lo."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        name = name.strip()
        if name != "lo":
            numbers = rest.split()
            found[name] = NetworkCount(*map(int, numbers[:4]), *map(int, numbers[8:12]))
    return found
