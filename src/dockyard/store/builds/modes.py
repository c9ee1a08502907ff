"""`--chmod`: octal ("0644") or symbolic ("u=rwX,go-w").

Owns: reading it, and what it makes of a mode. Pure. Does not own: calling chmod(2). Source: chmod(1), POSIX "chmod";
BuildKit takes the same two forms.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from dockyard.model.errors import InvalidArgument

_CLAUSE: Final = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)\Z")
_ACTION: Final = re.compile(r"([-+=])([rwxXst]*|[ugo])")
_SHIFT: Final = {"u": 6, "g": 3, "o": 0}


class _Step(NamedTuple):
    who: str
    operator: str
    what: str


class Change:
    """One --chmod."""

    def __init__(self, fixed: int | None, steps: tuple[_Step, ...] = ()) -> None:
        self._fixed = fixed
        self._steps = steps

    def apply(self, mode: int, *, directory: bool) -> int:
        """The mode (07777) that a file of `mode` gets."""
        if self._fixed is not None:
            return self._fixed
        for step in self._steps:
            mode = _applied(mode, step, directory)
        return mode


def parse(text: str) -> Change:
    """InvalidArgument for what is neither form."""
    if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        return Change(int(text, 8))
    steps: list[_Step] = []
    for clause in text.split(","):
        match = _CLAUSE.match(clause)
        if match is None:
            raise InvalidArgument(
                f"invalid chmod parameter: '{text}'. it should be octal or symbolic, like 0755 or u+x"
            )
        who = "ugo" if not match[1] or "a" in match[1] else match[1]
        steps += [_Step(who, operator, what) for operator, what in _ACTION.findall(match[2])]
    return Change(None, tuple(steps))


def _applied(mode: int, step: _Step, directory: bool) -> int:
    for who in step.who:
        shift = _SHIFT[who]
        bits = _bits(mode, step.what, directory) << shift
        special = (0o4000 if who == "u" else 0o2000 if who == "g" else 0) if "s" in step.what else 0
        if step.operator == "=":
            mode = mode & ~(0o7 << shift) | bits | special
        elif step.operator == "+":
            mode |= bits | special
        else:
            mode &= ~(bits | special)
    if "t" in step.what:
        mode = mode & ~0o1000 if step.operator == "-" else mode | 0o1000
    return mode


def _bits(mode: int, what: str, directory: bool) -> int:
    if what in ("u", "g", "o"):
        return mode >> _SHIFT[what] & 0o7
    bits = 0
    for letter in what:
        if letter == "X":
            bits |= 1 if directory or mode & 0o111 else 0
        else:
            bits |= {"r": 4, "w": 2, "x": 1}.get(letter, 0)
    return bits
