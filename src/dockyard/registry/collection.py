"""Garbage collection beside pushes, deletions and other collections, in any number of processes.

Owns: what is thrown away and when. Nothing is ever locked, and nobody waits. In one `round`:

1. Uploads that nothing was added to for `upload_age` go.
2. Leases older than `grace` go; so do refs older than `grace` of a generation that its manifest no longer has,
   referrers and tags without their manifest, and (if asked) manifests that no tag, index or subject keeps.
3. Instances of blobs that are older than `grace` and that no ref names are condemned: marked. The mark is never taken
   back; what turns out to be needed stays for as long as it is, and is copied when someone wants to refer to it anew.
4. Instances whose mark was older than `settle` when this round began, and that no ref names, are deleted.

Why that is enough is said in `blobs`. All times are seconds of the store's own clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from dockyard.registry import names
from dockyard.registry.backend import Backend, Listing
from dockyard.registry.catalogue import Catalogue
from dockyard.registry.errors import RegistryError
from dockyard.registry.manifests import Header, Manifests, Stored
from dockyard.registry.names import CONDEMNED, Ref


@dataclass(frozen=True, slots=True)
class Ages:
    """Seconds. `settle`: longest time that a push may take between looking at a blob and referring to it, twice."""

    grace: float = 3600.0
    settle: float = 60.0
    upload_age: float = 24 * 3600.0
    cache_age: float = 7 * 24 * 3600.0  # blobs and manifests of a cache that nobody asked for


@dataclass(slots=True)
class Report:
    """What a round did."""

    uploads: int = 0
    refs: int = 0
    tags: int = 0
    manifests: int = 0
    condemned: int = 0
    blobs: int = 0
    bytes: int = 0
    repositories: int = 0

    def add(self, other: Report) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class _Known(NamedTuple):
    modified: float
    generation: str


@dataclass(slots=True)
class _Round:
    """What one round has seen. `wanted`: (hex, instance) that refs name."""

    now: float
    report: Report = field(default_factory=Report)
    wanted: set[tuple[str, str]] = field(default_factory=set)


class Collector:
    """`untagged`: collect manifests that nothing names. `cache`: a pull-through cache, where manifests age too."""

    def __init__(
        self, backend: Backend, manifests: Manifests, ages: Ages, *, untagged: bool = False, cache: bool = False
    ) -> None:
        self._backend = backend
        self._manifests = manifests
        self._catalogue = Catalogue(backend)
        self._ages = ages
        self._untagged = untagged
        self._cache = cache
        self._generations: dict[str, _Known] = {}  # manifest's key → what it was when last read

    async def collect(self) -> Report:
        """A round that condemns, the time to settle, and a round that deletes."""
        report = await self.round()
        if report.condemned:
            await asyncio.sleep(self._ages.settle * 1.05 + 3 * self._backend.tick)
            report.add(await self.round())
        return report

    async def round(self) -> Report:
        """One pass. What it condemns is deleted by a later one."""
        state = _Round(await self._backend.now())
        await self._collect_uploads(state)
        condemned = await self._condemned(state.now)
        async for repository in self._catalogue.stems():
            state.report.repositories += 1
            await self._collect_repository(state, repository)
        await self._collect_blobs(state, condemned)
        return state.report

    async def _collect_uploads(self, state: _Round) -> None:
        for identifier in (await self._backend.below(names.UPLOADS)).folders:
            files = (await self._backend.below(names.upload(identifier))).files
            if state.now - max((entry.modified for entry in files), default=0.0) > self._ages.upload_age:
                await self._backend.discard(names.upload(identifier))
                state.report.uploads += 1

    # Repositories

    async def _collect_repository(self, state: _Round, repository: str) -> None:
        manifests = await self._backend.below(names.manifests(repository))
        if self._untagged:
            await self._collect_untagged(state, repository, manifests)
        if self._cache:
            await self._collect_aged(state, repository, manifests)
        there = {entry.name for entry in manifests.files}
        await self._collect_tags(state, repository, there)
        await self._collect_referrers(state, repository, there)
        await self._collect_refs(state, repository)

    async def _collect_refs(self, state: _Round, repository: str) -> None:
        old: list[str] = []
        async for entry in self._backend.walk(names.refs(repository)):
            _, hexa, name = entry.name.rsplit("/", 2)
            ref = Ref.parse(name)
            if ref is None:
                continue
            if await self._is_stale(repository, ref, state.now - entry.modified):
                old.append(entry.name)
            else:
                state.wanted.add((hexa, ref.instance))
        state.report.refs += len(old)
        await self._backend.delete(*old)

    async def _is_stale(self, repository: str, ref: Ref, age: float) -> bool:
        if ref.kind == "c":
            return age > self._ages.cache_age
        if age <= self._ages.grace:
            return False
        return ref.kind == "u" or await self._current(repository, ref.owner) != ref.generation

    async def _current(self, repository: str, hexa: str) -> str:
        """The generation of a manifest; "" if it is not there."""
        key = f"{names.manifests(repository)}/{hexa}"
        entry = await self._backend.stat(key)
        if entry is None:
            self._generations.pop(key, None)
            return ""
        known = self._generations.get(key)
        if known is None or known.modified != entry.modified:
            stored = await self._manifests.read(repository, f"sha256:{hexa}")
            known = _Known(entry.modified, stored.generation if stored else "")
            if (await self._backend.now()) - entry.modified > 2 * self._backend.tick:  # else it may change unseen
                self._generations[key] = known
        return known.generation

    async def _collect_tags(self, state: _Round, repository: str, manifests: set[str]) -> None:
        for entry in (await self._backend.below(names.tags(repository))).files:
            if state.now - entry.modified <= self._ages.grace:
                continue
            key = names.tag(repository, entry.name)
            if not entry.size:
                continue
            digest = (await self._backend.read(key)).decode()
            hexa = names.hexadecimal(digest)
            if hexa not in manifests and await self._backend.stat(names.manifest(repository, digest)) is None:
                state.report.tags += await self._backend.delete_if(key, digest.encode())

    async def _collect_referrers(self, state: _Round, repository: str, manifests: set[str]) -> None:
        old = []
        async for entry in self._backend.walk(names.referrers(repository)):
            hexa = entry.name.rpartition("/")[2]
            if state.now - entry.modified <= self._ages.grace or hexa in manifests:
                continue
            if await self._backend.stat(f"{names.manifests(repository)}/{hexa}") is None:
                old.append(entry.name)
        await self._backend.delete(*old)

    async def _collect_aged(self, state: _Round, repository: str, manifests: Listing) -> None:
        """A cache's manifests; they come back when someone asks."""
        for entry in manifests.files:
            if state.now - entry.modified > self._ages.cache_age:
                with contextlib.suppress(RegistryError):
                    await self._manifests.delete(repository, f"sha256:{entry.name}")
                    state.report.manifests += 1

    async def _collect_untagged(self, state: _Round, repository: str, manifests: Listing) -> None:
        tagged = set((await self._manifests.tags(repository)).values())
        for entry in manifests.files:
            digest = f"sha256:{entry.name}"
            if state.now - entry.modified <= self._ages.grace or digest in tagged:
                continue
            stored = await self._manifests.read(repository, digest)
            if stored and not await self._is_named(repository, stored):
                await self._drop(state, repository, stored)

    async def _drop(self, state: _Round, repository: str, stored: Stored) -> None:
        """Delete, look again, and put back what was named meanwhile (a push looks whether it is there after naming)."""
        key = names.manifest(repository, stored.digest)
        entry = await self._backend.stat(key)
        if entry is None or state.now - entry.modified <= self._ages.grace:
            return
        await self._backend.delete(key)
        if await self._is_named(repository, stored):
            header = msgspec.json.encode(Header(stored.media_type, stored.generation))
            if await self._backend.stat(key) is None:
                await self._backend.write(key, header + b"\n" + stored.content)
            return
        await self._manifests.forget(repository, stored)
        state.report.manifests += 1

    async def _is_named(self, repository: str, stored: Stored) -> bool:
        """By a tag, by an index, or as the companion of a subject that is there."""
        if stored.digest in (await self._manifests.tags(repository)).values():
            return True
        refs = (await self._backend.below(names.refs(repository, stored.digest))).names
        owners = {ref.owner for name in refs if (ref := Ref.parse(name)) and ref.kind == "m"}
        for owner in owners:
            if await self._backend.stat(f"{names.manifests(repository)}/{owner}") is not None:
                return True
        subject = stored.document.subject
        return subject is not None and (
            await self._backend.stat(names.manifest(repository, subject.digest)) is not None
        )

    # Blobs

    async def _condemned(self, now: float) -> set[str]:
        """Keys of instances whose mark has settled, as of the beginning of the round."""
        return {
            entry.name.removesuffix(CONDEMNED)
            async for entry in self._backend.walk(names.BLOBS)
            if entry.name.endswith(CONDEMNED) and now - entry.modified > self._ages.settle + self._backend.tick
        }

    async def _collect_blobs(self, state: _Round, condemned: set[str]) -> None:
        marked: set[str] = set()
        doomed: list[tuple[str, int]] = []
        fresh: list[str] = []
        async for entry in self._backend.walk(names.BLOBS):
            if entry.name.endswith(CONDEMNED):
                marked.add(entry.name.removesuffix(CONDEMNED))
                continue
            _, hexa, instance = entry.name.rsplit("/", 2)
            if (hexa, instance) in state.wanted:
                continue
            if entry.name in condemned:
                doomed.append((entry.name, entry.size))
            elif state.now - entry.modified > self._ages.grace:
                fresh.append(entry.name)
        for key in fresh:
            if key not in marked:
                await self._backend.write(key + CONDEMNED, b"x", durable=False)
                state.report.condemned += 1
        for key, size in doomed:
            await self._backend.delete(key)
            await self._backend.delete(key + CONDEMNED)
            state.report.blobs += 1
            state.report.bytes += size
        left = marked & condemned - {key for key, _ in doomed}
        for key in left:  # a kill came between the two deletions
            if await self._backend.stat(key) is None:
                await self._backend.delete(key + CONDEMNED)
