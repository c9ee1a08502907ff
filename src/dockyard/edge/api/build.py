"""Builds over HTTP: `POST /build`, further contexts, outputs, cancelling, the cache.

Owns: the requests and their answers: Docker's classic stream of JSON, and with version=2 the trace that the `dockyard`
client shows (`build_classic`, `build_trace`). Does not own: the options (`build_options`), building (`engine.builds`).

Docker builds only with BuildKit's session what here every client can ask for by a parameter or a header more:
docs/build.md. A build ends when its client goes away, also before the first word of the answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiohttp import web
from msgspec import structs

from dockyard.edge.api import build_agents, build_classic, build_options, build_trace
from dockyard.edge.routing import Call, JsonStream, Route
from dockyard.engine.builds import exporting
from dockyard.engine.builds.pruning import CacheRecord
from dockyard.engine.builds.request import BuildRequest
from dockyard.model.build import BuildEvent, BuildOptions, BuildResult
from dockyard.model.errors import DockyardError, InvalidArgument
from dockyard.proto import dockerconfig
from dockyard.proto.dockerconfig import Credentials
from dockyard.proto.times import format_rfc3339

PRUNE_FILTERS = frozenset(
    {"until", "id", "parent", "type", "description", "inuse", "shared", "private", "unused-for"}
    | {"label", "label!"}  # of `docker system prune`, without effect here as in Docker: steps have no labels
)
_MAX_DOCKERFILE = 1 << 20  # bytes of one that comes beside a remote context
_TAR = "application/x-tar"
_OUTPUT, _CACHE = "dockyard.output", "dockyard.cache"

Message = dict[str, Any]
Events = AsyncGenerator[tuple[BuildEvent, list[Message]], None]


async def build(call: Call) -> web.StreamResponse:
    version = call.text("version", "1")
    if version not in ("", "1", "2"):
        raise InvalidArgument(f"invalid builder version {version[:20]!r}: 1 or 2 is expected")
    call.ends_with_client = True
    request = await _request(call)
    body = call.chunks() if call.request.can_read_body and not request.remote else None
    events = _with_outputs(request, call.engine.builds.build(request, body))
    tell = _traced if version == "2" else _quiet if call.flag("q") else _classic
    try:
        return await tell(call, events)
    finally:
        build_agents.release(call)


async def _request(call: Call) -> BuildRequest:
    secrets = build_options.secrets(call)
    agents = build_agents.agents(call)
    asked = build_options.options(call, frozenset(secrets), frozenset(agents))
    remote = call.text("remote")
    return BuildRequest(
        options=asked if call.text("version") == "2" else _as_classic(call, asked),
        dockerfile_text=await _dockerfile(call) if remote else None,
        remote=remote,
        contexts=build_options.uploads(call),
        secrets=secrets,
        ssh=agents,
        credentials=_credentials(call),
        build_id=call.text("buildid"),
    )


def _as_classic(call: Call, asked: BuildOptions) -> BuildOptions:
    """Image names in `cachefrom` mean something else to the classic builder: the images are here already, and where
    none of them is, there is no cache. What is written as `type=…` is ours and means the same in both versions."""
    names = [each.fields["ref"] for each in asked.cache_from if set(each.fields) == {"ref"} and each.type == "registry"]
    if not names:
        return asked
    here = any(_is_here(call, name) for name in names)
    rest = tuple(each for each in asked.cache_from if each.fields.get("ref") not in names)
    return structs.replace(asked, cache_from=rest, no_cache=asked.no_cache or not (here or rest))


def _is_here(call: Call, name: str) -> bool:
    try:
        call.engine.images.get(name)
    except DockyardError:
        return False
    return True


async def _dockerfile(call: Call) -> bytes | None:
    """Beside a remote context the body, if there is one, is the Dockerfile."""
    data = b""
    if call.request.can_read_body:
        async for part in call.chunks():
            data += part
            if len(data) > _MAX_DOCKERFILE:
                raise InvalidArgument(f"the Dockerfile beside a remote context is larger than {_MAX_DOCKERFILE} bytes")
    return data or None


def _credentials(call: Call) -> dict[str, Credentials]:
    """Registry → who the client is there. A header that cannot be read is none, as in Docker."""
    try:
        known = dockerconfig.decode_config(call.request.headers.get("X-Registry-Config", ""))
    except InvalidArgument:
        return {}
    return {dockerconfig.registry_of(server): entry for server, entry in known.items()}


async def _with_outputs(
    request: BuildRequest, events: AsyncGenerator[BuildEvent, None]
) -> AsyncGenerator[tuple[BuildEvent, list[Message]], None]:
    """Each event, and what is to be said of the build's outputs before it."""
    async with aclosing(events):
        async for event in events:
            yield event, _to_fetch(request.options, event) if isinstance(event, BuildResult) else []


def _to_fetch(options: BuildOptions, result: BuildResult) -> list[Message]:
    """`index`: which of `outputs`, or of `cacheto`; `directory`: where in it a platform's files belong."""
    messages: list[Message] = []
    for number, name, directory in exporting.to_fetch(options, result):
        aux = {"index": number, "id": name} | ({"directory": directory} if directory else {})
        messages.append({"id": _OUTPUT, "aux": aux})
    return messages + [{"id": _CACHE, "aux": {"index": number, "id": name}} for number, name in result.caches]


async def _classic(call: Call, events: Events) -> web.StreamResponse:
    stream = build_classic.ClassicStream()
    async with call.progress() as out, aclosing(events):
        try:
            async for event, before in events:
                for message in before + stream.feed(event):
                    await out.send(message)
        except DockyardError as error:
            await _fail(out, error)
    return out.response


async def _quiet(call: Call, events: Events) -> web.StreamResponse:
    """Only the image's ID; all that was kept back when the build fails."""
    stream = build_classic.ClassicStream()
    kept: list[Message] = []
    async with call.progress() as out, aclosing(events):
        try:
            async for event, before in events:
                kept += before + stream.feed(event)
        except DockyardError as error:
            for message in kept:
                await out.send(message)
            await _fail(out, error)
        else:
            for message in kept:
                if message.get("id") in (_OUTPUT, _CACHE):
                    await out.send(message)
                elif "aux" in message:
                    await out.send({"stream": f"{message['aux']['ID']}\n"})
    return out.response


async def _traced(call: Call, events: Events) -> web.StreamResponse:
    stream = build_trace.TraceStream()
    async with call.progress() as out, aclosing(events):
        try:
            async for event, before in events:
                for message in before + stream.feed(event, time.time_ns()):
                    await out.send(message)
        except DockyardError as error:
            await _fail(out, error)
    return out.response


async def _fail(out: JsonStream, error: DockyardError) -> None:
    """Tell an error in the stream, or, if nothing has been said yet, by the answer's status."""
    if not out.opened:
        raise error
    await out.send(build_classic.error_message(error.message, getattr(error, "exit_code", None)))


async def receive(call: Call) -> web.StreamResponse:
    """A further context (ours): kept until a build has used it, ten minutes at most."""
    if not call.request.can_read_body:
        raise InvalidArgument("a context's tar is expected as the body")
    return call.json({"ID": await call.engine.builds.receive(call.chunks())}, 201)


async def fetch(call: Call) -> web.StreamResponse:
    """An output of a build (ours): the message `dockyard.output` of its stream has named it."""
    return await _tar(call, call.engine.builds.output(call.path("id")))


async def export_mount(call: Call) -> web.StreamResponse:
    """A cache mount as a tar (ours)."""
    return await _tar(call, call.engine.builds.export_mount(call.text("id")))


async def _tar(call: Call, tar: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """An error before the first piece still gets its own status."""
    async with aclosing(tar) as chunks:
        first = await anext(chunks)
        response = await call.stream(_TAR)
        await response.write(first)
        async for chunk in chunks:
            await response.write(chunk)
    return response


async def import_mount(call: Call) -> web.StreamResponse:
    """A tar becomes a cache mount (ours)."""
    if not call.request.can_read_body:
        raise InvalidArgument("a tar is expected as the body")
    await call.engine.builds.import_mount(call.text("id"), call.chunks())
    return call.empty(201)


async def cancel(call: Call) -> web.StreamResponse:
    """Ends the build that was begun with this `buildid`. One that is over already is no error, as in Docker."""
    identifier = call.text("id")
    if not identifier:
        raise InvalidArgument("build ID not provided")
    await call.engine.builds.cancel(identifier)
    return call.empty(200)


async def prune(call: Call) -> web.StreamResponse:
    """Removes what of the cache nothing uses. Since API 1.48 the amount to keep is called reserved-space."""
    keep = call.integer("reserved-space") if call.has("reserved-space") else call.integer("keep-storage")
    gone, freed = await call.engine.builds.prune(
        call.filters(PRUNE_FILTERS),
        all=call.flag("all"),
        reserved=keep or 0,
        maximum=call.integer("max-used-space") or 0,
        free=call.integer("min-free-space") or 0,
    )
    return call.json({"CachesDeleted": list(gone) or None, "SpaceReclaimed": freed})


async def cache_records(call: Call) -> list[dict[str, Any]]:
    """BuildCache of `GET /system/df`."""
    return [_record(each, call.version) for each in await call.engine.builds.usage()]


def _record(record: CacheRecord, version: tuple[int, int]) -> dict[str, Any]:
    body = {
        "ID": record.id,
        "Type": record.type,
        "Description": record.description,
        "InUse": record.in_use,
        "Shared": record.shared,
        "Size": record.size,
        "CreatedAt": format_rfc3339(record.created_at),
        "LastUsedAt": format_rfc3339(record.last_used_at) if record.last_used_at else None,
        "UsageCount": record.usage_count,
    }
    if version >= (1, 42):
        return body | ({"Parents": list(record.parents)} if record.parents else {})
    return body | {"Parent": record.parents[0] if record.parents else ""}


ROUTES = [
    Route("POST", "/build", build),
    Route("POST", "/build/contexts", receive),
    Route("GET", "/build/outputs/{id}", fetch),
    Route("GET", "/build/mounts", export_mount),
    Route("POST", "/build/mounts", import_mount),
    Route("POST", "/build/cancel", cancel, since=(1, 39)),
    Route("POST", "/build/prune", prune, since=(1, 31)),
]
