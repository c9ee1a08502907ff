"""Whether a container's program is healthy: the record of it and the rules, as Docker has them.

Owns: `Health` (what is known), what a configuration comes down to, what a probe's result changes, when the next probe
is due. Does not own: running probes, clocks (`engine.health`).

    start ──▶ starting ── exit code 0 ──▶ healthy ◀─── exit code 0 ───┐
                 │                           │                        │
                 └── `retries` failures in a row (those within the ───┴──▶ unhealthy
                     start period of a starting one do not count)
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

from dockyard.model.container import ContainerConfig, HealthConfig

SECOND: Final = 1_000_000_000

NONE, STARTING, HEALTHY, UNHEALTHY = "none", "starting", "healthy", "unhealthy"
STATUSES: Final = frozenset({NONE, STARTING, HEALTHY, UNHEALTHY})

INTERVAL: Final = 30 * SECOND
TIMEOUT: Final = 30 * SECOND
START_INTERVAL: Final = 5 * SECOND
RETRIES: Final = 3
KEPT: Final = 5  # results
OUTPUT_LIMIT: Final = 4096  # bytes of a probe's output
TIMED_OUT: Final = -1  # exit code of a probe that did not end in time, or could not be run
TEST_KINDS: Final = ("NONE", "CMD", "CMD-SHELL")


class Result(Struct):
    """One probe: when it ran (ns since the epoch), its exit code and what it wrote, stdout and stderr together."""

    start: int
    end: int
    exit_code: int
    output: str = ""


class Health(Struct):
    """What is known of a container that has a health check."""

    status: str = STARTING
    failing_streak: int = 0
    log: list[Result] = field(default_factory=list)  # the last `KEPT` results, oldest first


def command(config: ContainerConfig) -> list[str] | None:
    """The command of the check; None: this container has none (or `NONE` switches its image's off)."""
    health = config.healthcheck
    kind, *words = (health.test if health is not None else None) or ["NONE"]
    if kind == "CMD":
        return words
    if kind == "CMD-SHELL":
        return [*(config.shell or ["/bin/sh", "-c"]), *words]
    return None


def timeout(config: HealthConfig) -> int:
    """How long a probe may take, ns."""
    return config.timeout or TIMEOUT


def pause(config: HealthConfig, health: Health, up_for: int) -> int:
    """ns until the next probe of a container that has been up for `up_for` ns."""
    if health.status == STARTING and up_for < config.start_period:
        return config.start_interval or START_INTERVAL
    return config.interval or INTERVAL


def begin(health: Health | None) -> Health:
    """At a start: nothing is known; the results of earlier runs stay to be seen."""
    return Health(log=health.log if health is not None else [])


def apply(config: HealthConfig, health: Health, result: Result, started_at: int) -> bool:
    """Enter a result; whether the status changed."""
    before = health.status
    health.log = [*health.log, result][-KEPT:]
    if result.exit_code == 0:
        health.failing_streak = 0
        health.status = HEALTHY
    elif health.status != STARTING or result.start - started_at >= config.start_period:
        health.failing_streak += 1
        if health.failing_streak >= (config.retries or RETRIES):
            health.status = UNHEALTHY
    return health.status != before


def describe(health: Health | None) -> str:
    """As `--filter health=` names it."""
    return health.status if health is not None else NONE


def cut(output: bytes, truncated: bool) -> str:
    """A probe's output as it is kept: at most `OUTPUT_LIMIT` bytes, "..." behind what was cut."""
    text = output[:OUTPUT_LIMIT].decode("utf-8", "replace")
    return text + "..." if truncated or len(output) > OUTPUT_LIMIT else text
