"""Container logs: what the monitor writes, a client reads."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockyard.model.journal import LogSpec
from dockyard.store.journal.follow import Watcher
from dockyard.store.journal.reader import follow_log, read_log
from dockyard.store.journal.records import Query
from dockyard.store.journal.writer import PIECE, LogWriter, format_time

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND


def spec(path: Path, **changes: Any) -> LogSpec:
    values: Any = {"driver": "json-file", "path": str(path), "max_size": 0, "max_file": 1, "attrs": {}, **changes}
    return LogSpec(**values)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


async def collect(path: Path, query: Query, raw: bool = True) -> bytes:
    return b"".join([chunk async for chunk in read_log(str(path), query, raw=raw)])


def read(path: Path, raw: bool = True, **query: Any) -> bytes:
    return asyncio.run(collect(path, Query(**query), raw))


# --- writing ---


def test_a_record_is_dockers(tmp_path: Path) -> None:
    writer = LogWriter(spec(tmp_path / "log"))
    writer.write("stdout", b'say "hi"\n', T0 + 500_000_000)
    writer.close()
    assert (tmp_path / "log").read_text() == (
        '{"log":"say \\"hi\\"\\n","stream":"stdout","time":"2023-11-14T22:13:20.5Z"}\n'
    )
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


def test_attributes_come_with_every_record(tmp_path: Path) -> None:
    writer = LogWriter(spec(tmp_path / "log", attrs={"tag": "a b", "env": 'q"'}))
    writer.write("stderr", b"x\n", T0)
    writer.close()
    assert records(tmp_path / "log") == [
        {"log": "x\n", "stream": "stderr", "attrs": {"env": 'q"', "tag": "a b"}, "time": "2023-11-14T22:13:20Z"}
    ]


def test_only_newlines_end_a_record(tmp_path: Path) -> None:
    writer = LogWriter(spec(tmp_path / "log"))
    text = "a\rb\x0bc\x1c\u2028d\x85\n\n\\n literal\n".encode()
    writer.write("stdout", text, T0)
    writer.close()
    assert [r["log"] for r in records(tmp_path / "log")] == ["a\rb\x0bc\x1c\u2028d\x85\n", "\n", "\\n literal\n"]


def test_a_rest_waits_for_its_newline_or_the_end(tmp_path: Path) -> None:
    writer = LogWriter(spec(tmp_path / "log"))
    writer.write("stdout", b"one\ntw", T0)
    writer.write("stderr", b"err", T0)
    assert [r["log"] for r in records(tmp_path / "log")] == ["one\n"]
    writer.write("stdout", b"o\n", T0)
    writer.close()
    assert [(r["stream"], r["log"]) for r in records(tmp_path / "log")] == [
        ("stdout", "one\n"), ("stdout", "two\n"), ("stderr", "err"),
    ]  # fmt: skip


@pytest.mark.parametrize("length", [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 5])
def test_long_lines_become_pieces(tmp_path: Path, length: int) -> None:
    writer = LogWriter(spec(tmp_path / "log"))
    data = b"x" * length + b"\nafter\n"
    for at in range(0, len(data), 5000):
        writer.write("stdout", data[at : at + 5000], T0 + at)
    writer.close()
    found = records(tmp_path / "log")
    assert "".join(r["log"] for r in found).encode() == data
    assert all(len(r["log"]) == PIECE and not r["log"].endswith("\n") for r in found[: length // PIECE])
    assert found[-1]["log"] == "after\n"
    assert len(found) == length // PIECE + 2
    assert len({r["time"] for r in found[:-1]}) == 1, "all pieces of a line have the time of its first"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    writer = LogWriter(spec(tmp_path / "log"))
    writer.write("stdout", b"a\xff\xc3", T0)  # the second byte begins a character that the next chunk ends
    writer.write("stdout", b"\xa9b\n", T0)
    writer.close()
    assert [r["log"] for r in records(tmp_path / "log")] == ["a\ufffdéb\n"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=40)), max_size=20),
    st.sampled_from([0, 150]),
)
def test_nothing_is_lost_or_mixed(tmp_path_factory: pytest.TempPathFactory, chunks: Any, max_size: int) -> None:
    path = tmp_path_factory.mktemp("j") / "log"
    writer = LogWriter(spec(path, max_size=max_size, max_file=1000))
    for stream, data in chunks:
        writer.write(stream, data, T0)
    writer.close()
    for stream, wanted in (("stdout", Query(stderr=False)), ("stderr", Query(stdout=False))):
        text = b"".join(data for name, data in chunks if name == stream).decode("utf-8", "replace")
        assert asyncio.run(collect(path, wanted)).decode() == text


def test_rotation_keeps_so_many_files_and_no_torn_record(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LogWriter(spec(path, max_size=1000, max_file=3))
    for number in range(200):
        writer.write("stdout", f"line {number}\n".encode(), T0)
    writer.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    for file in tmp_path.iterdir():
        assert file.stat().st_size < 1100
        records(file)
    last = [f"line {n}\n" for n in range(200)]
    text = read(path).decode()
    assert "".join(last).endswith(text) and len(text) > 200


def test_one_batch_is_split_over_files(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LogWriter(spec(path, max_size=1000, max_file=50))
    writer.write("stdout", b"".join(b"%d\n" % n for n in range(300)), T0)
    writer.close()
    assert read(path) == b"".join(b"%d\n" % n for n in range(300))
    assert all(p.stat().st_size < 1100 for p in tmp_path.iterdir())


def test_a_full_disk_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LogWriter(spec(tmp_path / "log"))
    writer.write("stdout", b"before\n", T0)
    real, state = os.write, {"full": True}

    def full(fd: int, data: Any) -> int:
        if not state["full"]:
            return real(fd, data)
        if len(data) > 10:
            return real(fd, bytes(data)[:10])  # the last bytes of room
        raise OSError(errno.ENOSPC, "no space")

    def writing(fd: int, data: Any) -> int:
        if state["full"] and state.setdefault("begun", False):
            raise OSError(errno.ENOSPC, "no space")
        state["begun"] = True
        return full(fd, data)

    monkeypatch.setattr(os, "write", writing)
    writer.write("stdout", b"lost\n", T0)
    assert writer.dropped > 0
    state["full"] = False
    writer.write("stdout", b"after\n", T0)
    writer.close()
    assert [r["log"] for r in records(tmp_path / "log")] == ["before\n", "after\n"]


def test_an_unwritable_place_never_raises(tmp_path: Path) -> None:
    writer = LogWriter(spec(tmp_path / "nowhere" / "log"))
    writer.write("stdout", b"x\n", T0)
    writer.close()
    writer.close()
    assert writer.dropped > 0


def test_a_torn_record_of_a_crash_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"log":"ok\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}\n{"log":"to')
    writer = LogWriter(spec(path))
    writer.write("stdout", b"next\n", T0)
    writer.close()
    assert read(path) == b"ok\nnext\n"


def test_driver_none_keeps_nothing(tmp_path: Path) -> None:
    writer = LogWriter(spec(tmp_path / "log", driver="none"))
    writer.write("stdout", b"x\n", T0)
    writer.close()
    assert not list(tmp_path.iterdir())


# --- reading ---


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Ten lines, a second apart, odd ones on stderr."""
    path = tmp_path / "log"
    writer = LogWriter(spec(path, attrs={"b": "x y", "a": "1"}))
    for number in range(10):
        writer.write("stderr" if number % 2 else "stdout", b"%d\n" % number, T0 + number * SECOND)
    writer.close()
    return path


def test_frames(log: Path) -> None:
    assert read(log, raw=False, tail=2) == b"\1\0\0\0\0\0\0\x028\n\2\0\0\0\0\0\0\x029\n"


def test_one_stream(log: Path) -> None:
    assert read(log, stdout=False) == b"1\n3\n5\n7\n9\n"


@pytest.mark.parametrize("tail", [0, 1, 3, 9, 10, 11, 1000])
def test_tail(log: Path, tail: int) -> None:
    assert read(log, tail=tail) == b"".join(b"%d\n" % n for n in range(max(0, 10 - tail), 10))


@pytest.mark.parametrize("tail", [0, 1, 49, 50, 51, 700, 999, 1000, 5000])
def test_tail_over_rotated_files_and_blocks(tmp_path: Path, tail: int) -> None:
    path = tmp_path / "log"
    writer = LogWriter(spec(path, max_size=150_000, max_file=9))
    lines = [b"%d %s\n" % (n, b"y" * 300) for n in range(1000)]
    for line in lines:
        writer.write("stdout", line, T0)
    writer.close()
    assert (tmp_path / "log.1").exists()
    assert read(path, tail=tail) == b"".join(lines[1000 - min(tail, 1000) :])


def test_since_and_until_include_their_moment(log: Path) -> None:
    assert read(log, since=T0 + 3 * SECOND, until=T0 + 5 * SECOND) == b"3\n4\n5\n"
    assert read(log, since=T0 + 3 * SECOND + 1, until=T0 + 5 * SECOND - 1) == b"4\n"


def test_times_of_different_precision_compare_rightly(tmp_path: Path) -> None:
    writer = LogWriter(spec(tmp_path / "log"))
    moments = [T0, T0 + 5, T0 + 100_000_000, T0 + 120_000_000, T0 + SECOND]
    for moment in moments:
        writer.write("stdout", b"%d\n" % (moment - T0), moment)
    writer.close()
    for since in moments:
        expected = b"".join(b"%d\n" % (m - T0) for m in moments if m >= since)
        assert read(tmp_path / "log", since=since) == expected


def test_timestamps_and_details(log: Path) -> None:
    assert read(log, tail=1, timestamps=True, details=True) == b"2023-11-14T22:13:29.000000000Z a=1,b=x+y 9\n"


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == b""
    assert read(tmp_path / "none", tail=5) == b""


def test_damage_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    good = '{"log":"good\\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}\n'
    path.write_bytes(good.encode() + b"\0" * 50 + b"\n\xff{]\n" + good.encode())
    assert read(path) == b"good\ngood\n"


def test_formatting_of_times() -> None:
    assert format_time(T0) == "2023-11-14T22:13:20Z"
    assert format_time(T0 + 120) == "2023-11-14T22:13:20.00000012Z"


# --- following ---


async def _follow(path: Path, write: Any, **query: Any) -> bytes:
    watcher = Watcher()
    ended = asyncio.get_running_loop().create_future()
    seen = bytearray()

    async def reader() -> None:
        async for chunk in follow_log(str(path), Query(**query), watcher, ended, raw=True):
            seen.extend(chunk)

    task = asyncio.create_task(reader())
    await write(seen)
    ended.set_result(None)
    await asyncio.wait_for(task, 10)
    assert watcher.watched == 0
    watcher.close()
    return bytes(seen)


async def _until(seen: bytearray, wanted: bytes) -> None:
    for _ in range(500):
        if bytes(seen).endswith(wanted):
            return
        await asyncio.sleep(0.01)
    raise AssertionError((seen, wanted))


def test_following_sees_what_is_added_and_ends_with_the_container(tmp_path: Path) -> None:
    async def write(seen: bytearray) -> None:
        await asyncio.sleep(0.03)  # the log appears later than its reader
        writer = LogWriter(spec(tmp_path / "log"))
        for number in range(5):
            writer.write("stdout", b"%d\n" % number, T0)
            await _until(seen, b"%d\n" % number)
        writer.write("stdout", b"rest", T0)
        writer.close()

    assert asyncio.run(_follow(tmp_path / "log", write)) == b"0\n1\n2\n3\n4\nrest"


def test_following_goes_through_rotations(tmp_path: Path) -> None:
    async def write(seen: bytearray) -> None:
        writer = LogWriter(spec(tmp_path / "log", max_size=2000, max_file=4))
        for number in range(400):
            writer.write("stdout", b"%d\n" % number, T0)
            if number % 10 == 0:
                await asyncio.sleep(0.004)
        writer.close()
        await _until(seen, b"399\n")

    assert asyncio.run(_follow(tmp_path / "log", write)) == b"".join(b"%d\n" % n for n in range(400))


def test_following_a_log_of_one_file_that_is_emptied(tmp_path: Path) -> None:
    async def write(seen: bytearray) -> None:
        writer = LogWriter(spec(tmp_path / "log", max_size=500, max_file=1))
        for number in range(60):
            writer.write("stdout", b"%d\n" % number, T0)
            await _until(seen, b"%d\n" % number)
        writer.close()

    assert asyncio.run(_follow(tmp_path / "log", write)) == b"".join(b"%d\n" % n for n in range(60))


def test_s51_a_follower_that_goes_away_leaves_no_descriptor(tmp_path: Path) -> None:
    async def main() -> None:
        writer = LogWriter(spec(tmp_path / "log"))
        writer.write("stdout", b"x\n", T0)
        watcher = Watcher()
        ended = asyncio.get_running_loop().create_future()
        warm = watcher.watch(tmp_path / "log")
        warm.close()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            stream = follow_log(str(tmp_path / "log"), Query(), watcher, ended, raw=True)
            await anext(stream)
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            await asyncio.sleep(0.002)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await stream.aclose()
        assert len(os.listdir("/proc/self/fd")) == before
        assert watcher.watched == 0
        watcher.close()
        writer.close()

    asyncio.run(main())
