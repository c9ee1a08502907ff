"""Container logs: what the monitor writes, a client reads."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockyard.model.journal import LogSpec
from dockyard.store.journal import files, packing
from dockyard.store.journal.buffered import BufferedLog
from dockyard.store.journal.follow import Watcher
from dockyard.store.journal.reader import follow_log, read_log
from dockyard.store.journal.records import Query
from dockyard.store.journal.writer import PIECE, Host, LogWriter, format_time

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


# --- compression ---


def pack_now(writer: LogWriter) -> None:
    """Wait for the child, as the monitor's loop does."""
    for _ in range(50):
        if writer._packer is None:
            return
        select.select([writer._packer.pidfd], [], [], 10)
        writer._packed()
    raise AssertionError("the child does not end")


def packed_log(path: Path, lines: int = 3000, **more: Any) -> list[bytes]:
    """Lines of a log in a few compressed files and one that is not; a second apart."""
    writer = LogWriter(spec(path, max_size=50_000, max_file=20, compress=True, **more))
    texts = [b"line %d\n" % number for number in range(lines)]
    for number, text in enumerate(texts):
        writer.write("stdout", text, T0 + number * SECOND)
        pack_now(writer)
    writer.close()
    return texts


def test_rotated_files_are_compressed_and_any_tool_reads_them(tmp_path: Path) -> None:
    texts = packed_log(tmp_path / "log")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["log", "log.1.gz", "log.2.gz", "log.3.gz", "log.4.gz"]
    oldest = gzip.decompress((tmp_path / "log.4.gz").read_bytes())
    assert json.loads(oldest.split(b"\n")[0])["log"] == "line 0\n"
    assert read(tmp_path / "log") == b"".join(texts)
    newest = tmp_path / "log.1.gz"
    assert newest.stat().st_mtime < (tmp_path / "log").stat().st_mtime and newest.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("tail", [0, 1, 500, 1500, 2999, 5000])
def test_tail_through_compressed_files(tmp_path: Path, tail: int) -> None:
    texts = packed_log(tmp_path / "log")
    assert read(tmp_path / "log", tail=tail) == b"".join(texts[len(texts) - min(tail, len(texts)) :])


def test_since_through_compressed_files(tmp_path: Path) -> None:
    texts = packed_log(tmp_path / "log")
    for first in (0, 1, 700, 1499, 2400, 2999):
        assert read(tmp_path / "log", since=T0 + first * SECOND) == b"".join(texts[first:])
    assert read(tmp_path / "log", since=T0 + 1000 * SECOND, until=T0 + 1001 * SECOND) == b"line 1000\nline 1001\n"
    assert read(tmp_path / "log", since=T0 + 9999 * SECOND) == b""


def test_members_are_found_without_unpacking_all(tmp_path: Path) -> None:
    source = tmp_path / "source"
    data = b"".join(b"%07d\n" % number for number in range(400_000))  # 3.2 MB: four members
    source.write_bytes(data)
    with open(source, "rb") as plain, open(tmp_path / "log.1.gz", "wb") as packed:
        packing.pack(plain.fileno(), packed.fileno())
        inode = os.fstat(plain.fileno()).st_ino
    assert gzip.decompress((tmp_path / "log.1.gz").read_bytes()) == data
    file = files.open_file(str(tmp_path / "log.1.gz"))
    assert isinstance(file, files.PackedFile) and file.size() == len(data) and file.identity().inode == inode
    assert file.identity() == files.open_file(str(source)).identity()
    for at in (0, 5, packing.BLOCK - 3, 2 * packing.BLOCK, len(data) - 4, len(data), len(data) + 9):
        assert file.read(20, at) == data[at : at + 20]
    file.close()


def test_files_that_another_tool_compressed_are_read(tmp_path: Path) -> None:
    packed_log(tmp_path / "log", 1500)
    plain = gzip.decompress((tmp_path / "log.1.gz").read_bytes())
    (tmp_path / "log.1.gz").write_bytes(gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]) + b"damage")
    assert read(tmp_path / "log").count(b"\n") == 1500


def test_a_damaged_member_costs_only_itself(tmp_path: Path) -> None:
    packed_log(tmp_path / "log", 1500)
    data = bytearray((tmp_path / "log.1.gz").read_bytes())
    data[200:260] = b"\xff" * 60
    (tmp_path / "log.1.gz").write_bytes(data)
    assert read(tmp_path / "log", tail=3) == b"line 1497\nline 1498\nline 1499\n"
    read(tmp_path / "log")  # ends


def test_what_a_killed_monitor_left_uncompressed_is_done_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LogWriter(spec(path, max_size=2000, max_file=3))
    for number in range(90):
        writer.write("stdout", b"%d\n" % number, T0)
    writer.close()
    before = read(path)
    (tmp_path / "log.packing").write_bytes(b"half")
    writer = LogWriter(spec(path, max_size=2000, max_file=3, compress=True))
    pack_now(writer)
    writer.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1.gz", "log.2.gz"]
    assert read(path) == before


def test_closing_ends_the_child_and_leaves_no_half_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 30_000_000 + b"\n")
    writer = LogWriter(spec(path, max_size=1000, max_file=3, compress=True))
    writer.write("stdout", b"next\n", T0)
    child = writer.child
    assert child
    writer.close()
    assert not os.path.exists(f"/proc/{child}")
    assert sorted(p.name for p in tmp_path.iterdir()) in (["log", "log.1"], ["log", "log.1.gz"])


def test_following_goes_through_rotation_and_compression(tmp_path: Path) -> None:
    async def write(seen: bytearray) -> None:
        writer = LogWriter(spec(tmp_path / "log", max_size=2000, max_file=5, compress=True))
        for number in range(400):
            writer.write("stdout", b"%d\n" % number, T0 + number)
            if number % 10 == 0:
                pack_now(writer)
                await asyncio.sleep(0.004)
        writer.close()
        await _until(seen, b"399\n")

    assert asyncio.run(_follow(tmp_path / "log", write)) == b"".join(b"%d\n" % n for n in range(400))


# --- searching ---


def test_the_end_and_a_moment_of_a_big_log_are_found_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    lines = 100_000
    with open(path, "w") as file:
        for number in range(lines):
            stamp = format_time(T0 + number * SECOND)
            file.write(f'{{"log":"{number} {"x" * 80}\\n","stream":"stdout","time":"{stamp}"}}\n')
    read_bytes = 0
    real = os.pread

    def counting(fd: int, count: int, at: int) -> bytes:
        nonlocal read_bytes
        data = real(fd, count, at)
        read_bytes += len(data)
        return data

    monkeypatch.setattr(os, "pread", counting)
    for query, first in (({"tail": 10}, lines - 10), ({"since": T0 + 99_000 * SECOND}, 99_000)):
        read_bytes = 0
        assert int(read(path, **query).split()[0]) == first
        assert read_bytes < 3_000_000, "of 15 MB"


def test_a_clock_that_was_set_back_hides_nothing_that_lies_behind(tmp_path: Path) -> None:
    writer = LogWriter(spec(tmp_path / "log"))
    for moment in (T0 + 50 * SECOND, T0, T0 + 60 * SECOND):
        writer.write("stdout", b"%d\n" % (moment - T0), moment)
    writer.close()
    assert read(tmp_path / "log", since=T0 + 50 * SECOND) == b"50000000000\n60000000000\n"


# --- trouble ---


class Hearing(Host):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def log_trouble(self, text: str) -> None:
        self.heard.append(text)


def test_a_full_disk_is_told_once_and_so_is_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Hearing()
    writer = LogWriter(spec(tmp_path / "log"), host)
    real = os.write

    def full(fd: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for _ in range(5):
        writer.write("stdout", b"lost\n", T0)
    assert host.heard == [f"output is not logged: No space left on device: {tmp_path}/log"]
    monkeypatch.setattr(os, "write", real)
    writer.write("stdout", b"after\n", T0)
    writer.write("stdout", b"more\n", T0)
    assert len(host.heard) == 2 and "output is logged again; 325 bytes" in host.heard[1]
    writer.close()
    assert read(tmp_path / "log") == b"after\nmore\n"


# --- non-blocking ---


def test_a_buffered_log_is_the_same(tmp_path: Path) -> None:
    log = BufferedLog(spec(tmp_path / "log", buffer=1 << 20, attrs={"a": "1"}), Hearing())
    child = log.child
    log.write("stdout", b"one\ntw", T0)
    log.write("stderr", b"x" * 100_000 + b"\n", T0)
    log.write("stdout", b"o\n", T0 + 1)
    log.close()
    assert child and not os.path.exists(f"/proc/{child}")
    assert read(tmp_path / "log", stderr=False) == b"one\ntwo\n"
    assert read(tmp_path / "log", stdout=False) == b"x" * 100_000 + b"\n"
    assert records(tmp_path / "log")[0]["attrs"] == {"a": "1"}


def test_a_stuck_log_never_blocks_and_no_line_is_glued_to_another(tmp_path: Path) -> None:
    host = Hearing()
    log = BufferedLog(spec(tmp_path / "log", buffer=100_000), host)
    os.kill(log.child, signal.SIGSTOP)
    begun = time.monotonic()
    text = b"".join(b"line %d\n" % number for number in range(200_000))[:-1]
    for at in range(0, len(text), 16384):
        log.write("stdout", text[at : at + 16384], T0)
    assert time.monotonic() - begun < 5, "it was stuck all the time"
    os.kill(log.child, signal.SIGCONT)
    time.sleep(0.3)
    log.write("stdout", b"of a line\nlast\n", T0)
    log.close()
    lines = read(tmp_path / "log").split(b"\n")
    assert log.dropped > 1_000_000 and len(host.heard) == 1 and "slower than the container" in host.heard[0]
    whole = set(text.split(b"\n"))
    strange = [line for line in lines[:-1] if line not in whole]
    assert strange == [b"last"] or (len(strange) == 2 and any(one.startswith(strange[0]) for one in whole))
    assert lines[-2:] == [b"last", b""]


def test_a_child_that_was_killed_is_replaced(tmp_path: Path) -> None:
    log = BufferedLog(spec(tmp_path / "log", buffer=100_000), Hearing())
    log.write("stdout", b"first\n", T0)
    first = log.child
    while read(tmp_path / "log") != b"first\n":
        time.sleep(0.01)
    os.kill(first, signal.SIGKILL)
    while b"State:\tZ" not in Path(f"/proc/{first}/status").read_bytes():
        time.sleep(0.01)
    log.write("stdout", b"second\n", T0)  # finds nobody
    log.write("stdout", b"third\n", T0)
    log.close()
    assert log.child != first
    assert read(tmp_path / "log") == b"first\nsecond\nthird\n"
