"""Blobs and their uploads over HTTP.

Owns: the rules of POST, PATCH, PUT, GET and DELETE below /v2/NAME/blobs/. Source: OCI distribution-spec 1.1 "Pulling
blobs", "Pushing blobs", "Mounting a blob from another repository". Locations are relative: the registry does not have
to know under which name it is reached.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import aclosing

from aiohttp import web

from dockyard.edge.registry import sending
from dockyard.edge.registry.service import Exchange
from dockyard.registry import names
from dockyard.registry.cache import Cache
from dockyard.registry.errors import RegistryError, WrongOffset
from dockyard.registry.uploads import Upload

_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/(?:\d+|\*))?\Z")


async def get(call: Exchange) -> web.StreamResponse:
    """GET and HEAD of a blob."""
    digest = names.check_digest(call.argument)
    request, service = call.request, call.service
    head = request.method == "HEAD"
    if service.cache is not None and (answer := await _from_upstream(call, service.cache, digest)) is not None:
        return answer
    blob = await call.core.blobs.find(call.repository, digest)
    if head and service.cache is None and not service.configuration.read_only and call.may(call.repository, "push"):
        await call.core.blobs.renew(call.repository, blob)
    response = web.StreamResponse(headers=_blob_headers(digest))
    if sending.is_cached(request, digest):
        response.set_status(304)
        await response.prepare(request)
        return response
    part = sending.parse_range(request.headers.get("Range", ""), blob.size)
    start, length = part or (0, blob.size)
    if part:
        response.set_status(206)
        response.headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{blob.size}"
    response.content_length = length
    fd, key = await call.core.blobs.open(blob)
    try:
        if head:
            await response.prepare(request)
            return response
        if fd is not None:
            await sending.send_file(request, response, fd, start, length)
        else:
            await sending.send_stream(request, response, call.core.blobs.stream(key, start, length))
    except Exception as error:
        if response.prepared and request.transport is not None:  # an error's text must not become the blob's bytes
            request.transport.abort()
            raise ConnectionResetError(f"blob {digest} could not be sent whole: {error}") from error
        raise
    finally:
        if fd is not None:
            os.close(fd)
    service.metrics.sent(length)
    await service.notifier.pull(call, digest, blob.size, "application/octet-stream")
    return response


async def _from_upstream(call: Exchange, cache: Cache, digest: str) -> web.StreamResponse | None:
    """What a cache answers of a blob that it does not have; None once it has it."""
    request = call.request
    response = web.StreamResponse(headers=_blob_headers(digest))
    if request.method == "HEAD":
        response.content_length = await cache.size(call.repository, digest)
        await response.prepare(request)
        return response
    if request.headers.get("Range") or sending.is_cached(request, digest):
        await cache.blob(call.repository, digest)
        return None
    found = await cache.arriving(call.repository, digest)
    if found is None:
        return None
    size, chunks = found
    response.content_length = size
    try:
        async with aclosing(chunks):
            await sending.send_stream(request, response, chunks)
    except Exception as error:
        if response.prepared and request.transport is not None:  # an error's text must not become the blob's bytes
            request.transport.abort()
            raise ConnectionResetError(f"blob {digest} could not be sent whole: {error}") from error
        raise
    call.service.metrics.sent(size)
    await call.service.notifier.pull(call, digest, size, "application/octet-stream")
    return response


def _blob_headers(digest: str) -> dict[str, str]:
    return {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "max-age=31536000, immutable",
    }


async def delete(call: Exchange) -> web.StreamResponse:
    call.service.refuse_writing()
    digest = names.check_digest(call.argument)
    await call.core.blobs.release(call.repository, digest)
    await call.service.notifier.delete(call, digest=digest)
    return web.Response(status=202)


async def begin(call: Exchange) -> web.StreamResponse:
    """POST: a mount, a whole blob, or the beginning of an upload."""
    call.service.refuse_writing()
    if call.query("mount") and (answer := await _mount(call)):
        return answer
    digest = call.query("digest")
    if digest:
        names.check_digest(digest)
    identifier = await call.core.uploads.begin(call.repository)
    if not digest:
        return _progress(call, Upload(identifier, call.repository, 0), 202)
    return await _finish(call, Upload(identifier, call.repository, 0), digest)


async def _mount(call: Exchange) -> web.StreamResponse | None:
    """None when there is nothing to mount: an upload begins instead."""
    digest, source = names.check_digest(call.query("mount")), call.query("from")
    if source:
        found = (
            names.is_repository(source)
            and call.may(source, "pull")
            and await call.core.blobs.look(source, digest) is not None
        )
    else:
        found = await _is_somewhere(call, digest)
    if not found:
        return None
    size = await call.core.backend.below(names.blob_folder(digest))
    await _check_quota(call, digest, max((entry.size for entry in size.files), default=0))
    if not await call.core.blobs.lease(call.repository, digest):
        return None
    await call.service.notifier.mount(call, digest, source)
    return _created(call, digest)


async def _is_somewhere(call: Exchange, digest: str) -> bool:
    """In any repository that the client may pull from."""
    if await call.core.blobs.look(call.repository, digest) is not None:
        return True
    if await call.core.blobs.instance(digest) is None:
        return False
    async for repository in call.core.catalogue.stems():
        if call.may(repository, "pull") and await call.core.blobs.look(repository, digest) is not None:
            return True
    return False


async def status(call: Exchange) -> web.StreamResponse:
    return _progress(call, await call.core.uploads.get(call.repository, call.argument), 204)


async def append(call: Exchange) -> web.StreamResponse:
    """PATCH: a chunk, or a stream without end."""
    call.service.refuse_writing()
    upload = await call.core.uploads.get(call.repository, call.argument)
    _check_position(call, upload)
    size = await _take(call, upload)
    return _progress(call, upload._replace(size=size), 202)


async def finish(call: Exchange) -> web.StreamResponse:
    """PUT: the end of an upload, perhaps with the last bytes of it."""
    call.service.refuse_writing()
    digest = names.check_digest(call.query("digest"))
    upload = await call.core.uploads.get(call.repository, call.argument)
    _check_position(call, upload)
    return await _finish(call, upload, digest)


async def _finish(call: Exchange, upload: Upload, digest: str) -> web.StreamResponse:
    if call.request.body_exists:
        upload = upload._replace(size=await _take(call, upload))
    try:
        await _check_quota(call, digest, upload.size)
    except RegistryError:
        await call.core.uploads.cancel(upload.identifier)
        raise
    size = await call.core.uploads.finish(upload, digest)
    await call.service.notifier.push_blob(call, digest, size)
    return _created(call, digest)


async def cancel(call: Exchange) -> web.StreamResponse:
    call.service.refuse_writing()
    upload = await call.core.uploads.get(call.repository, call.argument)
    await call.core.uploads.cancel(upload.identifier)
    return web.Response(status=204)


def _check_position(call: Exchange, upload: Upload) -> None:
    """Content-Range has to begin where the upload ends: 416 if not, with the Range that we have."""
    header = call.request.headers.get("Content-Range", "")
    if not header:
        return
    match = _CONTENT_RANGE.match(header)
    if not match or int(match[2]) + 1 < int(match[1]):
        raise RegistryError("BLOB_UPLOAD_INVALID", "Content-Range is not FIRST-LAST", header[:100])
    first, last = int(match[1]), int(match[2])
    length = call.request.content_length
    if length is not None and length != last - first + 1 and not (length == 0 and call.request.method == "PUT"):
        raise RegistryError("SIZE_INVALID", detail={"range": header, "length": length})
    if first != upload.size:
        raise _out_of_order(call, upload)


def _out_of_order(call: Exchange, upload: Upload) -> RegistryError:
    return RegistryError(
        "BLOB_UPLOAD_INVALID",
        f"the upload has {upload.size} bytes",
        status=416,
        headers=_position(call, upload),
    )


async def _take(call: Exchange, upload: Upload) -> int:
    """The request's body into the upload; its new size."""
    limit = await _limit(call)
    length = call.request.content_length or 0
    if limit is not None and upload.size + length > limit:
        await call.core.uploads.cancel(upload.identifier)
        raise _too_much(limit)
    await call.expect()
    try:
        return await call.core.uploads.append(upload, _body(call, upload.size, limit))
    except WrongOffset as error:
        raise _out_of_order(call, upload._replace(size=error.size)) from None
    except (RegistryError, OSError) as error:
        if isinstance(error, ConnectionError):
            raise  # what came stays: the client may go on
        if not (isinstance(error, RegistryError) and error.status in (404, 409)):
            await call.core.uploads.cancel(upload.identifier)
        raise


async def _body(call: Exchange, size: int, limit: int | None) -> AsyncIterator[bytes]:
    """As they came, not joined: joining would copy each byte once more."""
    content = call.request.content
    while True:
        data, end_of_chunk = await content.readchunk()
        if not data:
            if end_of_chunk:
                continue
            return
        size += len(data)
        if limit is not None and size > limit:
            raise _too_much(limit)
        call.service.metrics.received(len(data))
        yield data


async def _limit(call: Exchange) -> int | None:
    """The most bytes that this blob may have."""
    limits = [call.service.configuration.max_blob] if call.service.configuration.max_blob else []
    quota = call.service.configuration.quota(call.repository)
    if quota is not None:
        limits.append(quota)
    return min(limits) if limits else None


async def _check_quota(call: Exchange, digest: str, size: int) -> None:
    quota = call.service.configuration.quota(call.repository)
    if quota is not None and await call.core.blobs.usage(call.repository, digest) + size > quota:
        raise _too_much(quota)


def _too_much(limit: int) -> RegistryError:
    return RegistryError("DENIED", f"quota exceeded: at most {limit} bytes")


def _position(call: Exchange, upload: Upload) -> dict[str, str]:
    return {
        "Location": f"/v2/{call.repository}/blobs/uploads/{upload.identifier}",
        "Range": f"0-{max(upload.size - 1, 0)}",
        "Docker-Upload-UUID": upload.identifier,
    }


def _progress(call: Exchange, upload: Upload, code: int) -> web.Response:
    return web.Response(status=code, headers=_position(call, upload))


def _created(call: Exchange, digest: str) -> web.Response:
    headers = {"Location": f"/v2/{call.repository}/blobs/{digest}", "Docker-Content-Digest": digest}
    return web.Response(status=201, headers=headers)
