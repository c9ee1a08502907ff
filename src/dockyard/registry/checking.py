"""`registry check`: is everything that a tag leads to there, and what it says it is?

Owns: the walk and the wording of findings. Reads only; safe beside everything else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator

from dockyard.registry import names
from dockyard.registry.backend import Backend, Missing
from dockyard.registry.blobs import Blobs
from dockyard.registry.catalogue import Catalogue
from dockyard.registry.errors import RegistryError
from dockyard.registry.manifests import Manifests, Stored


class Checker:
    """`contents`: read every blob and compare its digest; else only its being there and its size."""

    def __init__(self, backend: Backend, blobs: Blobs, manifests: Manifests, contents: bool = True) -> None:
        self._backend = backend
        self._blobs = blobs
        self._manifests = manifests
        self._contents = contents
        self._verified: set[str] = set()  # keys of instances
        self.tags = self.checked_manifests = 0

    @property
    def checked_blobs(self) -> int:
        return len(self._verified)

    async def findings(self) -> AsyncIterator[str]:
        """One line for each thing that is wrong."""
        async for repository in Catalogue(self._backend).stems():
            seen: set[str] = set()
            for tag, digest in (await self._manifests.tags(repository)).items():
                self.tags += 1
                problems = [each async for each in self._manifest(repository, digest, seen)]
                if problems and (await self._manifests.tags(repository)).get(tag) == digest:  # not deleted meanwhile
                    for problem in problems:
                        yield f"{repository}:{tag}: {problem}"
            for entry in (await self._backend.below(names.manifests(repository))).names:
                digest = f"sha256:{entry}"
                problems = [each async for each in self._manifest(repository, digest, seen)]
                if problems and await self._backend.stat(names.manifest(repository, digest)) is not None:
                    for problem in problems:
                        yield f"{repository}@{digest}: {problem}"

    async def _manifest(self, repository: str, digest: str, seen: set[str]) -> AsyncIterator[str]:
        if digest in seen:
            return
        seen.add(digest)
        try:
            stored = await self._manifests.read(repository, digest)
        except RegistryError as error:
            yield error.message
            return
        if stored is None:
            yield f"manifest {digest} is missing"
            return
        self.checked_manifests += 1
        async for problem in self._content(repository, stored, seen):
            yield problem

    async def _content(self, repository: str, stored: Stored, seen: set[str]) -> AsyncIterator[str]:
        document = stored.document
        for child in document.children():
            async for problem in self._manifest(repository, child.digest, seen):
                yield problem
        for descriptor in document.blobs():
            try:
                blob = await self._blobs.find(repository, descriptor.digest)
                fd, key = await self._blobs.open(blob)
            except RegistryError:
                yield f"blob {descriptor.digest} is missing"
                continue
            if fd is not None:
                os.close(fd)
            if blob.size != descriptor.size:
                yield f"blob {descriptor.digest} has {blob.size} bytes, its manifest says {descriptor.size}"
            elif self._contents and key not in self._verified:
                self._verified.add(key)
                if problem := await self._bytes(descriptor.digest, key, blob.size):
                    yield problem

    async def _bytes(self, digest: str, key: str, size: int) -> str:
        hasher = hashlib.sha256()
        try:
            async for data in self._backend.stream(key, 0, size):
                hasher.update(data)
        except (Missing, OSError) as error:
            return f"blob {digest}: {error}"
        found = f"sha256:{hasher.hexdigest()}"
        return "" if found == digest else f"blob {digest} is damaged: its bytes have the digest {found}"
