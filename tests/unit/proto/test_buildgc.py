"""Which rows of the build cache go."""

from __future__ import annotations

import pytest

from dockyard.model.errors import InvalidArgument
from dockyard.proto.buildgc import HOUR, Candidate, Limits, Selection, check_limits, choose, default_policy
from dockyard.proto.filters import Filters

NOW = 1_700_000_000 * 10**9
GB = 1 << 30


def row(name: str, size: int = 100, age: float = 0, **more: object) -> Candidate:
    values: dict[str, object] = {"type": "regular", "description": f"RUN {name}", "uses": 1, "in_use": False}
    values |= {"shared": False, **more}
    return Candidate(id=name, size=size, last_used=NOW - int(age * HOUR), **values)  # type: ignore[arg-type]


def select(all: bool = False, **filters: str) -> Selection:
    named = {name.rstrip("_").replace("_", "-"): [value] for name, value in filters.items()}
    return Selection.parse(Filters(named), NOW, all=all)


ROWS = [
    row("old", age=100),
    row("used", age=200, in_use=True),
    row("shared", age=150, shared=True),
    row("new", age=1, parents=("old",)),
    row("mount", age=50, type="exec.cachemount", description="cached mount /c from exec"),
]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (select(), ["old", "mount", "new"]),
        (select(all=True), ["shared", "old", "mount", "new"]),
        (select(until="24h"), ["old", "mount"]),
        (select(unused_for="60h"), ["old"]),
        (select(id="ne"), ["new"]),
        (select(type="exec.cachemount"), ["mount"]),
        (select(description="cached.*exec"), ["mount"]),
        (select(parent="old"), ["new"]),
        (select(shared=""), ["shared"]),
        (select(shared="false"), ["old", "mount", "new"]),
        (select(private="true"), ["old", "mount", "new"]),
        (select(inuse="true"), []),
        (select(inuse="false"), ["old", "mount", "new"]),
    ],
)
def test_filters(selection: Selection, expected: list[str]) -> None:
    assert choose(ROWS, selection, Limits()) == expected


@pytest.mark.parametrize("name", ["colour", "until", "inuse", "unused-for"])
def test_bad_filters_are_named(name: str) -> None:
    with pytest.raises(InvalidArgument, match=name):
        Selection.parse(Filters({name: ["nonsense"]}), NOW)


@pytest.mark.parametrize(
    ("limits", "free", "gone"),
    [
        (Limits(), 0, 5),
        (Limits(reserved=250), 0, 3),
        (Limits(maximum=1000), 0, 0),
        (Limits(maximum=300), 0, 2),
        (Limits(free=50), 100, 0),
        (Limits(free=250), 100, 2),
        (Limits(free=10_000), 0, 5),
        (Limits(reserved=400, maximum=100), 0, 1),
        (Limits(reserved=200, free=10_000), 0, 3),
    ],
)
def test_limits(limits: Limits, free: int, gone: int) -> None:
    rows = [row(str(number), age=10 - number) for number in range(5)]
    assert choose(rows, Selection(), limits, free) == [str(number) for number in range(gone)]


def test_negative_limits_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="max-used-space"):
        check_limits(0, -1, 0)


def test_the_default_policy() -> None:
    disk = 100 * GB

    def gone(rows: list[Candidate], free: int = 50 * GB) -> list[str]:
        found: list[str] = []
        for rule in default_policy(NOW, disk):
            chosen = choose([each for each in rows if each.id not in found], rule.selection, rule.limits, free)
            found += chosen
        return found

    assert gone([row("a", 5 * GB, age=24 * 90)]) == []  # below a tenth of the disk nothing regular goes
    assert gone([row("a", 11 * GB, age=24 * 90), row("b", 1 * GB)]) == ["a"]
    assert gone([row("m", GB, age=49, type="exec.cachemount"), row("b", 1 * GB)]) == ["m"]
    assert gone([row("m", GB, age=47, type="exec.cachemount")]) == []
    assert gone([row(str(n), 10 * GB, age=9 - n) for n in range(8)]) == ["0", "1"]  # above 60 GB
    assert gone([row(str(n), 10 * GB, age=9 - n) for n in range(3)], free=5 * GB) == ["0", "1"]  # the disk is full
