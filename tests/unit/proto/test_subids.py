"""/etc/subuid as a mapping."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockyard.model.errors import InvalidArgument
from dockyard.proto import subids
from dockyard.runtime import remap

TEXT = (
    "alice:200000:10\n# none\nbob:100000:65536\nalice:100:5\nalice:100:5\nodd:x:5\n7:300000:1\nodd:4294967290:65536\n"
)


def test_ranges_of_an_owner_lowest_first() -> None:
    assert subids.ranges(TEXT, {"alice", "7"}) == [(100, 5), (200000, 10), (300000, 1)]
    assert subids.ranges(TEXT, {"carol"}) == []
    assert subids.mapping(subids.ranges(TEXT, {"alice"})) == [
        {"containerID": 0, "hostID": 100, "size": 5},
        {"containerID": 5, "hostID": 200000, "size": 10},
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("daemon", "line 2: 'daemon' is not NAME:FIRST:COUNT"),
        ("daemon:x:5", "line 2: 'daemon:x:5' is not NAME:FIRST:COUNT"),
        ("daemon:5:0", "is not NAME:FIRST:COUNT"),
        ("daemon:5:-1", "is not NAME:FIRST:COUNT"),
        ("daemon:4294967290:65536", "is not NAME:FIRST:COUNT"),
        ("daemon:" + "9" * 5000 + ":1", "is not NAME:FIRST:COUNT"),
        ("daemon:0:65536", "line 2: 'daemon:0:65536' has the root of the host in it"),
        ("daemon:700000:9\n1:700008:1", "line 3: '1:700008:1' overlaps line 2: 'daemon:700000:9'"),
        ("\n".join(f"daemon:{1000 + 2 * number}:1" for number in range(341)), "more than 340 ranges"),
    ],
)
def test_bad_lines_of_the_owner_are_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "subuid").write_text(f"alice:broken\n{line}\n")
    with pytest.raises(InvalidArgument) as caught:
        remap.resolve("daemon", tmp_path)
    assert said in str(caught.value) and f"{tmp_path}/subuid" in str(caught.value)


def test_where_a_new_range_can_begin() -> None:
    assert subids.free_start("", "") == subids.FIRST
    assert subids.free_start(TEXT, "x:400000:2\n") == 400002


def test_default_has_ranges_made_once_and_behind_the_others(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("alice:100000:65536")
    made = remap.resolve("default", tmp_path)
    assert made is not None and made.uids == made.gids == [{"containerID": 0, "hostID": 165536, "size": 65536}]
    assert (tmp_path / "subuid").read_text() == "alice:100000:65536\ndockremap:165536:65536\n"
    assert (tmp_path / "subgid").read_text() == "dockremap:165536:65536\n"
    assert remap.resolve("default", tmp_path) == made


def test_users_by_name_and_number(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("daemon:500000:65536\n")
    (tmp_path / "subgid").write_text("1:600000:65536\n")
    for option in ("daemon", "1", "daemon:daemon", "1:1"):
        found = remap.resolve(option, tmp_path)
        assert found is not None and (found.uids[0]["hostID"], found.gids[0]["hostID"]) == (500000, 600000), option
    assert remap.resolve("", tmp_path) is None
    assert remap.resolve("root", tmp_path) is None


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("none-such", "user 'none-such' does not exist"),
        ("daemon:none-such", "group 'none-such' does not exist"),
        ("daemon", "no subuid ranges found for 1, daemon in"),
    ],
)
def test_options_that_name_nobody(tmp_path: Path, option: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        remap.resolve(option, tmp_path)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []
