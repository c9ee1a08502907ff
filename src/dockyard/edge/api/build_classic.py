"""A build told as Docker's classic builder tells it: step by step, in order.

Owns: the texts and the order of the JSON messages of `POST /build` (version 1), which the docker CLI prints and
docker-py searches. Does not own: the events (`model.build`), sending. Pure.

Steps run side by side, but this stream has one place to write at: a step's output is kept until every step before it
has been told. docker-py finds the image by "Successfully built ID", the docker CLI by the `aux` message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from dockyard.model.build import (
    UNUSED_ARGUMENT,
    BuildEvent,
    BuildResult,
    Planned,
    StepInfo,
    VertexDone,
    VertexLog,
    VertexProgress,
    VertexStarted,
    Warned,
)

_SHORT = 12
_RED, _RESET = "\x1b[91m", "\x1b[0m"  # Docker's marks around what a step wrote to stderr

Message = dict[str, Any]


class ClassicStream:
    """Events → messages. `feed` each event in turn; a build that fails ends with `error_message` of its error."""

    def __init__(self) -> None:
        self._steps: list[StepInfo] = []
        self._at = 0  # the step that has the word
        self._announced = False
        self._waiting: dict[str, list[BuildEvent]] = {}  # vertex → what it has said, for its turn
        self._over: set[str] = set()

    def feed(self, event: BuildEvent) -> list[Message]:
        if isinstance(event, Planned):
            self._steps += event.steps
            return list(self._advance())
        if isinstance(event, (VertexStarted, VertexDone, VertexLog, VertexProgress)):
            self._waiting.setdefault(event.vertex, []).append(event)
            if isinstance(event, VertexDone):
                self._over.add(event.vertex)
            return list(self._advance())
        if isinstance(event, Warned):
            return [_stream(f"[Warning] {event.text}\n")] if event.rule == UNUSED_ARGUMENT else []
        if isinstance(event, BuildResult):
            return list(_result(event))
        return []

    def _advance(self) -> Iterator[Message]:
        """Tell what may be told now: of the step that has the word, then of the next ones if it is over."""
        while self._at < len(self._steps):
            step = self._steps[self._at]
            if not self._announced:
                self._announced = True
                yield _stream(f"Step {step.number}/{step.of} : {step.text}\n")
                if step.triggers:
                    yield _stream(f"# Executing {step.triggers} build trigger{'s' if step.triggers > 1 else ''}\n")
            if step.vertex is None:
                cached = self._was_there()
                if cached is None:
                    return
                if cached:
                    yield _stream(" ---> Using cache\n")
            else:
                for event in self._waiting.pop(step.vertex, ()):
                    yield from _told(step, event)
                if step.vertex not in self._over:
                    return
            self._at += 1
            self._announced = False

    def _was_there(self) -> bool | None:
        """Whether a step that only sets something was there before: it was if the next one of its stage that makes
        files was. None: that cannot be told yet. Behind the last such step nobody knows."""
        for step in self._steps[self._at + 1 :]:
            if step.text[:5].upper().startswith("FROM"):
                return False
            if step.vertex is not None:
                said = self._waiting.get(step.vertex)
                return None if not said else isinstance(said[0], VertexDone) and said[0].cached
        return False


def _told(step: StepInfo, event: BuildEvent) -> Iterator[Message]:
    runs = step.text[:4].upper().startswith("RUN")
    if isinstance(event, VertexStarted):
        if runs:
            yield _stream(f" ---> Running in {_container(event.vertex)}\n")
    elif isinstance(event, VertexLog):
        text = event.data.decode("utf-8", "replace")
        yield _stream(f"{_RED}{text}{_RESET}" if event.stream == "stderr" else text)
    elif isinstance(event, VertexProgress):
        detail = {"current": event.current, "total": event.total} if event.total else {}
        yield {"status": "Downloading" if detail else event.label, "progressDetail": detail, "id": event.label[:_SHORT]}
    elif isinstance(event, VertexDone) and not event.error:
        if event.cached and not step.text[:5].upper().startswith("FROM"):
            yield _stream(" ---> Using cache\n")
        elif runs:
            yield _stream(f"Removing intermediate container {_container(event.vertex)}\n")
        if event.image_id:
            yield _stream(f" ---> {short(event.image_id)}\n")


def _result(event: BuildResult) -> Iterator[Message]:
    if event.image_id:
        yield {"aux": {"ID": event.image_id}}
        yield _stream(f"Successfully built {short(event.image_id)}\n")
    for name in event.names:
        yield _stream(f"Successfully tagged {name}\n")


def _container(vertex: str) -> str:
    """A step's container has no ID that a client could use; what stands here tells one step from another."""
    return hashlib.sha256(vertex.encode()).hexdigest()[:_SHORT]


def short(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:_SHORT]


def _stream(text: str) -> Message:
    return {"stream": text}


def error_message(message: str, code: int | None = None) -> Message:
    """The last message of a build that failed; `code`: a RUN's exit code, which the docker CLI exits with."""
    detail: Message = {"message": message} if code is None else {"code": code, "message": message}
    return {"errorDetail": detail, "error": message}
