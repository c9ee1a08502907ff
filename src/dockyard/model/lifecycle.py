"""What a container is at the moment, what may happen to it next, and how that is told to a person.

Owns: the states, the table states × events with Docker's texts for what is refused, `Status` (the record that the
store keeps of what *is*), restart rules and status texts. Does not own: carrying anything out, clocks, what a
container should be (`model.container`), the rules of health checks (`model.health`).

        create            start                       exit
    ──────────▶ created ────────▶ running ───────────────────▶ exited ──▶ (remove) removing ──▶ gone
                                  │    ▲      exit, policy says again ▲            │
                             pause▼    │unpause            ┌──────────┘            ▼ content could not be removed
                                  paused          restarting ──start──▶ running   dead
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Final

from msgspec import Struct, field

from dockyard.model.container import EndpointSettings, PortBinding, RestartPolicy
from dockyard.model.errors import Conflict, DockyardError, NotModified, SystemFailure
from dockyard.model.health import STARTING, UNHEALTHY, Health

SECOND = 1_000_000_000

RESTART_FIRST = SECOND // 10  # ns; the first pause before a restart, doubled each time
RESTART_LONGEST = 60 * SECOND  # ns
RESTART_RESET = 10 * SECOND  # ns of running after which the pause is short again


class State(Enum):
    """As `State.Status` of `inspect` and `--filter status=` spell it."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


class Event(Enum):
    """What clients ask of a container, and what happens to it by itself (EXIT, GIVE_UP)."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    KILL = "kill"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    EXEC = "exec"
    ATTACH = "attach"
    RESIZE = "resize"
    TOP = "top"
    REMOVE = "remove"
    FORCE_REMOVE = "force-remove"
    EXIT = "exit"
    AGAIN = "again"  # ended, and the restart policy wants it back
    GIVE_UP = "give-up"  # a removal that could not be finished


class Refusal:
    """Why an event is refused in a state: an error kind and Docker's text ({id}, {name}, {ref}, {event})."""

    __slots__ = ("kind", "text")

    def __init__(self, kind: type[DockyardError], text: str) -> None:
        self.kind = kind
        self.text = text


_NOT_RUNNING = Refusal(Conflict, "container {id} is not running")
_NOT_PAUSED = Refusal(SystemFailure, "container {id} is not paused")  # 500 in Docker too, unlike its neighbours
_RESTARTING = Refusal(Conflict, "container {id} is restarting, wait until the container is running")
_CANNOT_KILL = Refusal(Conflict, "cannot kill container: {ref}: container {id} is not running")
_MARKED = Refusal(Conflict, "container is marked for removal and cannot be {event}ed")
_IN_PROGRESS = Refusal(Conflict, "removal of container {ref} is already in progress")
_ALREADY_RUNNING = Refusal(NotModified, "container {ref} is already running")
_ALREADY_STOPPED = Refusal(NotModified, "container {ref} is already stopped")
# As Docker said until 24. It has what clients look for in the newer text ("stop the container before"), too.
_CANNOT_REMOVE = "You cannot remove a "
_STOP_FIRST = " container {id}. Stop the container before attempting removal or force remove"
_UNPAUSE_FIRST = " container {id}. Unpause and then stop the container before attempting removal or force remove"

_S, _E = State, Event
_OF_STOPPED: Final[dict[Event, State | Refusal]] = {
    _E.START: _S.RUNNING,
    _E.STOP: _ALREADY_STOPPED,
    _E.RESTART: _S.RUNNING,
    _E.KILL: _CANNOT_KILL,
    _E.PAUSE: _NOT_RUNNING,
    _E.UNPAUSE: _NOT_PAUSED,
    _E.EXEC: _NOT_RUNNING,
    _E.RESIZE: _NOT_RUNNING,
    _E.TOP: _NOT_RUNNING,
    _E.REMOVE: _S.REMOVING,
    _E.FORCE_REMOVE: _S.REMOVING,
}

# What each state answers to each event: the state that follows, or why not.
TABLE: Final[dict[State, dict[Event, State | Refusal]]] = {
    _S.CREATED: {**_OF_STOPPED, _E.ATTACH: _S.CREATED},
    _S.EXITED: {**_OF_STOPPED, _E.ATTACH: _S.EXITED, _E.AGAIN: _S.RESTARTING, _E.EXIT: _S.EXITED},
    _S.RUNNING: {
        _E.START: _ALREADY_RUNNING,
        _E.STOP: _S.RUNNING,
        _E.RESTART: _S.RUNNING,
        _E.KILL: _S.RUNNING,
        _E.PAUSE: _S.PAUSED,
        _E.UNPAUSE: _NOT_PAUSED,
        _E.EXEC: _S.RUNNING,
        _E.ATTACH: _S.RUNNING,
        _E.RESIZE: _S.RUNNING,
        _E.TOP: _S.RUNNING,
        _E.REMOVE: Refusal(Conflict, _CANNOT_REMOVE + "running" + _STOP_FIRST),
        _E.FORCE_REMOVE: _S.RUNNING,
        _E.EXIT: _S.EXITED,
        _E.AGAIN: _S.RESTARTING,
    },
    _S.PAUSED: {
        _E.START: Refusal(Conflict, "cannot start a paused container, try unpause instead"),
        _E.STOP: _S.PAUSED,
        _E.RESTART: _S.PAUSED,
        _E.KILL: _S.PAUSED,
        _E.PAUSE: Refusal(Conflict, "container {id} is already paused"),
        _E.UNPAUSE: _S.RUNNING,
        _E.EXEC: Refusal(Conflict, "container {id} is paused, unpause the container before exec"),
        _E.ATTACH: Refusal(Conflict, "container {id} is paused, unpause the container before attach"),
        _E.RESIZE: _S.PAUSED,
        _E.TOP: _S.PAUSED,
        _E.REMOVE: Refusal(Conflict, _CANNOT_REMOVE + "paused" + _UNPAUSE_FIRST),
        _E.FORCE_REMOVE: _S.PAUSED,
        _E.EXIT: _S.EXITED,
        _E.AGAIN: _S.RESTARTING,
    },
    _S.RESTARTING: {
        _E.START: _S.RUNNING,
        _E.STOP: _S.EXITED,
        _E.RESTART: _S.RUNNING,
        _E.KILL: _S.EXITED,
        _E.PAUSE: _RESTARTING,
        _E.UNPAUSE: _NOT_PAUSED,
        _E.EXEC: _RESTARTING,
        _E.ATTACH: _RESTARTING,
        _E.RESIZE: _RESTARTING,
        _E.TOP: _RESTARTING,
        _E.REMOVE: Refusal(Conflict, _CANNOT_REMOVE + "restarting" + _STOP_FIRST),
        _E.FORCE_REMOVE: _S.REMOVING,
        _E.EXIT: _S.EXITED,
    },
    _S.REMOVING: {
        **_OF_STOPPED,
        _E.START: _MARKED,
        _E.RESTART: _MARKED,
        _E.ATTACH: Refusal(Conflict, "container is marked for removal and cannot be attached to"),
        _E.REMOVE: _IN_PROGRESS,
        _E.FORCE_REMOVE: _IN_PROGRESS,
        _E.GIVE_UP: _S.DEAD,
    },
    _S.DEAD: {
        **_OF_STOPPED,
        _E.START: _MARKED,
        _E.RESTART: _MARKED,
        _E.ATTACH: Refusal(Conflict, "container is marked for removal and cannot be attached to"),
    },
}


def next_state(state: State, event: Event, *, id: str = "", name: str = "", ref: str = "") -> State:
    """The state after `event`. Raises what the table says (Conflict, NotModified) with the names filled in.

    `ref` is how the client called the container. An event that cannot happen in a state is a ValueError: our bug.
    """
    outcome = TABLE[state].get(event)
    if outcome is None:
        raise ValueError(f"{event} in {state}")
    if isinstance(outcome, State):
        return outcome
    verb = "start" if event is Event.RESTART else event.value
    raise outcome.kind(outcome.text.format(id=id, name=name, ref=ref or id, event=verb))


class Status(Struct):
    """What a container is: written by the engine as things happen, never by a client. Times in ns, 0: never."""

    state: State = State.CREATED
    pid: int = 0  # of its first process in the host's pid namespace; 0: none
    start_time: int = 0  # of that process, in clock ticks since boot: with `pid`, its identity
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: int = 0
    finished_at: int = 0
    restart_count: int = 0  # exits since a client last started it that the policy made good, or is about to
    endpoints: dict[str, EndpointSettings] = field(default_factory=dict)  # by network name, while it runs
    ports: dict[str, list[PortBinding] | None] = field(default_factory=dict)  # "80/tcp" -> where it is published
    health: Health | None = None  # of the run that is, or of the last one; None: it has no health check

    @property
    def running(self) -> bool:
        """Whether it has a process (a paused one has)."""
        return self.state in (State.RUNNING, State.PAUSED)

    @property
    def active(self) -> bool:
        """As Docker's State.Running: it has a process, or will have one again by its policy."""
        return self.state in (State.RUNNING, State.PAUSED, State.RESTARTING)


class Desired(Struct):
    """What a container should be: written when a client asks, read by restart rules and at daemon start."""

    running: bool = False
    stopped_by_user: bool = False  # so that unless-stopped stays down after a daemon restart


def should_restart(policy: RestartPolicy, status: Status, desired: Desired) -> bool:
    """Whether a container that has just ended is to be started again. `status` as it is at its end: with the health
    that it had then."""
    if desired.stopped_by_user or not desired.running:
        return False
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.maximum_retry_count and status.restart_count >= policy.maximum_retry_count:
        return False
    if policy.on_unhealthy and is_unhealthy(status):
        return True
    return policy.name == "on-failure" and status.exit_code != 0


def should_replace(policy: RestartPolicy, status: Status, desired: Desired) -> bool:
    """Whether a container that runs is to be ended because it is unhealthy, so that it is started again."""
    if not policy.on_unhealthy or status.state is not State.RUNNING or not is_unhealthy(status):
        return False
    return should_restart(policy, status, desired)


def is_unhealthy(status: Status) -> bool:
    return status.health is not None and status.health.status == UNHEALTHY


def should_start(policy: RestartPolicy, status: Status, desired: Desired) -> bool:
    """Whether a container that does not run is to be started when the daemon starts.

    As in Docker: `always` also when a client had stopped it, `unless-stopped` and `on-failure` not; never one that has
    never run. One that was about to be started again is."""
    if not status.started_at or status.state in (State.REMOVING, State.DEAD):
        return False
    if policy.name == "always" or status.state is State.RESTARTING:
        return True
    if desired.stopped_by_user:
        return False
    if policy.name == "unless-stopped":
        return True
    tried_enough = 0 < policy.maximum_retry_count <= status.restart_count
    return policy.name == "on-failure" and desired.running and status.exit_code != 0 and not tried_enough


def start_order(wanted: Collection[str], needs: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
    """For each of the containers (ids) to be started, those of them that come before it.

    `needs`: whose namespaces or volumes a container uses. Of a circle of needs, which no order satisfies, the one that
    comes first in `wanted` does not wait.
    """
    before: dict[str, set[str]] = {id_: set() for id_ in wanted}
    for id_ in wanted:
        for need in needs.get(id_, ()):
            if need in before and need != id_ and not _reaches(before, need, id_):
                before[id_].add(need)
    return before


def _reaches(before: Mapping[str, set[str]], start: str, goal: str) -> bool:
    """Whether `goal` comes, directly or not, before `start`."""
    seen, left = {start}, [start]
    while left:
        for id_ in before[left.pop()]:
            if id_ == goal:
                return True
            if id_ not in seen:
                seen.add(id_)
                left.append(id_)
    return False


def restart_pause(last_pause: int, ran_for: int) -> int:
    """How long to wait (ns) before the next restart, after a pause of `last_pause` (0: none) and `ran_for` ns up."""
    if not last_pause or ran_for >= RESTART_RESET:
        return RESTART_FIRST
    return min(last_pause * 2, RESTART_LONGEST)


def human_duration(ns: int) -> str:
    """A duration as Docker tells it: "Less than a second", "3 minutes", "About an hour"."""
    seconds = max(ns, 0) // SECOND
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = (seconds + 1800) // 3600
    if hours == 1:
        return "About an hour"
    for limit, size, unit in ((48, 1, "hours"), (336, 24, "days"), (1440, 168, "weeks"), (17520, 720, "months")):
        if hours < limit:
            return f"{hours // size} {unit}"
    return f"{seconds // 3600 // 8760} years"


def status_text(status: Status, now: int) -> str:
    """The STATUS column of `ps`: "Up 3 minutes", "Exited (0) 2 hours ago", "Created". `now`: wall clock, ns."""
    state = status.state
    if state is State.RUNNING:
        return f"Up {human_duration(now - status.started_at)}{_health_text(status.health)}"
    if state is State.PAUSED:
        return f"Up {human_duration(now - status.started_at)} (Paused)"
    if state is State.RESTARTING:
        return f"Restarting ({status.exit_code}) {human_duration(now - status.finished_at)} ago"
    if state is State.REMOVING:
        return "Removal In Progress"
    if state is State.DEAD:
        return "Dead"
    if state is State.CREATED:
        return "Created"
    return f"Exited ({status.exit_code}) {human_duration(now - status.finished_at)} ago"


def _health_text(health: Health | None) -> str:
    if health is None:
        return ""
    return " (health: starting)" if health.status == STARTING else f" ({health.status})"
