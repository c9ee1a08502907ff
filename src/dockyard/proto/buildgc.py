"""Which rows of the build cache go: what `builder prune` asks for, and what a host does by itself.

Owns: `Candidate`, `Selection` (the filters), `Limits`, `choose`, and the policy that holds by default. Pure. Does not
own: measuring, removing (`engine.builds.pruning`).

What a build uses never goes. Without `all`, what images share with the cache stays, too: nothing would be freed. Sizes
in bytes, times in ns since the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dockyard.model.errors import InvalidArgument
from dockyard.proto.filters import Filters
from dockyard.proto.times import parse_duration, parse_moment

HOUR: Final = 3600 * 1_000_000_000
CHEAP: Final = frozenset({"source.local", "source.http", "source.git.checkout", "exec.cachemount"})
FILTERS: Final = frozenset({
    "until", "unused-for", "id", "parent", "parents", "type", "description", "inuse", "shared", "private", "immutable",
    "mutable", "label", "label!",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row. `size`: what its removal frees, if nothing else needs it."""

    id: str
    type: str
    description: str
    size: int
    last_used: int
    uses: int
    in_use: bool
    shared: bool
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may stay. `reserved`: no more is removed than down to this; `maximum`: no more stays than this;
    `free`: so much of the disk shall be free. All 0: everything that is selected goes."""

    reserved: int = 0
    maximum: int = 0
    free: int = 0

    def kept(self, total: int, disk_free: int) -> int | None:
        """How many bytes may stay; None: there is no such number."""
        if not (self.reserved or self.maximum or self.free):
            return None
        keep = self.maximum
        if (missing := self.free - disk_free) > 0:
            keep = min(keep, total - missing) if keep else total - missing
        elif not keep and self.free:
            return max(total, self.reserved)  # there is room enough
        return max(keep, self.reserved)


@dataclass(frozen=True, slots=True)
class Selection:
    """What may go at all."""

    filters: Filters = field(default_factory=Filters)
    all: bool = False
    types: frozenset[str] = frozenset()  # () = any
    unused_since: int | None = None  # used after this: stays

    @classmethod
    def parse(cls, filters: Filters, now: int, *, all: bool = False) -> Selection:
        """InvalidArgument for a filter that there is not or that makes no sense."""
        filters.check(FILTERS)
        since: int | None = None
        for key in ("until", "unused-for"):
            for text in filters.get(key):
                try:
                    moment = now - parse_duration(text) if key == "unused-for" else parse_moment(text, now)
                except ValueError:
                    raise filters.invalid(key) from None
                since = moment if since is None else min(since, moment)
        for key in ("inuse", "shared", "private"):
            if filters.get(key) not in ([], [""]):
                filters.boolean(key)
        return cls(filters, all, unused_since=since)

    def covers(self, candidate: Candidate) -> bool:
        """Whether it may go."""
        filters = self.filters
        wants_shared = _flag(filters, "shared")
        if candidate.in_use or _flag(filters, "inuse") is True:
            return False
        if candidate.shared and not self.all and wants_shared is not True:
            return False
        if wants_shared is not None and wants_shared != candidate.shared:
            return False
        private = _flag(filters, "private")
        if private is not None and private == candidate.shared:
            return False
        if self.types and candidate.type not in self.types:
            return False
        if self.unused_since is not None and candidate.last_used > self.unused_since:
            return False
        parents = [*filters.get("parent"), *filters.get("parents")]
        if parents and not any(parent.startswith(wanted) for wanted in parents for parent in candidate.parents):
            return False
        return (
            filters.prefix("id", candidate.id)
            and filters.exact("type", candidate.type)
            and filters.regex("description", candidate.description)
        )


def _flag(filters: Filters, key: str) -> bool | None:
    """A yes/no filter; given without a value it means yes."""
    if filters.get(key) == [""]:
        return True
    return filters.boolean(key)


def choose(candidates: Sequence[Candidate], selection: Selection, limits: Limits, disk_free: int = 0) -> list[str]:
    """Ids of the rows to remove: those unused for the longest time first, until what stays is within the limits."""
    total = sum(candidate.size for candidate in candidates if not candidate.shared)
    keep = limits.kept(total, disk_free)
    gone: list[str] = []
    for candidate in sorted(candidates, key=lambda c: (c.last_used, c.uses, c.id)):
        if keep is not None and total <= keep:
            break
        if not selection.covers(candidate):
            continue
        gone.append(candidate.id)
        total -= 0 if candidate.shared else candidate.size
    return gone


@dataclass(frozen=True, slots=True)
class Rule:
    """One step of a policy, as of `choose`."""

    selection: Selection
    limits: Limits


def default_policy(now: int, disk_size: int) -> list[Rule]:
    """What goes by itself after a build, as BuildKit's defaults: contexts' leftovers, cache mounts and fetched files
    unused for two days beyond 512 MB; what was not used for sixty days beyond a tenth of the disk; then everything
    beyond six tenths of the disk, or so much that two tenths of it are free, but never below a tenth of it."""
    reserved = disk_size // 10
    limits = Limits(reserved=reserved, maximum=disk_size * 6 // 10, free=disk_size * 2 // 10)
    return [
        Rule(Selection(types=CHEAP, unused_since=now - 48 * HOUR), Limits(maximum=512 << 20)),
        Rule(Selection(unused_since=now - 60 * 24 * HOUR), Limits(reserved=reserved)),
        Rule(Selection(), limits),
        Rule(Selection(all=True), limits),
    ]


def check_limits(reserved: int, maximum: int, free: int) -> Limits:
    """InvalidArgument for negative numbers."""
    for name, value in (("reserved-space", reserved), ("max-used-space", maximum), ("min-free-space", free)):
        if value < 0:
            raise InvalidArgument(f"invalid {name}: {value}")
    return Limits(reserved, maximum, free)
