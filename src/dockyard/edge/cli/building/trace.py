"""What a build has told so far: the client's picture of its steps.

Owns: reading the daemon's trace (version 2 of `POST /build`, docs/build.md) into steps with times, logs and progress.
Does not own: how it is shown (`plain`, `live`), where the messages come from. Pure: times come with the messages.
"""

from __future__ import annotations

from binascii import a2b_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KEPT = 100  # lines of a step's output that are shown again when it fails
_SECOND = 1_000_000_000


class Counter:
    """Something of a step that is counted: bytes of a layer, files of a context."""

    __slots__ = ("current", "done", "name", "total")

    def __init__(self, name: str) -> None:
        self.name = name
        self.current = 0
        self.total = 0
        self.done = False


class Step:
    """One vertex of the build. Times are wall-clock ns; 0 = not yet."""

    def __init__(self, identifier: str, number: int) -> None:
        self.id = identifier
        self.number = number  # in the order in which steps were first heard of
        self.name = identifier
        self.started = 0
        self.completed = 0
        self.lines = (0, 0)  # of the Dockerfile, first and last; 0: of none
        self.cached = False
        self.error = ""
        self.counters: dict[str, Counter] = {}
        self.tail: list[str] = []  # the last complete lines of its output
        self._rest = b""  # an output line's beginning

    @property
    def over(self) -> bool:
        return bool(self.completed or self.cached or self.error)

    @property
    def internal(self) -> bool:
        return self.name.startswith("[internal] ")

    def seconds(self, now: int) -> float:
        """How long it has taken, or took."""
        return max(0, (self.completed or now) - self.started) / _SECOND if self.started else 0.0

    def feed(self, data: bytes) -> list[str]:
        """Output → the lines that are complete now. What a carriage return overwrites is left out."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return self._keep(lines)

    def flush(self) -> list[str]:
        """The line that has no end, when nothing more comes."""
        rest, self._rest = self._rest, b""
        return self._keep([rest] if rest else [])

    def _keep(self, lines: list[bytes]) -> list[str]:
        texts = [line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace") for line in lines]
        self.tail = (self.tail + texts)[-_KEPT:]
        return texts


class Change:
    """What one message brought: steps whose head changed, lines of output, counters, warnings."""

    __slots__ = ("counters", "lines", "steps", "warnings")

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.lines: list[tuple[Step, float, str]] = []  # step, seconds since it began, text
        self.counters: list[tuple[Step, Counter]] = []
        self.warnings: list[dict[str, Any]] = []


class Trace:
    """All steps of a build. `feed` takes one trace document (the form of buildx's `rawjson`)."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.warnings: list[dict[str, Any]] = []

    def feed(self, document: dict[str, Any]) -> Change:
        change = Change()
        for vertex in document.get("vertexes") or ():
            change.steps.append(self._vertex(vertex))
        for status in document.get("statuses") or ():
            change.counters.append(self._status(status))
        for log in document.get("logs") or ():
            step = self._step(log["vertex"])
            at = (_time(log.get("timestamp")) - step.started) / _SECOND if step.started else 0.0
            change.lines += [(step, max(at, 0.0), line) for line in step.feed(a2b_base64(log["data"]))]
        for step in change.steps:
            if step.over:
                took = step.seconds(step.completed)
                change.lines += [(step, took, line) for line in step.flush()]
        change.warnings = list(document.get("warnings") or ())
        self.warnings += change.warnings
        return change

    @property
    def failed(self) -> Step | None:
        """The step that the build failed at: the first one that did not merely stop because of another."""
        wrong = [step for step in self.steps.values() if step.error]
        return next((step for step in wrong if "canceled" not in step.error), None)

    def _step(self, identifier: str) -> Step:
        if identifier not in self.steps:
            self.steps[identifier] = Step(identifier, len(self.steps) + 1)
        return self.steps[identifier]

    def _vertex(self, vertex: dict[str, Any]) -> Step:
        step = self._step(vertex["digest"])
        step.name = vertex.get("name") or step.name
        step.started = _time(vertex.get("started")) or step.started
        step.completed = _time(vertex.get("completed")) or step.completed
        if vertex.get("line"):
            step.lines = (int(vertex["line"]), int(vertex.get("lastLine") or vertex["line"]))
        step.cached = bool(vertex.get("cached")) or step.cached
        step.error = vertex.get("error") or step.error
        return step

    def _status(self, status: dict[str, Any]) -> tuple[Step, Counter]:
        step, name = self._step(status["vertex"]), str(status.get("name") or status["id"])
        counter = step.counters.setdefault(str(status["id"]), Counter(name))
        counter.current, counter.total = int(status.get("current") or 0), int(status.get("total") or 0)
        counter.done = bool(status.get("completed"))
        return step, counter


def _time(moment: str | int | None) -> int:
    """`2026-01-01T00:00:00.5Z`, or ns already. Written here because the modules that know time zones take 10 ms to
    import, and the daemon's times are UTC."""
    if not isinstance(moment, str):
        return moment or 0
    day, _, clock = moment.rstrip("Z").partition("T")
    seconds, _, fraction = clock.partition(".")
    year, month, date = map(int, day.split("-"))
    hours, minutes, rest = map(int, seconds.split(":"))
    before = year - (month <= 2)  # the year begins in March, so that the leap day is its last
    days = (
        before * 365 + before // 4 - before // 100 + before // 400 + (153 * ((month + 9) % 12) + 2) // 5 + date - 719469
    )
    return ((days * 24 + hours) * 60 + minutes) * 60 * _SECOND + rest * _SECOND + int(fraction[:9].ljust(9, "0") or 0)
