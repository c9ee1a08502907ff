"""Mappings of owners for idmapped mounts: `uids=0-1000-1;gids=0-1000-1`.

Owns: reading the notation, checking it, the mapping that exchanges two owners. Does not own: mounting
(`runtime.rootfs`).
Pure. The kernel's rules for user namespaces hold (user_namespaces(7)): ranges must not overlap on either side, at most
340 lines. A number that no range has is nobody's (65534) inside, and a file cannot be made for it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from dockyard.model.errors import InvalidArgument

OWNER: Final = "owner"  # exchange whoever owns the source with the container's user
MAX_RANGES: Final = 340
_END: Final = 1 << 32  # (1 << 32) - 1 is nobody's id
_TRIPLE: Final = re.compile(r"([0-9]{1,10})-([0-9]{1,10})-([0-9]{1,10})\Z")


class Range(NamedTuple):
    """`size` numbers from `disk` on, as the file system has them, are those from `seen` on in the container."""

    disk: int
    seen: int
    size: int


IDENTITY: Final = (Range(0, 0, _END - 1),)


class IdMap(NamedTuple):
    uids: tuple[Range, ...] = IDENTITY
    gids: tuple[Range, ...] = IDENTITY


def parse_idmap(text: str) -> IdMap | None:
    """`uids=DISK-SEEN-SIZE[#…][;gids=…]` (podman's notation; either part may be missing: unchanged); None for "owner".

    Raises InvalidArgument naming the text.
    """
    if text == OWNER:
        return None
    parts: dict[str, tuple[Range, ...]] = {}
    for part in text.split(";"):
        kind, _, ranges = part.partition("=")
        if kind not in ("uids", "gids") or kind in parts:
            raise InvalidArgument(f"invalid idmap '{text}': it is 'uids=DISK-CONTAINER-SIZE[#...][;gids=...]'")
        parts[kind] = _ranges(ranges, text)
    return IdMap(**parts)


def _ranges(text: str, whole: str) -> tuple[Range, ...]:
    found = []
    for item in text.split("#"):
        match = _TRIPLE.match(item)
        if match is None:
            raise InvalidArgument(f"invalid idmap '{whole}': '{item}' is not DISK-CONTAINER-SIZE")
        one = Range(*map(int, match.groups()))
        if not one.size or max(one.disk, one.seen) + one.size >= _END:
            raise InvalidArgument(f"invalid idmap '{whole}': '{item}' is no range of ids")
        found.append(one)
    if len(found) > MAX_RANGES or _overlap([(r.disk, r.size) for r in found]) or _overlap([r[1:] for r in found]):
        raise InvalidArgument(f"invalid idmap '{whole}': its ranges overlap, or there are more than {MAX_RANGES}")
    return tuple(found)


def _overlap(ranges: Sequence[tuple[int, int]]) -> bool:
    ordered = sorted(ranges)
    return any(first + size > second for (first, size), (second, _) in itertools.pairwise(ordered))
