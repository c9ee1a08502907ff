"""The rules of health checks."""

from __future__ import annotations

import pytest

from dockyard.model import health
from dockyard.model.container import ContainerConfig, HealthConfig, RestartPolicy
from dockyard.model.health import HEALTHY, SECOND, STARTING, UNHEALTHY, Health, Result
from dockyard.model.lifecycle import (
    Desired,
    State,
    Status,
    should_replace,
    should_restart,
    should_start,
    start_order,
    status_text,
)


@pytest.mark.parametrize(
    ("config", "command"),
    [
        (ContainerConfig(), None),
        (ContainerConfig(healthcheck=HealthConfig()), None),
        (ContainerConfig(healthcheck=HealthConfig(test=[])), None),
        (ContainerConfig(healthcheck=HealthConfig(test=["NONE"])), None),
        (ContainerConfig(healthcheck=HealthConfig(test=["CMD", "a", "b c"])), ["a", "b c"]),
        (ContainerConfig(healthcheck=HealthConfig(test=["CMD-SHELL", "a | b"])), ["/bin/sh", "-c", "a | b"]),
        (ContainerConfig(healthcheck=HealthConfig(test=["CMD-SHELL", "a"]), shell=["ash", "-ec"]), ["ash", "-ec", "a"]),
    ],
)
def test_command(config: ContainerConfig, command: list[str] | None) -> None:
    assert health.command(config) == command


def enter(config: HealthConfig, known: Health, *codes: int, at: int = 0) -> list[str]:
    """The statuses that these exit codes lead through; `at`: when the probes began, ns since the start."""
    statuses = []
    for code in codes:
        health.apply(config, known, Result(at, at + 1, code), 0)
        statuses.append(known.status)
    return statuses


def test_unhealthy_after_so_many_failures_in_a_row() -> None:
    known = Health()
    assert enter(HealthConfig(), known, 1, 1, 0, 1, 1, 1, 0) == [
        STARTING, STARTING, HEALTHY, HEALTHY, HEALTHY, UNHEALTHY, HEALTHY,
    ]  # fmt: skip
    assert known.failing_streak == 0
    assert enter(HealthConfig(retries=1), known, -1) == [UNHEALTHY]


def test_failures_within_the_start_period_do_not_count() -> None:
    config, known = HealthConfig(retries=1, start_period=10 * SECOND), Health()
    assert enter(config, known, 1, 1, at=9 * SECOND) == [STARTING, STARTING]
    assert known.failing_streak == 0
    assert enter(config, known, 1, at=10 * SECOND) == [UNHEALTHY]
    known = Health()
    assert enter(config, known, 0, 1, at=SECOND) == [HEALTHY, UNHEALTHY]  # it has been healthy: it has started


def test_apply_tells_of_changes_only() -> None:
    known = Health()
    assert [health.apply(HealthConfig(), known, Result(0, 1, 0), 0) for _ in range(2)] == [True, False]


def test_the_last_five_results_are_kept() -> None:
    known = Health()
    enter(HealthConfig(), known, *range(8))
    assert [result.exit_code for result in known.log] == [3, 4, 5, 6, 7]
    again = health.begin(known)
    assert (again.status, again.failing_streak, len(again.log)) == (STARTING, 0, 5)


def test_pauses() -> None:
    config = HealthConfig(start_period=20 * SECOND)
    assert health.pause(config, Health(), 0) == 5 * SECOND
    assert health.pause(config, Health(status=HEALTHY), 0) == 30 * SECOND
    assert health.pause(config, Health(), 20 * SECOND) == 30 * SECOND
    given = HealthConfig(interval=7, start_interval=3, start_period=100)
    assert (health.pause(given, Health(), 99), health.pause(given, Health(), 100)) == (3, 7)


def test_output_is_cut() -> None:
    assert health.cut(b"x" * 4096, False) == "x" * 4096
    assert health.cut(b"x" * 4096, True) == "x" * 4096 + "..."
    assert health.cut(b"ok\xff", False) == "ok\ufffd"


def test_status_texts() -> None:
    status = Status(state=State.RUNNING, started_at=1, health=Health())
    assert status_text(status, 5 * SECOND) == "Up 4 seconds (health: starting)"
    status.health = Health(status=UNHEALTHY)
    assert status_text(status, 5 * SECOND) == "Up 4 seconds (unhealthy)"
    status.state = State.PAUSED
    assert status_text(status, 5 * SECOND) == "Up 4 seconds (Paused)"


SICK = Health(status=UNHEALTHY)
UP = Desired(running=True)


def test_unhealthy_ones_are_replaced_if_their_policy_says_so() -> None:
    running = Status(state=State.RUNNING, health=SICK)
    assert should_replace(RestartPolicy("no", 0, True), running, UP)
    assert should_replace(RestartPolicy("always", 0, True), running, UP)
    assert not should_replace(RestartPolicy("always"), running, UP)
    assert not should_replace(RestartPolicy("no", 0, True), Status(state=State.PAUSED, health=SICK), UP)
    assert not should_replace(RestartPolicy("no", 0, True), Status(state=State.RUNNING, health=Health()), UP)
    assert not should_replace(RestartPolicy("no", 0, True), running, Desired(stopped_by_user=True))
    tried = Status(state=State.RUNNING, health=SICK, restart_count=3)
    assert not should_replace(RestartPolicy("on-failure", 3, True), tried, UP)


def test_one_that_ended_unhealthy_is_started_again() -> None:
    assert should_restart(RestartPolicy("no", 0, True), Status(exit_code=0, health=SICK), UP)
    assert not should_restart(RestartPolicy("no", 0, True), Status(exit_code=1, health=Health(status=HEALTHY)), UP)
    assert not should_restart(RestartPolicy("no"), Status(exit_code=1, health=SICK), UP)


@pytest.mark.parametrize(
    ("policy", "status", "desired", "expected"),
    [
        ("always", Status(state=State.EXITED, started_at=1), Desired(stopped_by_user=True), True),
        ("always", Status(state=State.CREATED), UP, False),
        ("unless-stopped", Status(state=State.EXITED, started_at=1), Desired(), True),
        ("unless-stopped", Status(state=State.EXITED, started_at=1), Desired(stopped_by_user=True), False),
        ("on-failure", Status(state=State.EXITED, started_at=1, exit_code=255), UP, True),
        ("on-failure", Status(state=State.EXITED, started_at=1, exit_code=0), UP, False),
        ("on-failure", Status(state=State.EXITED, started_at=1, exit_code=1, restart_count=3), UP, False),
        ("on-failure", Status(state=State.RESTARTING, started_at=1, exit_code=1, restart_count=2), UP, True),
        ("no", Status(state=State.EXITED, started_at=1, exit_code=255), UP, False),
        ("no", Status(state=State.EXITED, started_at=1, exit_code=0, health=SICK), UP, False),
        ("always", Status(state=State.REMOVING, started_at=1), UP, False),
    ],
)
def test_who_is_started_with_the_daemon(policy: str, status: Status, desired: Desired, expected: bool) -> None:
    assert should_start(RestartPolicy(policy, 3, policy == "no"), status, desired) is expected


def test_start_order() -> None:
    needs = {"app": ["net", "gone"], "side": ["app", "net"], "net": ()}
    assert start_order(["side", "app", "net"], needs) == {"side": {"app", "net"}, "app": {"net"}, "net": set()}
    assert start_order(["a", "b", "c"], {"a": ["b"], "b": ["c"], "c": ["a"]}) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert start_order(["a"], {"a": ["a"]}) == {"a": set()}
