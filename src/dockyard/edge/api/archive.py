"""A container's files over HTTP: `/containers/{id}/archive`, `changes`, `export`, `fork`, and `/commit`.

Owns: decoding these requests, encoding their answers: Docker's description of a path with Go's file modes. Does not
own: what happens (`engine.files`, `engine.committing`, `engine.forking`).
"""

from __future__ import annotations

import base64
import stat
from collections.abc import AsyncIterator, Collection
from typing import Any, Final

from aiohttp import web
from msgspec import Struct

from dockyard.edge.api import wire
from dockyard.edge.api.containers import CreateRequest
from dockyard.edge.routing import Call, Route
from dockyard.engine.files import PathStat
from dockyard.engine.forking import Overrides
from dockyard.model.container import ContainerConfig, EndpointSettings, HostConfig
from dockyard.model.errors import InvalidArgument
from dockyard.proto.times import format_rfc3339

_TAR: Final = "application/x-tar"
_STAT_HEADER: Final = "X-Docker-Container-Path-Stat"
# os.FileMode of Go: the permissions, and a bit for each kind of file.
_KINDS: Final = {
    stat.S_IFDIR: 1 << 31, stat.S_IFLNK: 1 << 27, stat.S_IFBLK: 1 << 26, stat.S_IFIFO: 1 << 25, stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21, stat.S_IFREG: 0,
}  # fmt: skip
_BITS: Final = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


def path_stat(found: PathStat) -> dict[str, Any]:
    """ContainerPathStat."""
    mode = found.mode & 0o777 | _KINDS[stat.S_IFMT(found.mode)]
    for bit, meaning in _BITS.items():
        mode |= meaning if found.mode & bit else 0
    return {
        "name": _text(found.name),
        "size": found.size,
        "mode": mode,
        "mtime": format_rfc3339(found.mtime_ns),
        "linkTarget": _text(found.link_target),
    }


def _text(name: str) -> str:
    """A name of any bytes as JSON can hold it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _headers(found: PathStat) -> dict[str, str]:
    return {_STAT_HEADER: base64.b64encode(wire.encode(path_stat(found))).decode()}


def _path(call: Call) -> str:
    path = call.text("path")
    if not path:
        raise InvalidArgument("bad parameter: path cannot be empty")
    if "\0" in path:
        raise InvalidArgument("bad parameter: path contains a NUL byte")
    return path


async def look(call: Call) -> web.StreamResponse:
    found = await call.engine.files.look(call.path("id"), _path(call))
    return web.Response(headers=_headers(found))


async def get(call: Call) -> web.StreamResponse:
    async with call.engine.files.archive(call.path("id"), _path(call)) as (found, chunks):
        return await _send(call, _TAR, chunks, _headers(found))


async def put(call: Call) -> web.StreamResponse:
    await call.engine.files.extract(
        call.path("id"),
        _path(call),
        call.chunks(),
        keep_kinds=call.flag("noOverwriteDirNonDir"),
        own=call.flag("copyUIDGID"),
    )
    return call.empty(200)


async def export(call: Call) -> web.StreamResponse:
    async with call.engine.files.export(call.path("id")) as chunks:
        return await _send(call, "application/octet-stream", chunks)


async def _send(
    call: Call, content_type: str, chunks: AsyncIterator[bytes], headers: dict[str, str] | None = None
) -> web.StreamResponse:
    response = await call.stream(content_type, headers=headers)
    async for chunk in chunks:
        await response.write(chunk)
    return response


async def changes(call: Call) -> web.StreamResponse:
    found = await call.engine.files.changes(call.path("id"))
    return call.json([{"Path": change.path, "Kind": change.kind} for change in found] or None)


async def commit(call: Call) -> web.StreamResponse:
    image_id = await call.engine.files.commit(
        call.text("container"),
        config=await call.optional_body(ContainerConfig),
        changes=call.texts("changes"),
        author=call.text("author"),
        comment=call.text("comment"),
        pause=call.flag("pause", True) or not call.text("pause"),
        repository=call.text("repo"),
        tag=call.text("tag"),
    )
    return call.json({"Id": image_id}, status=201)


async def fork(call: Call) -> web.StreamResponse:
    """An extension of ours: see docs/extensions.md."""
    made, warnings = await call.engine.files.fork(
        call.path("id"),
        call.text("name").removeprefix("/"),
        _overrides(await call.document()),
        pause=call.flag("pause", True),
    )
    return call.json({"Id": made.id, "Warnings": warnings}, status=201)


def _overrides(body: bytes | None) -> Overrides:
    """What a body of `create`'s shape says, and only that: a field that is not there stays as the container has it."""
    if body is None:
        return Overrides()
    request = wire.decode(body, CreateRequest)
    document = wire.fields(body)
    host = {key.lower() for key in document.get("hostconfig") or ()}
    networking = request.networking_config
    networks = None
    if networking is not None and networking.endpoints_config is not None:
        networks = {name: asked or EndpointSettings() for name, asked in networking.endpoints_config.items()}
    return Overrides(
        config=_given(request, ContainerConfig, document.keys()),
        host=_given(request.host_config, HostConfig, host) if request.host_config is not None else {},
        networks=networks,
    )


def _given(value: Struct, shape: type[Struct], keys: Collection[str]) -> dict[str, Any]:
    names = [name for name in shape.__struct_fields__ if wire.docker_name(name).lower() in keys]
    return {name: getattr(value, name) for name in names}


ROUTES = [
    Route("POST", "/commit", commit),
    Route("POST", "/containers/{id}/fork", fork),
    Route("HEAD", "/containers/{id}/archive", look),
    Route("GET", "/containers/{id}/archive", get),
    Route("PUT", "/containers/{id}/archive", put),
    Route("GET", "/containers/{id}/changes", changes),
    Route("GET", "/containers/{id}/export", export),
]
