"""Progress on a terminal: every step that runs has a line that changes, with the end of its output below.

Owns: what the picture looks like, when it is drawn anew. Does not own: the picture of the build (`trace`).
Importing rich costs 43 ms, half of a cached rebuild: the few escape sequences are written here (as in
`dockyard.edge.cli.progress`). What has scrolled off the screen cannot be changed, so the picture is kept as high as the
screen: finished steps move above it and stay.
"""

from __future__ import annotations

import os
import threading
import time

from dockyard.edge.cli.terminal import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dockyard.edge.cli.building.trace import Counter, Step, Trace

_PAUSE = 0.1  # seconds between two pictures
_OUTPUT = 6  # lines of output shown below a step that runs
_BLUE, _RED, _RESET = "\x1b[34m", "\x1b[31m", "\x1b[0m"


class Live:
    """Draws a trace until `close`. `change` says that there is something new; a thread draws."""

    def __init__(self, trace: Trace, fd: int = 2, clock: int | None = None) -> None:
        self.trace, self._fd = trace, fd
        self._begun = clock or time.time_ns()
        self._height = 0  # lines of the picture that may still change
        self._settled: set[str] = set()  # steps that are written for good
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The last picture stays."""
        self._done.set()
        self._thread.join()
        self.draw(last=True)

    def _run(self) -> None:
        while not self._done.wait(_PAUSE):
            self.draw()

    def draw(self, last: bool = False) -> None:
        """One picture, written at once so that it does not flicker."""
        with self._lock:
            rows, columns = size(self._fd)
            fixed, moving = picture(
                list(self.trace.steps.values()), self._settled, time.time_ns(), (rows or 24) - 2, columns or 80, last
            )
            head = title(list(self.trace.steps.values()), self._begun, time.time_ns(), last)
            lines = [*fixed, *([head] if not last else []), *moving, *([head] if last else [])]
            up = f"\x1b[{self._height}A\r" if self._height else ""
            _write(self._fd, up + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
            self._height = 0 if last else len(lines) - len(fixed)


def title(steps: list[Step], begun: int, now: int, last: bool) -> str:
    """`[+] Building 1.2s (3/5)`."""
    over = sum(step.over for step in steps)
    failed = any(step.error for step in steps)
    word = "" if not last else " ERROR" if failed else " FINISHED"
    return f"[+] Building {(now - begun) / 1e9:.1f}s ({over}/{len(steps)}){word}"


def picture(
    steps: list[Step], settled: set[str], now: int, height: int, columns: int, last: bool
) -> tuple[list[str], list[str]]:
    """(lines for good, lines that may change). Steps that are over and written for good are added to `settled`.

    Only a step with nothing unfinished before it settles, so that steps stay in their order.
    """
    fixed: list[str] = []
    moving: list[str] = []
    in_order = True
    for step in steps:
        if step.id in settled:
            continue
        if not step.over:
            in_order = False
        if not step.started and not step.over:
            continue
        if in_order or last:
            settled.add(step.id)
            fixed.append(line(step, now, columns))
            continue
        moving.append(line(step, now, columns))
        if not step.over:
            moving += [_fit(f" => => {_counter(each)}", columns) for each in step.counters.values() if not each.done]
            moving += [_fit(f" => => # {text}", columns) for text in step.tail[-_OUTPUT:]]
    return fixed, moving[-height:] if len(moving) > height else moving


def line(step: Step, now: int, columns: int) -> str:
    """` => CACHED [2/3] RUN make            0.3s`, blue when it went well, red when not."""
    seconds = f"{step.seconds(now):.1f}s"
    state = "CACHED " if step.cached else ("CANCELED " if "canceled" in step.error else "ERROR ") if step.error else ""
    room = columns - len(seconds) - 2
    text = _clean(f" => {state}{step.name}")
    text = text if len(text) <= room else text[: max(room - 3, 0)] + "..."
    colour = _RED if step.error else _BLUE if step.over else ""
    return f"{colour}{text:<{room}} {seconds}{_RESET if colour else ''}"


def _counter(counter: Counter) -> str:
    from dockyard.proto.units import human_size

    total = f" / {human_size(counter.total)}" if counter.total else ""
    return f"{counter.name} {human_size(counter.current)}{total}"


def _fit(text: str, columns: int) -> str:
    return _clean(text)[: columns - 1]


def _clean(text: str) -> str:
    """One line, without what would move the cursor."""
    return "".join(each if each.isprintable() else " " for each in text)


def _write(fd: int, text: str) -> None:
    view = memoryview(text.encode("utf-8", "replace"))
    while view:
        view = view[os.write(fd, view) :]
