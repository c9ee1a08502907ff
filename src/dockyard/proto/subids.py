"""Subordinate ids: /etc/subuid, /etc/subgid (subuid(5)) as the mapping of a user namespace.

Owns: reading the files' text, the mapping out of a user's ranges, where a new range can be. Pure. Does not own: the
files and who a user is (`runtime.remap`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

SIZE: Final = 65536  # ids of a range that is made
FIRST: Final = 100_000  # as useradd(8)
_END: Final = (1 << 32) - 1


class Range(NamedTuple):
    start: int
    size: int


def ranges(text: str, owners: Collection[str] | None = None) -> list[Range]:
    """The ranges of these owners (names or numbers; None: everybody's), lowest first. Lines of another form: passed."""
    found = []
    for line in text.splitlines():
        owner, _, rest = line.strip().partition(":")
        start, _, size = rest.partition(":")
        if (owners is not None and owner not in owners) or not (start.isdecimal() and size.isdecimal()):
            continue
        if int(size) and int(start) + int(size) <= _END:
            found.append(Range(int(start), int(size)))
    return sorted(found)


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
