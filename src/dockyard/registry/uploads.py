"""Uploads in progress.

Owns: their life from POST to PUT. Their whole state is in the backend, so any replica takes the next request; what this
process keeps is only a hash of what went through it, which spares reading the bytes again. Does not own: the rules of
HTTP (`edge.registry.uploads`), when an abandoned upload is thrown away (`collection`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec

from dockyard.registry import names
from dockyard.registry.backend import Backend, Missing
from dockyard.registry.blobs import Blobs
from dockyard.registry.errors import Busy, RegistryError, WrongDigest

_HASHERS = 4096  # uploads whose hash is remembered


class Upload(NamedTuple):
    identifier: str
    repository: str
    size: int


class _State(msgspec.Struct):
    repository: str


class Uploads:
    """`kind` of `finish`: how the repository then holds the blob (`names.Ref`)."""

    def __init__(self, backend: Backend, blobs: Blobs) -> None:
        self._backend = backend
        self._blobs = blobs
        self._hashers: OrderedDict[str, tuple[int, Any]] = OrderedDict()

    async def begin(self, repository: str) -> str:
        """A new upload's id."""
        identifier = secrets.token_hex(16)
        await self._backend.begin(names.upload(identifier), msgspec.json.encode(_State(repository)))
        self._remember(identifier, 0, hashlib.sha256())
        return identifier

    async def get(self, repository: str, identifier: str) -> Upload:
        """BLOB_UPLOAD_UNKNOWN, also for an upload to another repository."""
        try:
            state, size = await self._backend.state(names.upload(names.check_upload(identifier)))
        except Missing:
            raise RegistryError("BLOB_UPLOAD_UNKNOWN") from None
        if msgspec.json.decode(state, type=_State).repository != repository:
            raise RegistryError("BLOB_UPLOAD_UNKNOWN")
        return Upload(identifier, repository, size)

    async def append(self, upload: Upload, source: AsyncIterator[bytes]) -> int:
        """Take bytes in behind those that are there; returns the new size. WrongOffset if another request was quicker.

        If `source` fails, its error comes out and the bytes that came may stay."""
        size, hasher = self._hashers.pop(upload.identifier, (-1, None))
        if size != upload.size:
            hasher = None
        try:
            size = await self._backend.append(names.upload(upload.identifier), upload.size, source, hasher)
        except Missing:
            raise RegistryError("BLOB_UPLOAD_UNKNOWN") from None
        except Busy as error:
            raise RegistryError("BLOB_UPLOAD_INVALID", error.message, status=409) from None
        if hasher is not None:
            self._remember(upload.identifier, size, hasher)
        return size

    async def finish(self, upload: Upload, digest: str, kind: str = "u") -> int:
        """Verify the bytes and make them a blob of the repository; returns its size. After DIGEST_INVALID the upload is
        gone."""
        size, hasher = self._hashers.pop(upload.identifier, (-1, None))
        known = (size, f"sha256:{hasher.hexdigest()}") if hasher is not None else None
        try:
            return await self._blobs.adopt(names.upload(upload.identifier), upload.repository, digest, known, kind)
        except Missing:
            raise RegistryError("BLOB_UPLOAD_UNKNOWN") from None
        except Busy as error:
            raise RegistryError("BLOB_UPLOAD_INVALID", error.message, status=409) from None
        except WrongDigest as error:
            await self.cancel(upload.identifier)
            raise RegistryError("DIGEST_INVALID", detail={"digest": digest, "reason": error.message}) from None

    async def cancel(self, identifier: str) -> None:
        self._hashers.pop(identifier, None)
        await self._backend.discard(names.upload(identifier))

    def _remember(self, identifier: str, size: int, hasher: Any) -> None:
        self._hashers[identifier] = (size, hasher)
        while len(self._hashers) > _HASHERS:
            self._hashers.popitem(last=False)
