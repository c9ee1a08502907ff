"""Progress as lines that never change, as BuildKit's plain mode writes them.

Owns: numbering and the layout of lines. Does not own: the picture of the build (`trace`), writing.

One step has the floor at a time: when another says something, `#5 ...` tells that step 5 goes on, and its name is
repeated when it speaks again.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dockyard.edge.cli.building.trace import Change, Counter, Step


_AROUND = 2  # lines of a Dockerfile shown before and after those that are meant


class Plain:
    """Changes → text. Steps are numbered in the order in which they are first shown."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._floor: Step | None = None  # whose lines stand last
        self._told: set[str] = set()  # steps whose end has been told

    def show(self, change: Change) -> str:
        out: list[str] = []
        for step in change.steps:
            if step.started and not step.over:
                self._speak(step, [], out)
        for step, counter in change.counters:
            if counter.done or not counter.total:
                self._speak(step, [_counted(counter)], out)
        for step, at, line in change.lines:
            self._speak(step, [f"{at:.3f} {line}".rstrip()], out)
        for step in change.steps:
            if step.over and step.id not in self._told:
                self._told.add(step.id)
                self._speak(step, [_end(step)], out)
                out.append("")
                self._floor = None
        return "".join(f"{line}\n" for line in out)

    def _speak(self, step: Step, lines: list[str], out: list[str]) -> None:
        number = self._numbers.setdefault(step.id, len(self._numbers) + 1)
        if self._floor is not step:
            if self._floor is not None:
                out += [f"#{self._numbers[self._floor.id]} ...", ""]
            out.append(f"#{number} {step.name}")
            self._floor = step
        out += [f"#{number} {line}" for line in lines]


def _end(step: Step) -> str:
    if step.error:
        return "CANCELED" if "canceled" in step.error else f"ERROR: {step.error}"
    return "CACHED" if step.cached else f"DONE {step.seconds(step.completed):.1f}s"


def _counted(counter: Counter) -> str:
    from dockyard.proto.units import human_size

    amount = human_size(counter.current) if counter.current else ""
    if counter.total:
        amount += f" / {human_size(counter.total)}"
    return " ".join(part for part in (counter.name, amount, "done" if counter.done else "") if part)


def failure(step: Step | None, message: str, excerpt: str) -> str:
    """What stands at the end of a build that failed: the last output of its step, the lines of the Dockerfile."""
    lines = []
    if step is not None:
        lines += ["------", f" > {step.name}:", *step.tail[-20:], "------"]
    if excerpt:
        lines += [excerpt.rstrip("\n")]
    return "\n".join([*lines, f"ERROR: failed to build: {message}"])


def excerpt(name: str, text: bytes, first: int, last: int) -> str:
    """Lines of a Dockerfile with those marked that something is about; "" where there are no such lines."""
    lines = text.decode("utf-8", "replace").splitlines()
    if not 0 < first <= len(lines):
        return ""
    rule = "-" * 20
    out = [f"{name}:{first}", rule]
    for number in range(max(first - _AROUND, 1), min(last + _AROUND, len(lines)) + 1):
        mark = ">>>" if first <= number <= last else "   "
        out.append(f"{number:>4} | {mark} {lines[number - 1]}".rstrip())
    return "\n".join([*out, rule, ""])


def warnings(found: list[dict[str, Any]]) -> str:
    """Warnings of the build checks, behind everything else."""
    if not found:
        return ""
    lines = [f"\n {len(found)} warning{'s' if len(found) != 1 else ''} found:"]
    for each in found:
        where = f" (line {each['line']})" if each.get("line") else ""
        lines.append(f" - {each.get('rule') or 'Warning'}: {each['text']}{where}")
    return "\n".join(lines) + "\n"
