"""The lifecycle table, restart rules and status texts."""

from __future__ import annotations

import pytest

from dockyard.model.container import RestartPolicy
from dockyard.model.errors import Conflict, NotModified, SystemFailure
from dockyard.model.lifecycle import (
    RESTART_FIRST,
    RESTART_LONGEST,
    RESTART_RESET,
    SECOND,
    TABLE,
    Desired,
    Event,
    State,
    Status,
    human_duration,
    next_state,
    restart_pause,
    should_restart,
    status_text,
)

ID = "abc123"
ASKED_BY_CLIENTS = set(Event) - {Event.EXIT, Event.AGAIN, Event.GIVE_UP}


def test_every_state_answers_everything_that_a_client_can_ask() -> None:
    for state in State:
        assert set(TABLE[state]) >= ASKED_BY_CLIENTS, state


@pytest.mark.parametrize(
    ("state", "event", "kind", "text"),
    [
        (State.RUNNING, Event.START, NotModified, "container web is already running"),
        (State.EXITED, Event.STOP, NotModified, "container web is already stopped"),
        (State.PAUSED, Event.START, Conflict, "cannot start a paused container, try unpause instead"),
        (State.EXITED, Event.KILL, Conflict, "cannot kill container: web: container abc123 is not running"),
        (State.EXITED, Event.EXEC, Conflict, "container abc123 is not running"),
        (State.PAUSED, Event.EXEC, Conflict, "container abc123 is paused, unpause the container before exec"),
        (State.RESTARTING, Event.EXEC, Conflict,
         "container abc123 is restarting, wait until the container is running"),
        (State.PAUSED, Event.PAUSE, Conflict, "container abc123 is already paused"),
        (State.RUNNING, Event.UNPAUSE, SystemFailure, "container abc123 is not paused"),
        (State.RUNNING, Event.REMOVE, Conflict,
         "You cannot remove a running container abc123. Stop the container before attempting removal or force remove"),
        (State.PAUSED, Event.REMOVE, Conflict,
         "You cannot remove a paused container abc123. Unpause and then stop the container before attempting removal or"
         " force remove"),
        (State.REMOVING, Event.REMOVE, Conflict, "removal of container web is already in progress"),
        (State.DEAD, Event.START, Conflict, "container is marked for removal and cannot be started"),
        (State.DEAD, Event.RESTART, Conflict, "container is marked for removal and cannot be started"),
    ],
)  # fmt: skip
def test_refusals_have_dockers_words(state: State, event: Event, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        next_state(state, event, id=ID, name="x", ref="web")
    assert str(caught.value) == text


def test_what_cannot_happen_is_our_bug() -> None:
    with pytest.raises(ValueError, match="EXIT"):
        next_state(State.CREATED, Event.EXIT)


@pytest.mark.parametrize(
    ("policy", "code", "count", "stopped", "again"),
    [
        (RestartPolicy("no"), 1, 0, False, False),
        (RestartPolicy("always"), 0, 99, False, True),
        (RestartPolicy("always"), 0, 0, True, False),
        (RestartPolicy("unless-stopped"), 0, 0, True, False),
        (RestartPolicy("on-failure"), 0, 0, False, False),
        (RestartPolicy("on-failure"), 1, 5, False, True),
        (RestartPolicy("on-failure", 2), 1, 1, False, True),
        (RestartPolicy("on-failure", 2), 1, 2, False, False),
    ],
)
def test_restart_policy(policy: RestartPolicy, code: int, count: int, stopped: bool, again: bool) -> None:
    status = Status(exit_code=code, restart_count=count)
    assert should_restart(policy, status, Desired(running=not stopped, stopped_by_user=stopped)) is again


def test_pauses_double_up_to_a_minute_and_begin_again_after_a_long_run() -> None:
    pause, pauses = 0, []
    for _ in range(12):
        pause = restart_pause(pause, SECOND)
        pauses.append(pause)
    assert pauses[:3] == [RESTART_FIRST, 2 * RESTART_FIRST, 4 * RESTART_FIRST]
    assert pauses[-1] == RESTART_LONGEST
    assert restart_pause(pause, RESTART_RESET) == RESTART_FIRST


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (61, "About a minute"),
        (180, "3 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (2 * 3600, "2 hours"),
        (47 * 3600, "47 hours"),
        (72 * 3600, "3 days"),
        (15 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_read_as_dockers(seconds: float, text: str) -> None:
    assert human_duration(int(seconds * SECOND)) == text


def test_status_texts() -> None:
    now = 1_000_000 * SECOND
    minutes, hours = now - 180 * SECOND, now - 7200 * SECOND
    assert status_text(Status(), now) == "Created"
    assert status_text(Status(state=State.RUNNING, started_at=minutes), now) == "Up 3 minutes"
    assert status_text(Status(state=State.PAUSED, started_at=minutes), now) == "Up 3 minutes (Paused)"
    assert status_text(Status(state=State.EXITED, exit_code=0, finished_at=hours), now) == "Exited (0) 2 hours ago"
    assert status_text(Status(state=State.RESTARTING, exit_code=1, finished_at=now), now) == (
        "Restarting (1) Less than a second ago"
    )
    assert status_text(Status(state=State.REMOVING), now) == "Removal In Progress"
    assert status_text(Status(state=State.DEAD), now) == "Dead"
