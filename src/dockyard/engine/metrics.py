"""Figures about the daemon, for Prometheus.

Owns: `Metrics`, what is counted and timed while the engine works, and all of it as text (names and buckets as dockerd
has them, https://docs.docker.com/engine/daemon/prometheus/; the format: text, 0.0.4). Does not own: serving it
(`edge.metrics`). prometheus-client takes 75 ms to import, and it is no dependency of the daemon's; these are few.
"""

from __future__ import annotations

import functools
import os
import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from dockyard.engine.context import Context
    from dockyard.engine.engine import Engine

P = ParamSpec("P")
T = TypeVar("T")
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
_CONTAINER: Final = ("changes", "commit", "create", "delete", "start")
_NETWORK: Final = ("allocate", "connect", "release")
_HOST: Final = ("system_info", "system_version")


class Histogram:
    """How long something took: how often up to each bound, in all, and the sum. One a label's value."""

    def __init__(self, label: str, values: Iterable[str]) -> None:
        self._label = label
        self._counts = {value: [0] * (len(_BUCKETS) + 1) for value in values}
        self._sums = dict.fromkeys(self._counts, 0.0)

    def observe(self, value: str, seconds: float) -> None:
        self._counts[value][bisect_left(_BUCKETS, seconds)] += 1
        self._sums[value] += seconds

    @contextmanager
    def timed(self, value: str) -> Iterator[None]:
        """Observe what is done inside, unless it fails."""
        begun = time.monotonic()
        yield
        self.observe(value, time.monotonic() - begun)

    def lines(self, name: str) -> Iterator[str]:
        for value, counts in self._counts.items():
            label, total = f'{self._label}="{value}"', 0
            for bound, count in zip((*map(_number, _BUCKETS), "+Inf"), counts, strict=True):
                total += count
                yield f'{name}_bucket{{{label},le="{bound}"}} {total}'
            yield f"{name}_sum{{{label}}} {_number(self._sums[value])}"
            yield f"{name}_count{{{label}}} {total}"


class Metrics:
    """What is counted while an engine works. One per engine; for the event loop's thread."""

    def __init__(self) -> None:
        self.containers = Histogram("action", _CONTAINER)
        self.networks = Histogram("action", _NETWORK)
        self.host = Histogram("function", _HOST)
        self.health_checks = 0
        self.health_checks_failed = 0


def timed(
    action: str,
) -> Callable[
    [Callable[Concatenate[Context, P], Coroutine[Any, Any, T]]],
    Callable[Concatenate[Context, P], Coroutine[Any, Any, T]],
]:
    """Observe each call of a function of a context that does not fail, as a container's `action`."""

    def wrap(
        work: Callable[Concatenate[Context, P], Coroutine[Any, Any, T]],
    ) -> Callable[Concatenate[Context, P], Coroutine[Any, Any, T]]:
        @functools.wraps(work)
        async def measured(context: Context, /, *arguments: P.args, **more: P.kwargs) -> T:
            with context.metrics.containers.timed(action):
                return await work(context, *arguments, **more)

        return measured

    return wrap


def text(engine: Engine) -> str:
    """Everything as it is now."""
    metrics, system, counts = engine.context.metrics, engine.system, engine.system.counts()
    about = {
        "architecture": system.host.architecture,
        "commit": "",
        "daemon_id": system.id,
        "graphdriver": system.settings.storage_driver,
        "kernel": system.host.kernel,
        "os": system.host.operating_system,
        "os_type": "linux",
        "os_version": system.host.os_version,
        "version": system.version,
    }
    states = {"paused": counts.paused, "running": counts.running, "stopped": counts.stopped}
    lines = [
        *_head("container_actions_seconds", "histogram",
               "The number of seconds it takes to process each container action"),
        *metrics.containers.lines("engine_daemon_container_actions_seconds"),
        *_head("container_states_containers", "gauge", "The count of containers in various states"),
        *(f'engine_daemon_container_states_containers{{state="{name}"}} {count}' for name, count in states.items()),
        *_one("engine_cpus_cpus", "gauge", "The number of cpus that the host system of the engine has", system.cpus()),
        *_head("engine_info", "gauge", "The information related to the engine and the OS it is running on"),
        f"engine_daemon_engine_info{{{_labels(about)}}} 1",
        *_one("engine_memory_bytes", "gauge", "The number of bytes of memory that the host system of the engine has",
              system.host.memory),
        *_one("events_subscribers_total", "gauge", "The number of current subscribers to events", system.listeners()),
        *_one("events_total", "counter", "The number of events logged", engine.events.published),
        *_one("health_checks_failed_total", "counter", "The total number of failed health checks",
              metrics.health_checks_failed),
        *_one("health_checks_total", "counter", "The total number of health checks", metrics.health_checks),
        *_head("host_info_functions_seconds", "histogram",
               "The number of seconds it takes to call functions gathering info about the host"),
        *metrics.host.lines("engine_daemon_host_info_functions_seconds"),
        *_head("network_actions_seconds", "histogram", "The number of seconds it takes to process each network action"),
        *metrics.networks.lines("engine_daemon_network_actions_seconds"),
        *_process(),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str, what: str, prefix: str = "engine_daemon_") -> list[str]:
    return [f"# HELP {prefix}{name} {what}", f"# TYPE {prefix}{name} {kind}"]


def _one(name: str, kind: str, what: str, value: float, prefix: str = "engine_daemon_") -> list[str]:
    return [*_head(name, kind, what, prefix), f"{prefix}{name} {_number(value)}"]


def _process() -> list[str]:
    """The daemon's own process, as Prometheus's libraries call it."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[19]) / tick
    figures = (
        ("cpu_seconds_total", "counter", "User and system CPU time spent in seconds.",
         (int(fields[11]) + int(fields[12])) / tick),
        ("max_fds", "gauge", "Maximum number of open file descriptors.",
         resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        ("open_fds", "gauge", "Number of open file descriptors.", len(os.listdir("/proc/self/fd"))),
        ("resident_memory_bytes", "gauge", "Resident memory size in bytes.", int(fields[21]) * page),
        ("start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", round(started, 2)),
        ("virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", int(fields[20])),
    )  # fmt: skip
    return [line for name, kind, what, value in figures for line in _one(name, kind, what, value, "process_")]


def _labels(values: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    """Without a fraction where there is none."""
    return str(int(value)) if value == int(value) else repr(value)
