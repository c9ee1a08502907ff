"""Subordinate ids: /etc/subuid, /etc/subgid (subuid(5)) as the mapping of a user namespace.

Owns: reading the files' text, the mapping out of a user's ranges, where a new range can be. Pure. Does not own: the
files and who a user is (`runtime.remap`).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from dockyard.model.errors import InvalidArgument

SIZE: Final = 65536  # ids of a range that is made
FIRST: Final = 100_000  # as useradd(8)
_END: Final = (1 << 32) - 1
_DIGITS: Final = 10


class Range(NamedTuple):
    start: int
    size: int


def ranges(text: str, owners: Collection[str] | None = None) -> list[Range]:
    """The ranges of these owners (names or numbers), lowest first, each once. InvalidArgument naming a line of theirs
    that is no range, that reaches the root of the host, or that overlaps another. None: everybody's; such lines are
    passed over."""
    found: dict[Range, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        owner, _, rest = line.strip().partition(":")
        if owners is not None and owner not in owners:
            continue
        one = _range(rest)
        if one is not None:
            found.setdefault(one, f"line {number}: {line.strip()!r}")
        elif owners is not None:
            raise InvalidArgument(f"line {number}: {line.strip()!r} is not NAME:FIRST:COUNT")
    ordered = sorted(found)
    if owners is not None:
        _check(ordered, found)
    return ordered


def _range(text: str) -> Range | None:
    start, _, size = text.partition(":")
    numbers = start.isascii() and start.isdecimal() and size.isascii() and size.isdecimal()
    if not numbers or max(len(start), len(size)) > _DIGITS or not int(size) or int(start) + int(size) > _END:
        return None
    return Range(int(start), int(size))


def _check(ordered: Sequence[Range], lines: Mapping[Range, str]) -> None:
    if ordered and ordered[0].start == 0:
        raise InvalidArgument(f"{lines[ordered[0]]} has the root of the host in it")
    for one, other in itertools.pairwise(ordered):
        if one.start + one.size > other.start:
            raise InvalidArgument(f"{lines[other]} overlaps {lines[one]}")


def mapping(own: Sequence[Range]) -> list[dict[str, int]]:
    """OCI's `uidMappings`: 0 and up inside are the ranges one after the other."""
    out, inside = [], 0
    for start, size in own:
        out.append({"containerID": inside, "hostID": start, "size": size})
        inside += size
    return out


def free_start(*texts: str) -> int:
    """Where a range of SIZE ids can begin that nobody has in any of these files: behind all others."""
    return max([FIRST, *(start + size for text in texts for start, size in ranges(text))])
