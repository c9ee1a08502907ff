"""A build's events as Docker's classic stream and as the trace that `dockyard build` shows."""

from __future__ import annotations

from typing import Any

from dockyard.edge.api.build_classic import ClassicStream, error_message
from dockyard.edge.api.build_trace import TraceStream
from dockyard.model.build import (
    UNUSED_ARGUMENT,
    BuildEvent,
    BuildResult,
    Planned,
    StepInfo,
    VertexDone,
    VertexInfo,
    VertexLog,
    VertexProgress,
    VertexStarted,
    Warned,
)

_IMAGE = "sha256:3f57d9401f8d42f986df300f0c69192fc41da28ccc8d797829467780db3dd741"
_SECOND = 1_000_000_000


def _plan(*texts: str, vertices: dict[int, str]) -> Planned:
    steps = tuple(StepInfo(n, len(texts), text, vertices.get(n)) for n, text in enumerate(texts, 1))
    infos = tuple(
        VertexInfo(vertex, f"[{n}/{len(texts)}] {texts[n - 1]}", (), "", "", n, n) for n, vertex in vertices.items()
    )
    return Planned(infos, steps)


def _text(events: list[BuildEvent]) -> str:
    stream = ClassicStream()
    return "".join(m.get("stream", "") for event in events for m in stream.feed(event))


def test_a_build_reads_like_the_classic_builder() -> None:
    events: list[BuildEvent] = [
        _plan("FROM busybox", "ENV a=b", "RUN make", vertices={1: "f", 3: "r"}),
        VertexDone("f", cached=True, image_id=_IMAGE),
        VertexStarted("r"),
        VertexLog("r", b"made\n"),
        VertexLog("r", b"odd\n", "stderr"),
        VertexDone("r", image_id="sha256:" + "ab" * 32),
        BuildResult(_IMAGE, names=("x:latest", "y:1")),
    ]
    text = _text(events)
    container = text.partition("Running in ")[2][:12]
    assert text == (
        "Step 1/3 : FROM busybox\n ---> 3f57d9401f8d\nStep 2/3 : ENV a=b\nStep 3/3 : RUN make\n"
        f" ---> Running in {container}\nmade\n\x1b[91modd\n\x1b[0mRemoving intermediate container {container}\n"
        " ---> abababababab\nSuccessfully built 3f57d9401f8d\nSuccessfully tagged x:latest\nSuccessfully tagged y:1\n"
    )
    assert len(container) == 12


def test_the_image_comes_as_aux_before_it_is_told() -> None:
    messages = ClassicStream().feed(BuildResult(_IMAGE))
    assert messages[0] == {"aux": {"ID": _IMAGE}}
    assert messages[1] == {"stream": "Successfully built 3f57d9401f8d\n"}


def test_a_cached_step_says_so_but_a_base_image_does_not() -> None:
    text = _text([
        _plan("FROM busybox", "COPY . /x", vertices={1: "f", 2: "c"}),
        VertexDone("f", cached=True, image_id=_IMAGE),
        VertexDone("c", cached=True, image_id="sha256:" + "cd" * 32),
    ])  # fmt: skip
    assert text == (
        "Step 1/2 : FROM busybox\n ---> 3f57d9401f8d\nStep 2/2 : COPY . /x\n ---> Using cache\n ---> cdcdcdcdcdcd\n"
    )


def test_steps_that_run_at_the_same_time_are_told_one_after_another() -> None:
    stream = ClassicStream()
    told: list[str] = []

    def feed(event: BuildEvent) -> str:
        now = "".join(m.get("stream", "") for m in stream.feed(event))
        told.append(now)
        return now

    assert feed(_plan("RUN a", "RUN b", vertices={1: "a", 2: "b"})) == "Step 1/2 : RUN a\n"
    assert feed(VertexStarted("b")) == ""
    assert feed(VertexLog("b", b"from b\n")) == ""
    assert feed(VertexDone("b")) == ""
    assert "Running in" in feed(VertexStarted("a"))
    assert feed(VertexLog("a", b"from a\n")) == "from a\n"
    end = feed(VertexDone("a"))
    assert end.index("Step 2/2 : RUN b\n") < end.index("from b\n")


def test_a_step_of_nothing_but_configuration_passes_at_once() -> None:
    assert _text([_plan("ENV a=b", "LABEL c=d", vertices={})]) == "Step 1/2 : ENV a=b\nStep 2/2 : LABEL c=d\n"


def test_a_setting_was_there_if_the_next_step_was() -> None:
    plan = _plan("FROM busybox", "ENV a=b", "RUN make", vertices={1: "f", 3: "r"})
    base = VertexDone("f", cached=True)
    assert "Step 2/3 : ENV a=b\n ---> Using cache\nStep 3/3" in _text([plan, base, VertexDone("r", cached=True)])
    assert "Step 2/3 : ENV a=b\nStep 3/3" in _text([plan, base, VertexStarted("r")])
    assert _text([plan, base]).endswith("Step 2/3 : ENV a=b\n")


def test_triggers_are_counted() -> None:
    step = StepInfo(1, 1, "FROM x", None, 2)
    assert _text([Planned((), (step,))]) == "Step 1/1 : FROM x\n# Executing 2 build triggers\n"


def test_a_pull_shows_its_progress() -> None:
    stream = ClassicStream()
    stream.feed(_plan("FROM busybox", vertices={1: "f"}))
    (message,) = stream.feed(VertexProgress("f", "0123456789abcdef", 5, 10))
    assert message == {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "id": "0123456789ab"}


def test_unused_arguments_are_warned_about_and_style_is_not() -> None:
    stream = ClassicStream()
    warned = Warned(UNUSED_ARGUMENT, "One or more build-args [x] were not consumed")
    assert stream.feed(warned) == [{"stream": "[Warning] One or more build-args [x] were not consumed\n"}]
    assert stream.feed(Warned("StageNameCasing", "…")) == []


def test_an_error_has_the_exit_code_where_there_is_one() -> None:
    text = "The command '/bin/sh -c false' returned a non-zero code: 1"
    assert error_message(text, 1) == {"errorDetail": {"code": 1, "message": text}, "error": text}
    assert error_message("x") == {"errorDetail": {"message": "x"}, "error": "x"}


def _trace(events: list[BuildEvent], now: int = _SECOND) -> list[dict[str, Any]]:
    stream = TraceStream()
    return [m for event in events for m in stream.feed(event, now)]


def test_the_trace_has_the_form_of_rawjson() -> None:
    messages = _trace([
        _plan("RUN a", vertices={1: "v"}),
        VertexStarted("v", _SECOND),
        VertexLog("v", b"out\n", "stderr", 2 * _SECOND),
        VertexProgress("v", "layer", 1, 2),
        VertexDone("v", error="exit code: 1", time_ns=3 * _SECOND),
    ])  # fmt: skip
    assert {m["id"] for m in messages} == {"dockyard.trace"}
    planned, started, logged, counted, done = (m["aux"] for m in messages)
    head = {"digest": "v", "inputs": [], "name": "[1/1] RUN a", "line": 1, "lastLine": 1}
    assert planned == {"vertexes": [head]}
    assert started == {"vertexes": [{**head, "started": "1970-01-01T00:00:01Z"}]}
    assert logged == {"logs": [{"vertex": "v", "stream": 2, "data": "b3V0Cg==", "timestamp": "1970-01-01T00:00:02Z"}]}
    assert counted["statuses"][0]["current"] == 1
    assert done["vertexes"][0]["completed"] == "1970-01-01T00:00:03Z"
    assert done["vertexes"][0]["error"] == "exit code: 1"


def test_a_message_of_the_trace_does_not_change_when_more_is_known() -> None:
    stream = TraceStream()
    (planned,) = stream.feed(_plan("RUN a", vertices={1: "v"}), 0)
    stream.feed(VertexStarted("v"), _SECOND)
    assert "started" not in planned["aux"]["vertexes"][0]


def test_the_trace_ends_with_image_and_result() -> None:
    image, result = _trace([BuildResult(_IMAGE, "sha256:d", ("x:latest",), metadata={"k": "v"})])
    assert image == {"id": "moby.image.id", "aux": {"ID": _IMAGE}}
    assert result["aux"] == {"digest": "sha256:d", "names": ["x:latest"], "metadata": {"k": "v"}}


def test_warnings_name_their_line() -> None:
    (message,) = _trace([Warned("StageNameCasing", "text", "more", "", 3, 4, "FROM x AS Y\n")])
    assert message["aux"]["warnings"] == [
        {"level": 1, "rule": "StageNameCasing", "text": "text", "detail": "more", "line": 3, "lastLine": 4,
         "source": "FROM x AS Y\n"}
    ]  # fmt: skip
