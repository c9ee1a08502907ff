"""A build told as a graph: `POST /build` with version=2, which `dockyard build` renders.

Owns: the JSON of each event. It is the form of buildx's `--progress=rawjson` (vertexes, statuses, logs, warnings), so
that whoever reads that can read this. Does not own: the events (`model.build`), sending. Pure.
"""

from __future__ import annotations

import base64
from typing import Any

from dockyard.model.build import (
    BuildEvent,
    BuildResult,
    Planned,
    VertexDone,
    VertexInfo,
    VertexLog,
    VertexProgress,
    VertexStarted,
    Warned,
)
from dockyard.proto.times import format_rfc3339

TRACE = "dockyard.trace"  # the message's `id`; its `aux` is the document
IMAGE = "moby.image.id"  # `aux` is {"ID": …}, as BuildKit behind the Engine API says it
RESULT = "dockyard.result"

Message = dict[str, Any]


class TraceStream:
    """Events → messages. It remembers each vertex's head: a vertex is always told whole."""

    def __init__(self) -> None:
        self._vertices: dict[str, dict[str, Any]] = {}

    def feed(self, event: BuildEvent, now: int) -> list[Message]:
        """`now`: wall clock in ns, for events that carry no time."""
        if isinstance(event, Planned):
            return [_trace(vertexes=[self._head(vertex) for vertex in event.vertices])]
        if isinstance(event, VertexStarted):
            return [_trace(vertexes=[self._update(event.vertex, started=format_rfc3339(event.time_ns or now))])]
        if isinstance(event, VertexDone):
            return [_trace(vertexes=[self._done(event, now)])]
        if isinstance(event, VertexLog):
            log = {"vertex": event.vertex, "stream": 2 if event.stream == "stderr" else 1}
            log |= {"data": _text(event.data), "timestamp": format_rfc3339(event.time_ns or now)}
            return [_trace(logs=[log])]
        if isinstance(event, VertexProgress):
            status = {"id": event.label, "vertex": event.vertex, "name": event.label, "current": event.current}
            return [_trace(statuses=[status | {"total": event.total, "timestamp": format_rfc3339(now)}])]
        if isinstance(event, Warned):
            return [_trace(warnings=[_warning(event)])]
        if isinstance(event, BuildResult):
            return _result(event)
        return []

    def _head(self, info: VertexInfo) -> dict[str, Any]:
        vertex: dict[str, Any] = {"digest": info.id, "inputs": list(info.inputs), "name": info.name}
        if info.first_line:
            vertex |= {"line": info.first_line, "lastLine": info.last_line}
        self._vertices.setdefault(info.id, vertex)
        return dict(vertex)

    def _update(self, identifier: str, **values: Any) -> dict[str, Any]:
        vertex = self._vertices.setdefault(identifier, {"digest": identifier, "name": identifier})
        vertex |= values
        return dict(vertex)

    def _done(self, event: VertexDone, now: int) -> dict[str, Any]:
        when = format_rfc3339(event.time_ns or now)
        known = self._vertices.get(event.vertex, {})
        more: dict[str, Any] = {"started": known.get("started", when), "completed": when}
        if event.cached:
            more["cached"] = True
        if event.error:
            more["error"] = event.error
        return self._update(event.vertex, **more)


def _trace(**parts: Any) -> Message:
    return {"id": TRACE, "aux": parts}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _warning(event: Warned) -> dict[str, Any]:
    warning: dict[str, Any] = {"level": event.level, "rule": event.rule, "text": event.text, "detail": event.detail}
    if event.url:
        warning["url"] = event.url
    if event.first_line:
        warning |= {"line": event.first_line, "lastLine": event.last_line, "source": event.source}
    return warning


def _result(event: BuildResult) -> list[Message]:
    messages: list[Message] = []
    if event.image_id:
        messages.append({"id": IMAGE, "aux": {"ID": event.image_id}})
    aux = {"digest": event.digest, "names": list(event.names), "metadata": event.metadata}
    return [*messages, {"id": RESULT, "aux": aux}]
