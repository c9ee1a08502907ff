"""Which images an unattended host may do without.

Owns: `Policy` and `plan`: images and how full the disk is in, ids to remove out. Pure. Does not own: when it is asked,
the removal (`engine.images.collection`).

Two rules, each off by default:

- watermarks: when the disk is `high` percent full or more, images go, those unused for the longest time first, until
  what they free by themselves brings it to `low`;
- keep-last: of every repository the N newest images stay, whatever the disk says; older ones go.

What a container uses never goes, and nothing younger than `min_age`: an image is pulled before its container is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dockyard.model.errors import InvalidArgument

MIN_AGE: Final = 120 * 1_000_000_000  # ns


@dataclass(frozen=True, slots=True)
class Policy:
    """`high`, `low` in percent of the disk, `keep_last` images of a repository; 0: off."""

    high: int = 0
    low: int = 0
    keep_last: int = 0
    min_age: int = MIN_AGE

    @classmethod
    def make(cls, high: int, low: int, keep_last: int) -> Policy:
        """Checked. Without `low` it is ten below `high`. InvalidArgument for what makes no sense."""
        if keep_last < 0:
            raise InvalidArgument(f"image-gc-keep-last must not be negative: {keep_last}")
        if not 0 <= high <= 100 or not 0 <= low <= 100:
            raise InvalidArgument(f"image-gc-high and image-gc-low are percentages: {high}, {low}")
        if low and not high:
            raise InvalidArgument("image-gc-low needs image-gc-high")
        if low > high:
            raise InvalidArgument(f"image-gc-low ({low}) must not be above image-gc-high ({high})")
        return cls(high, low or max(high - 10, 0), keep_last)

    @property
    def on(self) -> bool:
        return bool(self.high or self.keep_last)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image. `last_used` in ns: when it came, was tagged, or was last seen in a container's use."""

    id: str
    repositories: frozenset[str]
    came: int  # ns: when it was tagged or pulled
    last_used: int
    in_use: bool
    layers: tuple[tuple[str, int], ...]  # of its layers: identity, bytes


def plan(candidates: Sequence[Candidate], policy: Policy, now: int, used: int, size: int) -> list[str]:
    """Ids of the images to remove, in order. `used` of the disk's `size` bytes are taken."""
    free = [c for c in candidates if not c.in_use and now - max(c.came, c.last_used) >= policy.min_age]
    surplus, kept = _by_repository(candidates, policy.keep_last)
    gone = [candidate for candidate in _oldest_first(free) if candidate.id in surplus]
    if policy.high and size and used * 100 >= policy.high * size:
        excess = used - size * policy.low // 100
        ids = {candidate.id for candidate in gone}
        remaining = [c for c in candidates if c.id not in ids]
        excess -= _freed(candidates, remaining)
        for candidate in _oldest_first(free):
            if excess <= 0:
                break
            if candidate.id in ids or candidate.id in kept:
                continue
            after = [c for c in remaining if c.id != candidate.id]
            excess -= _freed(remaining, after)
            remaining = after
            gone.append(candidate)
    return [candidate.id for candidate in gone]


def _by_repository(candidates: Sequence[Candidate], keep: int) -> tuple[set[str], set[str]]:
    """(ids that are surplus in each of their repositories, ids that are among the newest of one)."""
    if not keep:
        return set(), set()
    kept: set[str] = set()
    named: set[str] = set()
    for repository in {name for candidate in candidates for name in candidate.repositories}:
        of_it = [candidate for candidate in candidates if repository in candidate.repositories]
        named.update(candidate.id for candidate in of_it)
        newest = sorted(of_it, key=lambda candidate: (-candidate.came, candidate.id))
        kept.update(candidate.id for candidate in newest[:keep])
    return named - kept, kept


def _oldest_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: (candidate.last_used, candidate.id))


def _freed(before: Sequence[Candidate], after: Sequence[Candidate]) -> int:
    """Bytes of layers that only the images missing in `after` have."""
    return sum(_layers(before).values()) - sum(_layers(after).values())


def _layers(candidates: Sequence[Candidate]) -> dict[str, int]:
    return {name: size for candidate in candidates for name, size in candidate.layers}
