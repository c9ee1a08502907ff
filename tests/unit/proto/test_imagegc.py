"""Which images go by themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.model.errors import InvalidArgument
from dockyard.proto.imagegc import MIN_AGE, Candidate, Policy, plan

NOW = 10**18
HOUR = 3600 * 10**9


def image(
    name: str, hours: int, *repositories: str, in_use: bool = False, layers: dict[str, int] | None = None
) -> Candidate:
    at = NOW - hours * HOUR
    sizes = layers if layers is not None else {name: 10}
    return Candidate(name, frozenset(repositories), at, at, in_use, tuple(sizes.items()))


def test_off_by_default() -> None:
    assert not Policy().on and plan([image("a", 9)], Policy(), NOW, 100, 100) == []


@pytest.mark.parametrize("values", [(101, 0, 0), (0, 50, 0), (50, 60, 0), (-1, 0, 0), (0, 0, -1)])
def test_settings_that_make_no_sense(values: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidArgument, match="image-gc"):
        Policy.make(*values)


def test_low_is_ten_below_high() -> None:
    assert (Policy.make(85, 0, 0).low, Policy.make(5, 0, 0).low, Policy.make(85, 50, 0).low) == (75, 0, 50)


def test_the_longest_unused_go_until_the_disk_is_at_the_low_mark() -> None:
    images = [image("new", 1), image("old", 9), image("mid", 5), image("used", 99, in_use=True)]
    assert plan(images, Policy(80, 70), NOW, 79, 100) == []
    assert plan(images, Policy(80, 70), NOW, 80, 100) == ["old"]
    assert plan(images, Policy(80, 70), NOW, 81, 100) == ["old", "mid"]
    assert plan(images, Policy(80, 10), NOW, 99, 100) == ["old", "mid", "new"]


def test_only_what_an_image_has_for_itself_counts() -> None:
    shared = [image("a", 9, layers={"base": 50, "a": 1}), image("b", 8, layers={"base": 50, "b": 1})]
    assert plan(shared, Policy(80, 79), NOW, 80, 100) == ["a"]
    assert plan(shared, Policy(80, 78), NOW, 80, 100) == ["a", "b"]


def test_the_newest_of_each_repository_stay() -> None:
    images = [image(f"app{n}", n, "app") for n in range(1, 6)] + [image("other", 50, "db"), image("none", 60)]
    assert plan(images, Policy(keep_last=2), NOW, 0, 100) == ["app5", "app4", "app3"]
    assert plan(images, Policy(80, 1, keep_last=2), NOW, 99, 100) == ["app5", "app4", "app3", "none"]
    assert plan(images, Policy(keep_last=5), NOW, 0, 100) == []


def test_an_image_of_two_repositories_stays_while_one_wants_it() -> None:
    images = [image("both", 9, "a", "b"), image("a1", 1, "a"), image("a2", 2, "a")]
    assert plan(images, Policy(keep_last=1), NOW, 0, 100) == ["a2"]


def test_what_has_just_come_stays() -> None:
    young = Candidate("young", frozenset(), NOW - MIN_AGE + 1, NOW - MIN_AGE + 1, False, (("l", 90),))
    assert plan([young], Policy(50, 1), NOW, 99, 100) == []


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        id=st.sampled_from("abcdefgh"),
        repositories=st.frozensets(st.sampled_from(["x", "y"])),
        came=st.integers(0, NOW),
        last_used=st.integers(0, NOW),
        in_use=st.booleans(),
        layers=st.lists(st.tuples(st.sampled_from("lmn"), st.just(10)), max_size=3).map(tuple),
    ),
    unique_by=lambda candidate: candidate.id,
)


@given(CANDIDATES, st.integers(0, 100), st.integers(0, 3), st.integers(0, 100))
def test_nothing_in_use_ever_goes_and_nothing_twice(images: list[Candidate], high: int, keep: int, used: int) -> None:
    gone = plan(images, Policy.make(high, 0, keep), NOW, used, 100)
    assert len(set(gone)) == len(gone)
    assert not {candidate.id for candidate in images if candidate.in_use} & set(gone)
    for repository in ("x", "y"):
        of_it = [c for c in images if repository in c.repositories]
        if keep:
            assert len([c for c in of_it if c.id not in gone]) >= min(keep, len(of_it))
