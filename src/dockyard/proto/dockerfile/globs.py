"""The patterns of `${name#pattern}`, `%` and `/`: `*` and `?`, nothing else.

Owns: removing a prefix or a suffix, replacing. Does not own: finding them in a word (`words`).
Time is linear in the value for each star of the pattern; values and patterns come from strangers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dockyard.proto.dockerfile.errors import Problem, quoted

_Segment = tuple[str, ...]  # one element a character; "" stands for "?"


class Glob(NamedTuple):
    """What lies between the stars: n stars make n + 1 segments."""

    segments: tuple[_Segment, ...]

    def prefix(self, value: str, *, longest: bool) -> int | None:
        """The length of the shortest or longest prefix that matches; None: none does."""
        first, *rest = self.segments
        if not _matches_at(first, value, 0):
            return None
        end = len(first)
        return self._follow(value, end, rest, longest=longest)

    def find(self, value: str, start: int) -> tuple[int, int] | None:
        """The leftmost, there the longest, match from `start` on: (begin, end)."""
        first, *rest = self.segments
        begin = _search(first, value, start)
        if begin < 0:
            return None
        end = self._follow(value, begin + len(first), rest, longest=True)
        return None if end is None else (begin, end)

    @staticmethod
    def _follow(value: str, end: int, rest: list[_Segment], *, longest: bool) -> int | None:
        for number, segment in enumerate(rest):
            last = number == len(rest) - 1
            at = _search_last(segment, value, end) if last and longest else _search(segment, value, end)
            if at < 0:
                return None
            end = at + len(segment)
        return end

    def reversed(self) -> Glob:
        return Glob(tuple(segment[::-1] for segment in self.segments[::-1]))


def parse(pattern: str) -> Glob:
    """`\\*`, `\\?` and `\\\\` stand for themselves, `\\}` and `\\/` too; any other escape is a Problem."""
    segments: list[list[str]] = [[]]
    at = 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*":
            segments.append([])
        elif character == "?":
            segments[-1].append("")
        elif character == "\\":
            escaped = pattern[at : at + 1]
            if escaped not in ("*", "?", "\\", "}", "/"):
                raise Problem(f"invalid pattern ({quoted(pattern)}) in substitution: invalid escape '\\{escaped}'")
            segments[-1].append(escaped)
            at += 1
        else:
            segments[-1].append(character)
    return Glob(tuple(tuple(segment) for segment in segments))


def without_prefix(pattern: str, value: str, *, longest: bool) -> str:
    length = parse(pattern).prefix(value, longest=longest)
    return value if length is None else value[length:]


def without_suffix(pattern: str, value: str, *, longest: bool) -> str:
    length = parse(pattern).reversed().prefix(value[::-1], longest=longest)
    return value if length is None else value[: len(value) - length]


def replace(pattern: str, value: str, replacement: str, *, everywhere: bool, limit: int) -> str:
    """Problem if the result would be longer than `limit` characters. An empty pattern matches nothing."""
    glob = parse(pattern)
    if glob.segments == ((),):
        return value
    out: list[str] = []
    at, size = 0, len(value)
    while (match := glob.find(value, at)) is not None:
        begin, end = match
        out += (value[at:begin], replacement)
        size += len(replacement) - (end - begin)
        if size > limit:
            raise Problem(f"a variable's value would be longer than {limit} characters")
        at = end
        if not everywhere or end == begin or at >= len(value):
            break
    out.append(value[at:])
    return "".join(out)


def _expression(segment: _Segment) -> re.Pattern[str]:
    return re.compile("".join(re.escape(character) if character else "." for character in segment), re.DOTALL)


def _matches_at(segment: _Segment, value: str, at: int) -> bool:
    if len(value) - at < len(segment):
        return False
    return all(not wanted or wanted == value[at + number] for number, wanted in enumerate(segment))


def _search(segment: _Segment, value: str, start: int) -> int:
    if "" not in segment:
        return value.find("".join(segment), start)
    match = _expression(segment).search(value, start)
    return match.start() if match else -1


def _search_last(segment: _Segment, value: str, start: int) -> int:
    if "" not in segment:
        return value.rfind("".join(segment), start)
    for at in range(len(value) - len(segment), start - 1, -1):
        if _matches_at(segment, value, at):
            return at
    return -1
