"""Blobs: their instances, and who in a repository holds them.

Owns: finding a blob a repository may read, and the one way to hold one. The bytes of a digest may lie there more than
once ("instances"); a repository has a blob as long as a ref names one of them. Does not own: what is thrown away
(`collection`), manifests' generations (`manifests`).

Safe beside a collection in any other process: an instance is condemned (marked, for good) before it is deleted, and
`settle` seconds at least lie between the mark and the scan that decides. Every new ref is written within half of that
after its instance was seen without a mark, else it is not relied on. So a scan that begins when the settling is over
sees every ref that there can ever be.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from dockyard.registry import names
from dockyard.registry.backend import Backend, Missing
from dockyard.registry.errors import RegistryError
from dockyard.registry.names import CONDEMNED, Ref

_TRIES = 5
NO_INSTANCE = "-"


class Held(NamedTuple):
    """A ref that was found, and when it was written."""

    ref: Ref
    modified: float


class Blob(NamedTuple):
    """A blob of a repository. `held`: every ref that gives it to the repository."""

    digest: str
    size: int
    held: list[Held]

    @property
    def instances(self) -> list[str]:
        return list(dict.fromkeys(each.ref.instance for each in self.held))


class Blobs:
    """`settle`, `grace`: seconds, see `collection`."""

    def __init__(self, backend: Backend, settle: float, grace: float) -> None:
        self._backend = backend
        self.settle = settle
        self.grace = grace

    async def find(self, repository: str, digest: str) -> Blob:
        """BLOB_UNKNOWN if the repository does not have it."""
        blob = await self.look(repository, digest)
        if blob is None:
            raise RegistryError("BLOB_UNKNOWN", detail={"digest": digest})
        return blob

    async def look(self, repository: str, digest: str) -> Blob | None:
        held = [
            Held(ref, entry.modified)
            for entry in (await self._backend.below(names.refs(repository, digest))).files
            if (ref := Ref.parse(entry.name)) and ref.instance != NO_INSTANCE
        ]
        return Blob(digest, names.size_of(held[0].ref.instance), held) if held else None

    async def open(self, blob: Blob) -> tuple[int | None, str]:
        """(descriptor, or None where the backend has none; key). BLOB_UNKNOWN if the bytes are gone."""
        for instance in blob.instances:
            key = names.data(blob.digest, instance)
            try:
                fd = await self._backend.open(key)
            except Missing:
                continue
            if fd is not None or len(blob.instances) == 1 or await self._backend.stat(key):
                return fd, key
        raise RegistryError("BLOB_UNKNOWN", detail={"digest": blob.digest})

    def stream(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        return self._backend.stream(key, start, length)

    async def instance(self, digest: str) -> str | None:
        """An instance that may get new refs now, if there is one; a condemned one is copied first."""
        found = (await self._backend.below(names.blob_folder(digest))).names
        marked = {name.removesuffix(CONDEMNED) for name in found if name.endswith(CONDEMNED)}
        there = [name for name in found if not name.endswith(CONDEMNED)]
        for name in there:
            if name not in marked:
                return name
        for name in there:
            fresh = new_instance(names.size_of(name))
            try:
                await self._backend.copy(names.data(digest, name), names.data(digest, fresh))
            except Missing:
                continue
            return fresh
        return None

    async def hold(self, repository: str, digest: str, kind: str, owner: str, generation: str = "") -> str | None:
        """Write a ref to the blob. The key of its instance; None if there are no such bytes.

        The caller has made sure that the repository may have the blob."""
        for _ in range(_TRIES):
            begun = time.monotonic()
            instance = await self.instance(digest)
            if instance is None:
                return None
            key = f"{names.refs(repository, digest)}/{Ref(instance, kind, owner, generation).name()}"
            await self._backend.write(key, b"", durable=False)
            if time.monotonic() - begun < self.settle / 2:
                return names.data(digest, instance)
        raise RegistryError("UNAVAILABLE", "the storage is too slow")

    async def lease(self, repository: str, digest: str, kind: str = "u") -> bool:
        """Hold a blob for the grace period. False if there are no such bytes."""
        return await self.hold(repository, digest, kind, secrets.token_hex(8)) is not None

    async def renew(self, repository: str, blob: Blob, kind: str = "u", age: float | None = None) -> None:
        """Someone relies on the blob from now on: a lease, unless there is a young one."""
        now = time.time()
        limit = self.grace / 2 if age is None else age
        if not any(each.ref.kind == kind and now - each.modified < limit for each in blob.held):
            await self.lease(repository, blob.digest, kind)

    async def adopt(self, upload: str, repository: str, digest: str, known: tuple[int, str] | None, kind: str) -> int:
        """Make an upload a blob of the repository; returns its size. Missing, Busy, WrongDigest."""
        if await self.instance(digest) is not None:
            size = await self._backend.finish(upload, digest, known, None)
            if await self.lease(repository, digest, kind):
                await self._backend.discard(upload)
                return size
        return await self._install(upload, repository, digest, known, kind)

    async def _install(
        self, upload: str, repository: str, digest: str, known: tuple[int, str] | None, kind: str
    ) -> int:
        begun = time.monotonic()
        token = secrets.token_hex(8)
        size = await self._backend.finish(upload, digest, known, lambda size: names.data(digest, f"{token}-{size}"))
        ref = Ref(f"{token}-{size}", kind, secrets.token_hex(8))
        await self._backend.write(f"{names.refs(repository, digest)}/{ref.name()}", b"", durable=False)
        if time.monotonic() - begun > self.grace / 2:  # so old without a ref, it may have been condemned
            await self.lease(repository, digest, kind)
        return size

    async def release(self, repository: str, digest: str) -> None:
        """A client deletes the blob. BLOB_UNKNOWN; UNSUPPORTED while a manifest of the repository needs it."""
        blob = await self.find(repository, digest)
        needed = sorted({each.ref.owner for each in blob.held if each.ref.kind == "m"})
        if needed:
            raise RegistryError(
                "UNSUPPORTED", "a manifest refers to the blob", {"manifests": [f"sha256:{each}" for each in needed]}
            )
        folder = names.refs(repository, digest)
        await self._backend.delete(*(f"{folder}/{each.ref.name()}" for each in blob.held))

    async def usage(self, repository: str, beside: str = "") -> int:
        """Bytes of all blobs that the repository holds, but for the digest `beside`."""
        total, seen = 0, {names.hexadecimal(beside)}
        async for entry in self._backend.walk(names.refs(repository)):
            _, hexa, name = entry.name.rsplit("/", 2)
            ref = Ref.parse(name)
            if ref and ref.instance != NO_INSTANCE and hexa not in seen:
                seen.add(hexa)
                total += names.size_of(ref.instance)
        return total


def new_instance(size: int) -> str:
    return f"{secrets.token_hex(8)}-{size}"
