"""Manifests, tags and referrers of repositories.

Owns: the order of writes. A manifest comes after refs to all its blobs and before its tag; a tag goes before its
manifest, refs go last. So a kill anywhere leaves no tag that does not verify. Every push of a manifest is a generation
with refs of its own, so that a deletion beside it can only take the refs of the generation that it has read.
Does not own: what a document means (`documents`), leftovers of kills (`collection`).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from typing import NamedTuple

import msgspec

from dockyard.registry import names
from dockyard.registry.backend import Backend, Missing
from dockyard.registry.blobs import NO_INSTANCE, Blobs
from dockyard.registry.documents import Descriptor, Document, parse
from dockyard.registry.errors import RegistryError
from dockyard.registry.names import Ref

_TRIES = 5


class Header(msgspec.Struct):
    """The line before a stored manifest."""

    type: str
    generation: str


class Stored(NamedTuple):
    """A manifest as it is kept. `content` are the bytes as they came."""

    digest: str
    media_type: str
    generation: str
    content: bytes

    @property
    def document(self) -> Document:
        return parse(self.content, self.media_type)[0]


class Pushed(NamedTuple):
    digest: str
    media_type: str
    size: int
    subject: str  # its digest, or ""


class Manifests:
    """`check_blobs`: False for a cache, whose blobs come later."""

    def __init__(self, backend: Backend, blobs: Blobs, check_blobs: bool = True) -> None:
        self._backend = backend
        self._blobs = blobs
        self._check_blobs = check_blobs

    async def resolve(self, repository: str, reference: str) -> str:
        """Tag or digest → digest. MANIFEST_UNKNOWN, DIGEST_INVALID."""
        if ":" in reference:
            return names.check_digest(reference)
        if not names.is_tag(reference):
            raise RegistryError("MANIFEST_INVALID", "invalid tag", reference[:200])
        digest = await self._digest(repository, reference)
        if not digest:
            raise _unknown(repository, reference)
        return digest

    async def get(self, repository: str, reference: str) -> Stored:
        """MANIFEST_UNKNOWN. The bytes are compared with their digest each time."""
        digest = await self.resolve(repository, reference)
        stored = await self.read(repository, digest)
        if stored is None and digest != reference:  # the tag moved, and the old manifest is gone
            stored = await self.read(repository, await self.resolve(repository, reference))
        if stored is None:
            raise _unknown(repository, reference)
        return stored

    async def read(self, repository: str, digest: str) -> Stored | None:
        try:
            raw = await self._backend.read(names.manifest(repository, digest))
        except Missing:
            return None
        line, _, content = raw.partition(b"\n")
        header = msgspec.json.decode(line, type=Header)
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            raise RegistryError("UNKNOWN", f"manifest {digest} is damaged in the storage")
        return Stored(digest, header.type, header.generation, content)

    async def put(self, repository: str, reference: str, content: bytes, content_type: str) -> Pushed:
        """Take a manifest in under a tag or its digest. MANIFEST_INVALID, DIGEST_INVALID, MANIFEST_BLOB_UNKNOWN."""
        document, media_type = parse(content, content_type)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        tag = "" if ":" in reference else reference
        if tag and not names.is_tag(tag):
            raise RegistryError("MANIFEST_INVALID", "invalid tag", reference[:200])
        if not tag and names.check_digest(reference) != digest:
            raise RegistryError("DIGEST_INVALID", detail={"digest": reference, "content": digest})
        children = await self._children(repository, document)
        stored = Stored(digest, media_type, "", content)
        for _ in range(_TRIES):
            await self._write(repository, stored, document)
            if tag:
                await self._backend.write(names.tag(repository, tag), digest.encode())
            if await self._stands(repository, digest, children):
                subject = document.subject.digest if document.subject else ""
                return Pushed(digest, media_type, len(content), subject)
        raise RegistryError("UNAVAILABLE", "the manifest is deleted again and again meanwhile")

    async def _stands(self, repository: str, digest: str, children: list[Stored]) -> bool:
        """Are the manifest and all that it names there, now that it names them? Children that a collection took away
        in between are put back."""
        for child in children:
            if await self._backend.stat(names.manifest(repository, child.digest)) is None:
                await self._write(repository, child, child.document)
        return await self._backend.stat(names.manifest(repository, digest)) is not None

    async def _children(self, repository: str, document: Document) -> list[Stored]:
        if not self._check_blobs:
            return []
        found = await asyncio.gather(*(self.read(repository, each.digest) for each in document.children()))
        _refuse_missing([each for each, stored in zip(document.children(), found, strict=True) if stored is None])
        for each, stored in zip(document.children(), found, strict=True):
            if stored is not None and len(stored.content) != each.size:
                raise _wrong_size(each, len(stored.content))
        return [each for each in found if each is not None]

    async def _write(self, repository: str, stored: Stored, document: Document) -> None:
        """Refs, referrer, manifest, in this order; then the refs of the generation before go."""
        for _ in range(_TRIES):
            begun = time.monotonic()
            generation = secrets.token_hex(6)
            keys = await self._refer(repository, stored.digest, generation, document)
            await self._backend.sync(keys)
            if document.subject is not None:
                await self._add_referrer(repository, stored, document)
            before = await self._generation(repository, stored.digest)
            header = msgspec.json.encode(Header(stored.media_type, generation))
            key = names.manifest(repository, stored.digest)
            await self._backend.write(key, header + b"\n" + stored.content)
            if before:
                await self._unrefer(repository, stored.digest, before, document)
            if time.monotonic() - begun < self._blobs.grace / 2:
                return
        raise RegistryError("UNAVAILABLE", "the storage is too slow")

    async def _generation(self, repository: str, digest: str) -> str:
        stored = await self.read(repository, digest)
        return stored.generation if stored else ""

    async def _refer(self, repository: str, digest: str, generation: str, document: Document) -> list[str]:
        """Write the refs of a generation; returns keys to sync. MANIFEST_BLOB_UNKNOWN naming all that is missing."""
        owner = names.hexadecimal(digest)
        keys = []
        for child in document.children():
            ref = Ref(NO_INSTANCE, "m", owner, generation)
            key = f"{names.refs(repository, child.digest)}/{ref.name()}"
            await self._backend.write(key, b"", durable=False)
            keys.append(key)
        wanted = list({each.digest: each for each in document.blobs()}.values())
        if not self._check_blobs:
            return keys
        seen = await asyncio.gather(*(self._blobs.look(repository, each.digest) for each in wanted))
        _refuse_missing([each for each, blob in zip(wanted, seen, strict=True) if blob is None])
        for each, blob in zip(wanted, seen, strict=True):
            if blob is not None and blob.size != each.size:
                raise _wrong_size(each, blob.size)
        held = await asyncio.gather(
            *(self._blobs.hold(repository, each.digest, "m", owner, generation) for each in wanted)
        )
        _refuse_missing([each for each, key in zip(wanted, held, strict=True) if key is None])
        for each, data in zip(wanted, held, strict=True):
            keys += [data or "", f"{names.refs(repository, each.digest)}/-"]
        return keys

    async def _unrefer(self, repository: str, digest: str, generation: str, document: Document) -> None:
        keys = []
        for each in {each.digest for each in [*document.blobs(), *document.children()]}:
            folder = names.refs(repository, each)
            end = f".m.{names.hexadecimal(digest)}.{generation}"
            keys += [f"{folder}/{name}" for name in (await self._backend.below(folder)).names if name.endswith(end)]
        await self._backend.delete(*keys)

    async def _add_referrer(self, repository: str, stored: Stored, document: Document) -> None:
        assert document.subject is not None
        descriptor = Descriptor(
            stored.media_type, stored.digest, len(stored.content), None, document.annotations, document.artifact()
        )
        key = f"{names.referrers(repository, document.subject.digest)}/{names.hexadecimal(stored.digest)}"
        await self._backend.write(key, msgspec.json.encode(descriptor))

    async def untag(self, repository: str, tag: str) -> None:
        """MANIFEST_UNKNOWN."""
        await self.resolve(repository, tag)
        await self._backend.delete(names.tag(repository, tag))

    async def delete(self, repository: str, digest: str) -> list[str]:
        """Delete a manifest and the tags that name it, which are returned. MANIFEST_UNKNOWN."""
        stored = await self.read(repository, names.check_digest(digest))
        if stored is None:
            raise _unknown(repository, digest)
        tags = await self._untag_all(repository, digest)
        await self._backend.delete(names.manifest(repository, digest))
        tags += await self._untag_all(repository, digest, unless_back=True)
        await self.forget(repository, stored)
        return tags

    async def _untag_all(self, repository: str, digest: str, unless_back: bool = False) -> list[str]:
        tags = [tag for tag, target in (await self.tags(repository)).items() if target == digest]
        if tags and unless_back and await self._backend.stat(names.manifest(repository, digest)) is not None:
            return []  # pushed again meanwhile
        return [tag for tag in tags if await self._backend.delete_if(names.tag(repository, tag), digest.encode())]

    async def forget(self, repository: str, stored: Stored) -> None:
        """What hung on a generation of a manifest that is deleted."""
        document = stored.document
        if document.subject is not None and await self.read(repository, stored.digest) is None:
            folder = names.referrers(repository, document.subject.digest)
            await self._backend.delete(f"{folder}/{names.hexadecimal(stored.digest)}")
        await self._unrefer(repository, stored.digest, stored.generation, document)

    async def tags(self, repository: str) -> dict[str, str]:
        """Tag → digest."""
        listed = [entry.name for entry in (await self._backend.below(names.tags(repository))).files if entry.size]
        digests = await asyncio.gather(*(self._digest(repository, tag) for tag in listed))
        return {tag: digest for tag, digest in zip(listed, digests, strict=True) if digest}

    async def _digest(self, repository: str, tag: str) -> str:
        try:
            return (await self._backend.read(names.tag(repository, tag))).decode()
        except Missing:
            return ""

    async def referrers(self, repository: str, digest: str, artifact_type: str | None) -> list[Descriptor]:
        """Manifests whose subject is the digest; there need not be such a manifest."""
        found = []
        for entry in (await self._backend.below(names.referrers(repository, digest))).names:
            if await self._backend.stat(f"{names.manifests(repository)}/{entry}") is None:
                continue
            try:
                raw = await self._backend.read(f"{names.referrers(repository, digest)}/{entry}")
            except Missing:
                continue
            descriptor = msgspec.json.decode(raw, type=Descriptor)
            if artifact_type is None or descriptor.artifact_type == artifact_type:
                found.append(descriptor)
        return found


def _refuse_missing(missing: list[Descriptor]) -> None:
    if missing:
        errors = [RegistryError("MANIFEST_BLOB_UNKNOWN", detail={"digest": each.digest}) for each in missing]
        raise RegistryError("MANIFEST_BLOB_UNKNOWN", detail=errors[0].detail, others=tuple(errors[1:]))


def _wrong_size(descriptor: Descriptor, size: int) -> RegistryError:
    return RegistryError(
        "MANIFEST_INVALID", detail={"digest": descriptor.digest, "size": descriptor.size, "stored": size}
    )


def _unknown(repository: str, reference: str) -> RegistryError:
    return RegistryError("MANIFEST_UNKNOWN", detail={"name": repository, "reference": reference})
