"""From a request to its handler.

Owns: paths and methods, authorization before anything else, errors as the spec's JSON, the headers of every answer, the
log line and the figures of each request. Does not own: what a handler does.
"""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
from aiohttp import web
from aiohttp.client_exceptions import ClientError

from dockyard.edge.registry import blobs, manifests
from dockyard.edge.registry.access import Need
from dockyard.edge.registry.service import Exchange, Service
from dockyard.model.errors import DockyardError
from dockyard.registry import names
from dockyard.registry.errors import RegistryError

Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]
log = logging.getLogger("dockyard.registry")

_HEADERS = {"Docker-Distribution-Api-Version": "registry/2.0", "X-Content-Type-Options": "nosniff"}


class Operation(NamedTuple):
    """`handlers`: method → (action that has to be allowed, handler)."""

    name: str
    pattern: re.Pattern[str]
    handlers: dict[str, tuple[str, Handler]]


def _operation(name: str, pattern: str, **handlers: tuple[str, Handler]) -> Operation:
    if "GET" in handlers:
        handlers.setdefault("HEAD", handlers["GET"])
    return Operation(name, re.compile(pattern + r"\Z"), handlers)


OPERATIONS = (
    _operation("tags", "/v2/(.+)/tags/list", GET=("pull", manifests.tags)),
    _operation(
        "manifest",
        "/v2/(.+)/manifests/([^/]+)",
        GET=("pull", manifests.get),
        PUT=("push", manifests.put),
        DELETE=("delete", manifests.delete),
    ),
    _operation("uploads", "/v2/(.+)/blobs/uploads/?", POST=("push", blobs.begin)),
    _operation(
        "upload",
        "/v2/(.+)/blobs/uploads/([^/]+)",
        GET=("push", blobs.status),
        PATCH=("push", blobs.append),
        PUT=("push", blobs.finish),
        DELETE=("push", blobs.cancel),
    ),
    _operation("blob", "/v2/(.+)/blobs/([^/]+)", GET=("pull", blobs.get), DELETE=("delete", blobs.delete)),
    _operation("referrers", "/v2/(.+)/referrers/([^/]+)", GET=("pull", manifests.referrers)),
)


class Dispatcher:
    """Call it with a request; never raises."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        begun = time.monotonic()
        call = Exchange(self._service, request)
        call.extra["operation"] = "other"
        try:
            response = await self._answer(call)
        except RegistryError as error:
            response = _refusal(error, request)
        except ConnectionError as error:
            log.debug("%s %s: %s", request.method, request.path, error)
            if request.transport is not None:
                request.transport.abort()
            response = web.Response(status=499)  # goes nowhere
            response.force_close()
        except (TimeoutError, DockyardError, ClientError, OSError) as error:
            log.error("%s %s: %s", request.method, request.path, error)
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            message = "no space left in the registry's storage" if full else "the storage or upstream failed"
            response = _refusal(RegistryError("UNKNOWN", message, status=507 if full else 0), request)
        except Exception:
            log.exception("%s %s", request.method, request.path)
            response = _refusal(RegistryError("UNKNOWN"), request)
        seconds = time.monotonic() - begun
        self._service.metrics.answered(call.extra["operation"], request.method, response.status, seconds)
        log.debug("%s %s %d %.1f ms %s", request.method, request.path_qs, response.status, seconds * 1e3, call.user)
        return response

    async def _answer(self, call: Exchange) -> web.StreamResponse:
        path = call.request.path
        for operation in OPERATIONS:
            match = operation.pattern.match(path)
            if match:
                return await self._repository(call, operation, match)
        response = await self._plain(call, path)
        return _with_headers(response)

    async def _repository(self, call: Exchange, operation: Operation, match: re.Match[str]) -> web.StreamResponse:
        call.extra["operation"] = operation.name
        handler = operation.handlers.get(call.request.method)
        if handler is None:
            raise RegistryError("UNSUPPORTED", headers={"Allow": ", ".join(operation.handlers)})
        call.repository = names.check_repository(match[1])
        call.argument = match[2] if operation.pattern.groups > 1 else ""
        action, function = handler
        await self._admit(call, Need(call.repository, action))
        return _with_headers(await function(call))

    async def _admit(self, call: Exchange, need: Need) -> None:
        call.identity = await self._service.guard.admit(call.request.headers.get("Authorization", ""), need)

    async def _plain(self, call: Exchange, path: str) -> web.StreamResponse:
        """What is not about one repository."""
        if call.request.method not in ("GET", "HEAD"):
            raise RegistryError("UNSUPPORTED", status=405 if path in ("/v2/", "/v2/_catalog") else 404)
        if path in ("/v2/", "/v2"):
            await self._admit(call, Need("", ""))
            return web.Response(body=b"{}", content_type="application/json")
        if path == "/v2/_catalog":
            await self._admit(call, Need("", "*"))
            return await manifests.catalog(call)
        if path == "/v1/search":
            await self._admit(call, Need("", ""))
            return await manifests.search(call)
        if path == "/v1/_ping":
            headers = {"X-Docker-Registry-Standalone": "true"}
            return web.Response(body=b"true", content_type="application/json", headers=headers)
        if path == "/metrics":
            return web.Response(body=self._service.metrics.text(), content_type="text/plain", charset="utf-8")
        if path == "/healthz":
            await self._service.core.backend.below("health")
            return web.Response(body=b"ok\n", content_type="text/plain")
        raise RegistryError("UNSUPPORTED", "no such endpoint", status=404)


def _with_headers(response: web.StreamResponse) -> web.StreamResponse:
    if not response.prepared:
        response.headers.update(_HEADERS)
    return response


def _refusal(error: RegistryError, request: web.BaseRequest) -> web.Response:
    body = b"" if request.method == "HEAD" else msgspec.json.encode(error.document())
    response = web.Response(
        status=error.status, body=body, content_type="application/json", headers=_HEADERS | error.headers
    )
    if request.body_exists and not request.content.at_eof():
        response.force_close()  # the rest of the body is not wanted
    return response
