"""Progress of a build at the client: plain lines, the picture on a terminal, failures, waiting for changes."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

from dockyard.edge.cli.building import live, plain
from dockyard.edge.cli.building.trace import Trace

_T = "2026-01-01T00:00:{:09.6f}Z"


def _vertex(identifier: str, name: str = "", started: float = -1, completed: float = -1, **more: Any) -> dict[str, Any]:
    vertex: dict[str, Any] = {"digest": identifier, "name": name or identifier, **more}
    if started >= 0:
        vertex["started"] = _T.format(started)
    if completed >= 0:
        vertex["completed"] = _T.format(completed)
    return {"vertexes": [vertex]}


def _log(identifier: str, text: bytes, at: float) -> dict[str, Any]:
    data = base64.b64encode(text).decode()
    return {"logs": [{"vertex": identifier, "stream": 1, "data": data, "timestamp": _T.format(at)}]}


def _plain(*documents: dict[str, Any]) -> str:
    trace, shown = Trace(), plain.Plain()
    return "".join(shown.show(trace.feed(document)) for document in documents)


def test_plain_lines_are_buildkits() -> None:
    text = _plain(
        _vertex("a", "[1/2] FROM busybox"),
        _vertex("b", "[2/2] RUN make"),
        _vertex("a", "[1/2] FROM busybox", 1, 1, cached=True),
        _vertex("b", "[2/2] RUN make", 1),
        _log("b", b"one\ntwo\nthr", 1.3125),
        _log("b", b"ee\n", 2),
        _vertex("b", "[2/2] RUN make", 1, 3.25),
    )
    assert text == (
        "#1 [1/2] FROM busybox\n#1 CACHED\n\n#2 [2/2] RUN make\n#2 0.312 one\n#2 0.312 two\n#2 1.000 three\n"
        "#2 DONE 2.2s\n\n"
    )


def test_plain_tells_who_speaks_when_two_do() -> None:
    text = _plain(
        _vertex("a", "RUN a", 1), _log("a", b"x\n", 1), _vertex("b", "RUN b", 1), _log("a", b"y\n", 2),
        _vertex("b", "RUN b", 1, 2), _vertex("a", "RUN a", 1, 3),
    )  # fmt: skip
    assert text == (
        "#1 RUN a\n#1 0.000 x\n#1 ...\n\n#2 RUN b\n#2 ...\n\n#1 RUN a\n#1 1.000 y\n#1 ...\n\n"
        "#2 RUN b\n#2 DONE 1.0s\n\n#1 RUN a\n#1 DONE 2.0s\n\n"
    )


def test_plain_tells_an_error_and_the_last_line_without_an_end() -> None:
    text = _plain(_vertex("a", "RUN a", 1), _log("a", b"no end", 1), _vertex("a", "RUN a", 1, 2, error="exit code: 1"))
    assert text == "#1 RUN a\n#1 1.000 no end\n#1 ERROR: exit code: 1\n\n"


def test_a_carriage_return_overwrites() -> None:
    text = _plain(_vertex("a", "RUN a", 1), _log("a", b"10%\r50%\r100%\r\n", 1))
    assert text.endswith("#1 0.000 100%\n")


def test_counters_are_told_when_they_are_full() -> None:
    def count(current: int, **more: Any) -> dict[str, Any]:
        status = {"id": "c", "vertex": "a", "name": "context:", "current": current, "total": current + 1, **more}
        return {"statuses": [status | {"total": 0 if more else 2_000_000}]}

    text = _plain(_vertex("a", "send", 1), count(1), count(1_000_000), count(2_000_000, completed=True))
    assert text == "#1 send\n#1 context: 2MB done\n"


def test_the_step_that_failed_is_shown_again_with_its_lines() -> None:
    trace = Trace()
    for document in (
        _vertex("z", "RUN other", 1, 2, error="canceled"),
        _vertex("a", "[2/2] RUN false", 1),
        _log("a", b"one\ntwo\n", 1),
        _vertex("a", "[2/2] RUN false", 1, 2, error="exit code: 1"),
    ):
        trace.feed(document)
    assert plain.failure(trace.failed, "it failed", "Dockerfile:2\n  2 | >>> RUN false\n") == (
        "------\n > [2/2] RUN false:\none\ntwo\n------\nDockerfile:2\n  2 | >>> RUN false\n"
        "ERROR: failed to build: it failed"
    )


def test_the_dockerfiles_lines_stand_around_the_one_that_failed() -> None:
    text = b"FROM a\nRUN x\nRUN y \\\n  z\nRUN w\nRUN v\n"
    assert plain.excerpt("Dockerfile", text, 3, 4) == (
        "Dockerfile:3\n--------------------\n   1 |     FROM a\n   2 |     RUN x\n   3 | >>> RUN y \\\n   4 | >>>   z\n"
        "   5 |     RUN w\n   6 |     RUN v\n--------------------\n"
    )
    assert plain.excerpt("Dockerfile", text, 99, 99) == ""


def test_warnings_are_counted() -> None:
    assert plain.warnings([]) == ""
    text = plain.warnings([{"rule": "StageNameCasing", "text": "lower it", "line": 1}])
    assert text == "\n 1 warning found:\n - StageNameCasing: lower it (line 1)\n"


def _steps(*documents: dict[str, Any]) -> Trace:
    trace = Trace()
    for document in documents:
        trace.feed(document)
    return trace


def test_the_picture_keeps_what_is_over_and_moves_what_runs() -> None:
    trace = _steps(
        _vertex("a", "FROM busybox", 1, 2), _vertex("b", "RUN slow", 1), _vertex("c", "RUN fast", 1, 2),
        _log("b", b"busy\n", 1),
    )  # fmt: skip
    settled: set[str] = set()
    now = trace.steps["b"].started + 2_000_000_000
    fixed, moving = live.picture(list(trace.steps.values()), settled, now, 20, 40, False)
    plain_text = [line.replace("\x1b[34m", "").replace("\x1b[0m", "") for line in fixed + moving]
    assert [" ".join(line.split()) for line in plain_text] == [
        "=> FROM busybox 1.0s", "=> RUN slow 2.0s", "=> => # busy", "=> RUN fast 1.0s",
    ]  # fmt: skip
    assert {len(line) for line in plain_text if "#" not in line} == {39}
    assert settled == {"a"}
    fixed, moving = live.picture(list(trace.steps.values()), settled, now, 20, 40, True)
    assert len(fixed) == 2
    assert moving == []


def test_the_picture_is_never_higher_or_wider_than_the_screen() -> None:
    trace = _steps(*[_vertex(str(n), f"RUN {'x' * 200}\x1b[2J\n", 1) for n in range(50)])
    for step in trace.steps.values():
        step.feed(b"\x1b[2Jwide " * 40 + b"\n")
    _, moving = live.picture(list(trace.steps.values()), set(), trace.steps["1"].started, 10, 60, False)
    assert len(moving) == 10
    assert all(len(line) <= 60 and "\x1b" not in line for line in moving)


def test_the_title_counts() -> None:
    trace = _steps(_vertex("a", "x", 1, 2), _vertex("b", "y", 1))
    steps = list(trace.steps.values())
    assert live.title(steps, 0, 1_500_000_000, False) == "[+] Building 1.5s (1/2)"
    assert live.title(steps, 0, 1_500_000_000, True) == "[+] Building 1.5s (1/2) FINISHED"


def test_live_draws_to_a_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "screen"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    trace = Trace()
    shown = live.Live(trace, fd)
    trace.feed(_vertex("a", "RUN a", 1, 2))
    shown.close()
    os.close(fd)
    assert path.read_text().rstrip().endswith("(1/1) FINISHED\x1b[K\n\x1b[J".rstrip())
