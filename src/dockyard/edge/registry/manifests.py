"""Manifests, tags, referrers, catalog and search over HTTP.

Owns: the rules of these endpoints and their pages. Source: OCI distribution-spec 1.1; Docker's registry API for the
catalog; Docker's v1 search, which `docker search HOST/TERM` still asks.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web

from dockyard.edge.registry.sending import is_cached
from dockyard.edge.registry.service import Exchange
from dockyard.model import oci
from dockyard.registry import names
from dockyard.registry.catalogue import page
from dockyard.registry.documents import MAX_MANIFEST
from dockyard.registry.errors import RegistryError

_REFERRERS_PAGE = 1000
_CATALOG_PAGE = 1000
_SEARCH_MOST = 100


def _json(document: Any, **more: Any) -> web.Response:
    more.setdefault("content_type", "application/json")
    return web.Response(body=msgspec.json.encode(document), **more)


async def get(call: Exchange) -> web.StreamResponse:
    """GET and HEAD of a manifest."""
    if call.service.cache is not None:
        stored = await call.service.cache.manifest(call.repository, call.argument)
    else:
        stored = await call.core.manifests.get(call.repository, call.argument)
    headers = {
        "Content-Type": stored.media_type,
        "Docker-Content-Digest": stored.digest,
        "ETag": f'"{stored.digest}"',
    }
    if is_cached(call.request, stored.digest):
        return web.Response(status=304, headers=headers)
    if call.request.method == "HEAD":
        response = web.StreamResponse(headers=headers)
        response.content_length = len(stored.content)
        await response.prepare(call.request)
        return response
    await call.service.notifier.pull(call, stored.digest, len(stored.content), stored.media_type)
    return web.Response(body=stored.content, headers=headers)


async def put(call: Exchange) -> web.StreamResponse:
    call.service.refuse_writing()
    content = await _small_body(call)
    kind = call.request.headers.get("Content-Type", "")
    pushed = await call.core.manifests.put(call.repository, call.argument, content, kind)
    headers = {
        "Location": f"/v2/{call.repository}/manifests/{pushed.digest}",
        "Docker-Content-Digest": pushed.digest,
    }
    if pushed.subject:
        headers["OCI-Subject"] = pushed.subject
    await call.service.notifier.push_manifest(call, pushed.digest, pushed.size, pushed.media_type)
    return web.Response(status=201, headers=headers)


async def _small_body(call: Exchange) -> bytes:
    """413 for more than a manifest may have."""
    too_large = RegistryError("MANIFEST_INVALID", f"manifest larger than {MAX_MANIFEST} bytes", status=413)
    if (call.request.content_length or 0) > MAX_MANIFEST:
        raise too_large
    await call.expect()
    parts, size = [], 0
    while data := await call.request.content.readany():
        parts.append(data)
        size += len(data)
        if size > MAX_MANIFEST:
            raise too_large
    return b"".join(parts)


async def delete(call: Exchange) -> web.StreamResponse:
    """A digest takes its tags with it; a tag goes alone."""
    call.service.refuse_writing()
    if ":" in call.argument:
        await call.core.manifests.delete(call.repository, call.argument)
        await call.service.notifier.delete(call, digest=call.argument)
    else:
        await call.core.manifests.untag(call.repository, call.argument)
        await call.service.notifier.delete(call, tag=call.argument)
    return web.Response(status=202)


async def tags(call: Exchange) -> web.StreamResponse:
    count = _count(call)
    found, more = await call.core.catalogue.tags(call.repository, count, call.query("last"))
    headers = _link(f"/v2/{call.repository}/tags/list", count, found) if more else {}
    return _json({"name": call.repository, "tags": found}, headers=headers)


async def referrers(call: Exchange) -> web.StreamResponse:
    digest = names.check_digest(call.argument)
    kind = call.request.rel_url.query.get("artifactType")
    found = await call.core.manifests.referrers(call.repository, digest, kind)
    count = _count(call) or _REFERRERS_PAGE
    shown, more = page([each.digest for each in found], count, call.query("last"))
    by_digest = {each.digest: each for each in found}
    headers = {}
    if more:
        headers = _link(f"/v2/{call.repository}/referrers/{digest}", count, shown, artifactType=kind or "")
    if kind is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    document = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [by_digest[each] for each in shown]}
    return _json(document, headers=headers, content_type=oci.OCI_INDEX)


async def catalog(call: Exchange) -> web.StreamResponse:
    count = _count(call)
    everything = [
        name async for name in call.core.catalogue.repositories() if call.may(name, "pull") or call.may("catalog", "*")
    ]
    size = _CATALOG_PAGE if count is None else count
    found, more = page(everything, size, call.query("last"))
    return _json({"repositories": found}, headers=_link("/v2/_catalog", size, found) if more else {})


async def search(call: Exchange) -> web.StreamResponse:
    """Docker's v1 search over the repositories that the client may pull."""
    term = call.query("q")
    count = min(_count(call) or 25, _SEARCH_MOST)
    found = await call.core.catalogue.search(term, lambda name: call.may(name, "pull"), count)
    results = [
        {"name": name, "description": "", "is_automated": False, "is_official": False, "star_count": 0}
        for name in found
    ]
    return _json({"query": term, "num_results": len(results), "results": results})


def _count(call: Exchange) -> int | None:
    text = call.query("n")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise RegistryError("PAGINATION_NUMBER_INVALID", detail={"n": text[:20]})
    return int(text)


def _link(path: str, count: int | None, found: list[str], **more: str) -> dict[str, str]:
    """The header of the next page; none for a page of nothing, which has no last item."""
    if not found:
        return {}
    query = f"last={quote(found[-1], safe='')}&n={count}"
    for key, value in more.items():
        query += f"&{key}={quote(value, safe='')}" if value else ""
    return {"Link": f'<{path}?{query}>; rel="next"'}
