"""One build from the client's side: send, show, keep what comes out.

Owns: the requests of one build in their order (named contexts, the build, outputs), the choice of a progress display,
the files that `--iidfile` and `--metadata-file` name. Does not own: the flags (`commands.build`), rendering (`plain`,
`live`), the context (`source`).
"""

from __future__ import annotations

import json
import os
import sys
import time

from dockyard.edge.cli.api import json_values
from dockyard.edge.cli.building import plain, request
from dockyard.edge.cli.building.source import Source
from dockyard.edge.cli.building.trace import Trace
from dockyard.edge.cli.call import Call
from dockyard.edge.cli.errors import FAILED, CliError
from dockyard.edge.cli.terminal import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from dockyard.edge.cli.building.agent import Agents
    from dockyard.edge.cli.building.live import Live

MODES = ("auto", "plain", "tty", "rawjson", "quiet", "none")
_CONTEXT = "client:context"
_ERR = 2
_TIMES = ("started", "completed")


class Result:
    """What a build that went well has made."""

    def __init__(self) -> None:
        self.image = ""  # sha256:…
        self.digest = ""
        self.names: list[str] = []
        self.metadata: dict[str, Any] = {}
        self.warnings: list[dict[str, Any]] = []
        self.outputs: list[dict[str, Any]] = []  # what is to be fetched: {"index": n, "id": …}
        self.caches: list[dict[str, Any]] = []  # the same of --cache-to


class Display:
    """Messages of one build on standard error, as `--progress` says."""

    def __init__(self, mode: str) -> None:
        if mode == "auto":
            mode = "tty" if is_terminal(_ERR) else "plain"
        self.mode = mode
        self.trace = Trace()
        self._plain = plain.Plain()
        self._live: Live | None = None
        if mode == "tty":
            from dockyard.edge.cli.building.live import Live

            self._live = Live(self.trace, _ERR)

    def feed(self, document: dict[str, Any]) -> None:
        change = self.trace.feed(document)
        if self.mode == "rawjson":
            _write(json.dumps(_with_texts(document)) + "\n")
        elif self.mode == "plain":
            _write(self._plain.show(change))

    def close(self) -> None:
        """Everything is drawn; afterwards the terminal belongs to others."""
        if self._live is not None:
            live, self._live = self._live, None
            live.close()

    def warn(self) -> None:
        if self.mode in ("plain", "tty"):
            _write(plain.warnings(self.trace.warnings))


def _with_texts(document: dict[str, Any]) -> dict[str, Any]:
    """The client's own steps have times as numbers; a trace has texts."""
    from dockyard.proto.times import format_rfc3339

    vertexes = [
        {
            key: format_rfc3339(value) if isinstance(value, int) and key in _TIMES else value
            for key, value in each.items()
        }
        for each in document.get("vertexes") or ()
    ]
    return {**document, "vertexes": vertexes} if vertexes else document


def _write(text: str) -> None:
    if text:
        sys.stderr.write(text)
        sys.stderr.flush()


def run(
    call: Call, source: Source, contexts: dict[str, str], outputs: list[dict[str, Any]], *, check: bool = False
) -> Result:
    """One build by a Dockyard daemon, or its check. CliError with all that there is to say about one that failed."""
    query = request.query(call, ours=True) | ({"call": "check"} if check else {})
    query |= {"remote": source.remote or None, "dockerfile": source.dockerfile or None}
    query |= {"contexts": json.dumps(contexts) if contexts else None}
    query |= {"outputs": json.dumps(outputs) if outputs else None}
    agents: Agents | None = None
    display = Display("quiet" if call.on("quiet") or check else call.text("progress"))
    result = Result()
    try:
        agents = _agents(call, check)
        if agents is not None:
            query |= {"session": agents.token, "ssh": json.dumps(agents.ids)}
        body = b"" if source.body is None else _told(source.body, display)
        response = call.api.send("POST", "/build", query, raw=body, headers=request.headers(call, True), fresh=True)
        for message in json_values(response.chunks()):
            _take(message, display, result, source)
    finally:
        display.close()
        if agents is not None:
            agents.close()
    display.warn()
    result.warnings = display.trace.warnings
    return result


def _agents(call: Call, check: bool) -> Agents | None:
    """`--ssh`."""
    if check or not call.texts("ssh"):
        return None
    from dockyard.edge.cli.building.agent import Agents
    from dockyard.proto import buildspec

    call.api.version  # noqa: B018  # asked before threads share the connection
    return Agents(call.api, [buildspec.agent(text) for text in call.texts("ssh")])


def _told(body: Iterable[bytes], display: Display) -> Iterator[bytes]:
    """The context's pieces, with a step of its own that tells how far it is."""
    begun = time.time_ns()
    vertex = {"digest": _CONTEXT, "name": "[internal] send build context", "started": begun}
    display.feed({"vertexes": [vertex]})
    sent = 0
    try:
        for piece in body:
            yield piece
            sent += len(piece)
            display.feed({"statuses": [_counter(sent, False)]})
    except CliError as error:
        display.feed({"vertexes": [vertex | {"completed": time.time_ns(), "error": error.message}]})
        raise
    display.feed({"statuses": [_counter(sent, True)], "vertexes": [vertex | {"completed": time.time_ns()}]})


def _counter(sent: int, done: bool) -> dict[str, Any]:
    status: dict[str, Any] = {"id": "context", "vertex": _CONTEXT, "name": "transferring context:", "current": sent}
    return status | ({"completed": True} if done else {"total": sent})


def _take(message: dict[str, Any], display: Display, result: Result, source: Source) -> None:
    if "error" in message:
        display.close()
        raise _failed(message, display, source)
    kind, aux = message.get("id"), message.get("aux")
    if not isinstance(aux, dict):
        return
    if kind == "dockyard.trace":
        display.feed(aux)
    elif kind == "moby.image.id":
        result.image = str(aux["ID"])
    elif kind == "dockyard.result":
        result.digest, result.names = str(aux.get("digest") or ""), list(aux.get("names") or ())
        result.metadata = dict(aux.get("metadata") or {})
    elif kind == "dockyard.output":
        result.outputs.append(aux)
    elif kind == "dockyard.cache":
        result.caches.append(aux)


def _failed(message: dict[str, Any], display: Display, source: Source) -> CliError:
    detail, step = message.get("errorDetail") or {}, display.trace.failed
    text = str(detail.get("message") or message["error"])
    code = int(detail.get("code") or FAILED)
    if display.mode == "rawjson":
        return CliError(text, code)
    lines = plain.excerpt(source.name, source.text, *step.lines) if step is not None and source.text else ""
    _write(plain.failure(step, text, lines) + "\n")
    return CliError("", code)


def run_classic(call: Call, source: Source) -> Result:
    """One build by an engine that is no Dockyard: the classic API, the classic output."""
    query = request.query(call, ours=False)
    query |= {"remote": source.remote or None, "dockerfile": source.dockerfile or None}
    response = call.api.send(
        "POST", "/build", query, raw=source.body or b"", headers=request.headers(call, False), fresh=True
    )
    result = Result()
    quiet = call.on("quiet") or call.text("progress") == "quiet"
    for message in json_values(response.chunks()):
        if "error" in message:
            detail = message.get("errorDetail") or {}
            raise CliError(str(detail.get("message") or message["error"]), int(detail.get("code") or FAILED))
        if isinstance(message.get("aux"), dict):
            result.image = str(message["aux"].get("ID") or result.image)
        elif "stream" in message and not quiet:
            _write(str(message["stream"]))
        elif "stream" in message:
            result.image = result.image or str(message["stream"]).strip()
    return result


def upload(call: Call, body: bytes | Iterable[bytes]) -> str:
    """A further context; how the build is to name it."""
    response = call.api.send("POST", "/build/contexts", raw=body, fresh=True)
    return f"upload:{json.loads(response.read())['ID']}"


def keep(call: Call, result: Result) -> None:
    """Write what `--iidfile` and `--metadata-file` ask for; each file appears whole or not at all."""
    if path := call.text("iidfile"):
        _put(path, (result.digest if _is_index(result) else result.image).encode())
    if path := call.text("metadata-file"):
        names = {"image.name": ",".join(result.names)} if result.names else {}
        found = {"containerimage.config.digest": result.image} if result.image and not _is_index(result) else {}
        digest = {"containerimage.digest": result.digest} if result.digest else {}
        _put(path, (json.dumps({**found, **digest, **names, **result.metadata}, indent=2) + "\n").encode())


def _is_index(result: Result) -> bool:
    """Several platforms, or attestations: such a build is known by its index, as buildx has it."""
    return ".index." in str((result.metadata.get("containerimage.descriptor") or {}).get("mediaType"))


def _put(path: str, data: bytes) -> None:
    temporary = f"{path}.dockyard-{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    except OSError as error:
        raise CliError(f"{path}: {(error.strerror or str(error)).lower()}") from None
