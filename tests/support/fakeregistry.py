"""A small registry that can be made to lie: for tests of the client.

Owns: an HTTP server on loopback with manifests and blobs out of dictionaries, uploads, authorization, a log of what was
asked, and hooks that answer in place of it. Does not own: what is tested.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
Hook = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class FakeRegistry:
    """Use in `async with`; then `.host` is "127.0.0.1:PORT"."""

    def __init__(self, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.tls = tls
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}  # tag or digest -> type, content
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.hooks: list[tuple[str, Hook]] = []  # (part of the path, hook)
        self.user: tuple[str, str] | None = None  # basic authorization
        self.token: str | None = None  # bearer: what the realm gives out
        self.realm = ""
        self.range = True
        self.breaks: list[int] = []  # after so many bytes of a request's body, upload after upload, the connection ends
        self.forgets = False  # an upload whose connection broke is not known any more
        self.pieces: list[tuple[str, str, int]] = []  # of uploads: method, Content-Range, bytes that came
        self.least = 0  # OCI-Chunk-Min-Length
        self.uploads: dict[str, bytearray] = {}

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.address, 0, ssl_context=self.tls)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.host = f"{self.address}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    # --- content ---

    def add_blob(self, data: bytes) -> str:
        self.blobs[digest_of(data)] = data
        return digest_of(data)

    def add_manifest(self, document: dict[str, Any], tag: str = "latest", kind: str = OCI_MANIFEST) -> str:
        data = json.dumps(document).encode()
        self.manifests[tag] = self.manifests[digest_of(data)] = (kind, data)
        return digest_of(data)

    def add_image(
        self, tars: list[bytes], tag: str = "latest", compress: Callable[[bytes], bytes] = gzip.compress,
        layer_type: str = OCI_LAYER, config: dict[str, Any] | None = None, **extra: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """An image of these layers; returns its manifest."""
        blobs = [compress(tar) for tar in tars]
        document = {
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]}, **(config or {}),
        }  # fmt: skip
        data = json.dumps(document).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": self.add_blob(data), "size": len(data)},
            "layers": [{"mediaType": layer_type, "digest": self.add_blob(b), "size": len(b)} for b in blobs],
            **extra,
        }
        self.add_manifest(manifest, tag)
        return manifest

    def asked(self, part: str, method: str = "") -> list[dict[str, str]]:
        """The headers of every request whose path has `part`."""
        return [headers for m, path, headers in self.log if part in path and (not method or m == method)]

    # --- serving ---

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.log.append((request.method, request.path_qs, dict(request.headers)))
        for part, hook in self.hooks:
            if part in request.path and (answer := await hook(request)) is not None:
                return answer
        if request.path == "/token":
            return self._token(request)
        if not self._allowed(request):
            kind = f'Bearer realm="{self.realm}",service="fake"' if self.token else 'Basic realm="fake"'
            return error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": kind})
        return await self._answer(request)

    def _token(self, request: web.Request) -> web.Response:
        if self.user and request.headers.get("Authorization") != _basic(self.user):
            return error(401, "UNAUTHORIZED", "wrong user")
        return web.json_response({"token": self.token, "expires_in": 300})

    def _allowed(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "")
        if self.token:
            return given == f"Bearer {self.token}"
        return self.user is None or given == _basic(self.user)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path == "/v2/":
            return web.json_response({})
        kind, _, name = path.rpartition("/")
        if kind.endswith("/manifests"):
            return await self._manifest(request, name)
        if "/blobs/uploads/" in path:
            return await self._upload(request)
        if kind.endswith("/blobs"):
            return self._blob(request, name)
        if path.endswith("/tags/list"):
            return web.json_response({"tags": [tag for tag in self.manifests if ":" not in tag]})
        return error(404, "NAME_UNKNOWN", "repository name not known to registry")

    async def _manifest(self, request: web.Request, name: str) -> web.Response:
        if request.method == "PUT":
            data = await request.read()
            self.manifests[name] = self.manifests[digest_of(data)] = (request.content_type, data)
            return web.Response(status=201)
        if name not in self.manifests:
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        kind, data = self.manifests[name]
        return web.Response(body=data, headers={"Content-Type": kind})

    def _blob(self, request: web.Request, digest: str) -> web.Response:
        if digest not in self.blobs:
            return error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        data = self.blobs[digest]
        start = request.http_range.start if self.range else None
        if start:
            headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            return web.Response(status=206, body=data[start:], headers=headers)
        return web.Response(body=data)

    async def _upload(self, request: web.Request) -> web.Response:
        key = request.path.rpartition("/")[2]
        if request.method == "POST":
            key = f"u{len(self.log)}"
            self.uploads[key] = bytearray()
        elif key not in self.uploads:
            return error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        elif request.method == "DELETE":
            del self.uploads[key]
            return web.Response(status=204)
        elif request.method in ("PATCH", "PUT") and not await self._take(request, key):
            return error(416, "BLOB_UPLOAD_INVALID", "out of order")
        if request.method == "PUT":
            data = bytes(self.uploads.pop(key))
            if digest_of(data) != request.query["digest"]:
                return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            self.blobs[digest_of(data)] = data
            return web.Response(status=201)
        location = f"{request.path.rpartition('/')[0]}/{key}?state={len(self.log)}"
        headers = {"Location": location, "Range": f"0-{max(len(self.uploads[key]) - 1, 0)}"}
        if self.least:
            headers["OCI-Chunk-Min-Length"] = str(self.least)
        return web.Response(status=204 if request.method == "GET" else 202, headers=headers)

    async def _take(self, request: web.Request, key: str) -> bool:
        """A body behind what is there. False: it belongs elsewhere."""
        place, data = request.headers.get("Content-Range", ""), self.uploads[key]
        if place and int(place.partition("-")[0]) != len(data):
            return False
        end = self.breaks.pop(0) if self.breaks and request.body_exists else None
        before = len(data)
        async for chunk in request.content.iter_any():
            data += chunk if end is None else chunk[: end - len(data) + before]
            if end is not None and len(data) - before >= end:
                break
        self.pieces.append((request.method, place, len(data) - before))
        if end is not None:
            if self.forgets:
                del self.uploads[key]
            assert request.transport is not None
            request.transport.abort()
            raise ConnectionResetError
        return True


def error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status, headers=headers)


def _basic(user: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(user).encode()).decode()
