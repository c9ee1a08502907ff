"""What a container is at the moment, what may happen to it next, and how that is told to a person.

Owns: the states, the table states × events with Docker's texts for what is refused, `Status` (the record that the
store keeps of what *is*), restart rules and status texts. Does not own: carrying anything out, clocks, what a
container should be (`model.container`).

        create            start                       exit
    ──────────▶ created ────────▶ running ───────────────────▶ exited ──▶ (remove) removing ──▶ gone
                                  │    ▲      exit, policy says again ▲            │
                             pause▼    │unpause            ┌──────────┘            ▼ content could not be removed
                                  paused          restarting ──start──▶ running   dead
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct, field

from dockyard.model.container import EndpointSettings, PortBinding, RestartPolicy
from dockyard.model.errors import Conflict, DockyardError, NotModified, SystemFailure

SECOND = 1_000_000_000

MONITOR_LOST = "monitor lost"  # ExitRecord.error, with code 137, when the container's helper died
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
_CANNOT_REMOVE = 'cannot remove container "/{name}": container is '
_STOP_FIRST = "stop the container before removing or force remove"

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
        _E.REMOVE: Refusal(Conflict, _CANNOT_REMOVE + "running: " + _STOP_FIRST),
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
        _E.REMOVE: Refusal(Conflict, _CANNOT_REMOVE + "paused and must be unpaused first"),
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
        _E.REMOVE: Refusal(Conflict, _CANNOT_REMOVE + "restarting: " + _STOP_FIRST),
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
    restart_count: int = 0  # by the policy, since a client last started it
    endpoints: dict[str, EndpointSettings] = field(default_factory=dict)  # by network name, while it runs
    ports: dict[str, list[PortBinding] | None] = field(default_factory=dict)  # "80/tcp" -> where it is published

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
    """Whether a container that has just ended is to be started again."""
    if desired.stopped_by_user or not desired.running:
        return False
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name != "on-failure" or status.exit_code == 0:
        return False
    return not policy.maximum_retry_count or status.restart_count < policy.maximum_retry_count


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
        return f"Up {human_duration(now - status.started_at)}"
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
