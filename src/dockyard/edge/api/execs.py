"""Processes run in running containers, over HTTP: `/containers/{id}/exec`, `/exec/...`.

Owns: decoding these requests, encoding their answers. Does not own: relaying (`edge.streams`), what happens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from aiohttp import web
from msgspec import Struct

from dockyard.edge import streams
from dockyard.edge.api.containers import terminal_size
from dockyard.edge.routing import Call, Route
from dockyard.engine.execs import ExecConfig
from dockyard.model.errors import InvalidArgument
from dockyard.proto import frames
from dockyard.proto.detach import parse_keys
from dockyard.runtime.link import StartFailed


class StartRequest(Struct):
    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None  # [height, width]


async def create(call: Call) -> web.StreamResponse:
    config = await call.body(ExecConfig)
    if not config.cmd:
        raise InvalidArgument("No exec command specified")
    parse_keys(config.detach_keys)
    return call.json({"Id": await call.engine.execs.create(call.path("id"), config)}, status=201)


async def start(call: Call) -> web.StreamResponse:
    """Hijacks the connection unless the process is to run detached."""
    request = await call.optional_body(StartRequest) or StartRequest()
    execs = call.engine.execs
    process = execs.get(call.path("id"))
    config = process.config
    try:
        sock = await execs.start(process.id, detach=request.detach, console_size=request.console_size)
    except StartFailed as error:
        if request.detach:
            raise
        # Clients look for this text in the stream and then ask `inspect` for the exit code.
        await streams.hijack_with_error(call, error.message, tty=request.tty)
        return streams.finished()
    if sock is None:
        return call.empty(200)
    keys = parse_keys(config.detach_keys) if config.tty else None
    # Clients ask for the exit code as soon as the stream ends.
    until = process.handle.exit if process.handle is not None else None
    recode = _recoding(config, request.tty)
    if await streams.hijack(
        call, sock, tty=request.tty, stdin=config.attach_stdin, keys=keys, until=until, recode=recode
    ):
        execs.detached(process.id)
    return streams.finished()


def _recoding(config: ExecConfig, raw: bool) -> Callable[[bytes], bytes] | None:
    """What makes the stream that the client wants of the engine's; None if that is it already.

    Whether there is a terminal, and which streams are attached, is said at the creation; whether it is framed at the
    start (docker-py's `exec_start` of a terminal wants frames).
    """
    if config.tty:
        if not config.attach_stdout:
            return lambda data: b""
        return None if raw else partial(frames.frame, frames.STDOUT)
    if config.attach_stdout and config.attach_stderr and not raw:
        return None
    wanted = {frames.STDOUT: config.attach_stdout, frames.STDERR: config.attach_stderr}
    reader = frames.FrameReader()

    def recoded(data: bytes) -> bytes:
        parts = ((stream, part) for stream, part in reader.feed(data) if wanted.get(stream))
        return b"".join(part if raw else frames.frame(stream, part) for stream, part in parts)

    return recoded


async def inspect(call: Call) -> web.StreamResponse:
    process = call.engine.execs.get(call.path("id"))
    config = process.config
    described: dict[str, object] = {
        "tty": config.tty,
        "entrypoint": (config.cmd or [""])[0],
        "arguments": (config.cmd or [""])[1:],
        "privileged": config.privileged,
    }
    if process.user:
        described["user"] = process.user
    body: dict[str, object] = {
        "ID": process.id,
        "Running": process.running,
        "ExitCode": process.exit_code,
        "ProcessConfig": described,
        "OpenStdin": config.attach_stdin,
        "OpenStderr": config.attach_stderr,
        "OpenStdout": config.attach_stdout,
        "CanRemove": False,
        "ContainerID": process.container_id,
        "DetachKeys": config.detach_keys,
        "Pid": process.pid,
    }
    if config.timeout:  # ours
        body |= {"Timeout": config.timeout, "TimedOut": process.timed_out}
    return call.json(body)


async def kill(call: Call) -> web.StreamResponse:
    """Ours: `signal` as for a container; KILL ends everything that the process has started, too."""
    await call.engine.execs.kill(call.path("id"), call.text("signal"))
    return call.empty()


async def resize(call: Call) -> web.StreamResponse:
    await call.engine.execs.resize(call.path("id"), *terminal_size(call))
    return call.empty(200)


ROUTES = [
    Route("POST", "/containers/{id}/exec", create),
    Route("POST", "/exec/{id}/start", start),
    Route("POST", "/exec/{id}/resize", resize),
    Route("GET", "/exec/{id}/json", inspect),
    Route("POST", "/exec/{id}/kill", kill),
]
