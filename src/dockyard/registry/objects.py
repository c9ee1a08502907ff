"""The backend on an object store: S3 and what speaks its protocol.

Owns: keys as objects below a prefix; an upload as one immutable object per request that brought bytes
(`pOFFSET-TOKEN`), put together when it is finished; bytes stream through multipart uploads, never whole in memory.
Rests on: reads and listings that see every write that has returned (S3 since 2020). Does not own: what keys mean.

`obstore` is imported by `open_s3` only: the extra `registry-s3` brings it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from dockyard.model.errors import InvalidArgument
from dockyard.registry.backend import CHUNK, Entry, Listing, Missing
from dockyard.registry.errors import WrongDigest, WrongOffset

_PART = 8 << 20  # bytes of one part of a multipart upload; S3's least is 5 MiB
_PARALLEL = 2  # parts of one object in flight: 16 pushes at once hold 16 × 2 × 8 MiB
_COPY_LIMIT = 5 << 30  # CopyObject's largest object


def open_s3(
    bucket: str, prefix: str, options: Mapping[str, str], *, allow_http: bool = False, timeout: str = "60s"
) -> ObjectBackend:
    """The backend in a bucket. `options`: obstore's S3 configuration (endpoint, region, access_key_id, …).

    InvalidArgument when obstore is not installed or does not take the options."""
    try:
        import obstore
        from obstore.store import S3Store
    except ImportError:
        raise InvalidArgument("S3 storage needs the extra registry-s3: pip install 'dockyard[registry-s3]'") from None
    try:
        store = S3Store(
            bucket,
            prefix=prefix or None,
            client_options={"allow_http": allow_http, "timeout": timeout},
            **dict(options),  # type: ignore[arg-type]
        )
    except Exception as error:  # obstore's errors have no useful common base
        raise InvalidArgument(f"S3 storage: {error}") from None
    return ObjectBackend(obstore, store)


class ObjectBackend:
    """`library` is the obstore module, `store` one of its stores."""

    tick = 1.0  # HTTP dates

    def __init__(self, library: Any, store: Any) -> None:
        self._obstore = library
        self._store = store

    async def read(self, key: str) -> bytes:
        try:
            answer = await self._obstore.get_async(self._store, key)
            return bytes(await answer.bytes_async())
        except FileNotFoundError:
            raise Missing(key) from None

    async def write(self, key: str, content: bytes, durable: bool = True) -> None:
        await self._obstore.put_async(self._store, key, content, use_multipart=False)

    async def sync(self, keys: list[str]) -> None:
        """Every write that has returned is durable."""

    async def delete(self, *keys: str) -> None:
        for first in range(0, len(keys), 500):
            with contextlib.suppress(FileNotFoundError):
                await self._obstore.delete_async(self._store, list(keys[first : first + 500]))

    async def delete_if(self, key: str, content: bytes) -> bool:
        """There is no conditional deletion everywhere, but a conditional write: the object becomes empty."""
        try:
            answer = await self._obstore.get_async(self._store, key)
            if bytes(await answer.bytes_async()) != content:
                return False
            seen = {key: answer.meta[key] for key in ("e_tag", "version") if answer.meta.get(key)}
            await self._obstore.put_async(self._store, key, b"", mode=seen, use_multipart=False)
        except (FileNotFoundError, self._obstore.exceptions.PreconditionError):
            return False
        return True

    async def stat(self, key: str) -> Entry | None:
        try:
            found = await self._obstore.head_async(self._store, key)
        except FileNotFoundError:
            return None
        return _entry(found, key)

    async def below(self, prefix: str) -> Listing:
        found = await self._obstore.list_with_delimiter_async(self._store, prefix)
        start = len(prefix) + 1
        files = [_entry(each, each["path"][start:]) for each in found["objects"] if each["path"] != prefix]
        return Listing(sorted(each[start:].rstrip("/") for each in found["common_prefixes"]), sorted(files))

    async def walk(self, prefix: str) -> AsyncIterator[Entry]:
        async for batch in self._obstore.list(self._store, prefix, chunk_size=1000):
            for each in batch:
                yield _entry(each, each["path"])

    async def copy(self, source: str, target: str) -> None:
        found = await self.stat(source)
        if found is None:
            raise Missing(source)
        try:
            if found.size <= _COPY_LIMIT:
                await self._obstore.copy_async(self._store, source, target)
            else:
                await self._put(target, self.stream(source, 0, found.size))
        except FileNotFoundError:
            raise Missing(source) from None

    async def stream(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        if not length:
            if await self.stat(key) is None:
                raise Missing(key)
            return
        try:
            answer = await self._obstore.get_async(self._store, key, options={"range": (start, start + length)})
            async for data in answer.stream(min_chunk_size=CHUNK):
                yield bytes(data)
        except FileNotFoundError:
            raise Missing(key) from None

    async def open(self, key: str) -> int | None:
        return None

    async def now(self) -> float:
        key = f"clock/{secrets.token_hex(16)}"
        await self.write(key, b"now")
        found = await self.stat(key)
        await self.delete(key)
        assert found is not None
        return found.modified

    # Uploads

    async def begin(self, upload: str, state: bytes) -> None:
        await self.write(f"{upload}/state", state)

    async def state(self, upload: str) -> tuple[bytes, int]:
        state = await self.read(f"{upload}/state")
        return state, sum(entry.size for entry in await self._parts(upload))

    async def _parts(self, upload: str) -> list[Entry]:
        """The objects that make up the upload, in order. Where two requests brought the same bytes, one counts."""
        chain, size = [], 0
        for entry in (await self.below(upload)).files:
            if entry.name.startswith("p") and entry.size and int(entry.name[1:21]) == size:
                chain.append(Entry(f"{upload}/{entry.name}", entry.size, entry.modified))
                size += entry.size
        return chain

    async def append(self, upload: str, offset: int | None, source: AsyncIterator[bytes], hasher: Any) -> int:
        _, size = await self.state(upload)
        if offset is not None and offset != size:
            raise WrongOffset(size)
        key = f"{upload}/p{size:020}-{secrets.token_hex(8)}"
        return size + await self._put(key, source, hasher)

    async def _put(self, key: str, source: AsyncIterator[bytes], hasher: Any = None) -> int:
        """Stream into an object; nothing is there if `source` fails. Returns its bytes."""
        counted = _Counted(source, hasher)
        first = await counted.block()
        if len(first) < _PART:
            await self._obstore.put_async(self._store, key, first, use_multipart=False)
            return counted.size
        await self._obstore.put_async(
            self._store, key, counted.all(first), use_multipart=True, chunk_size=_PART, max_concurrency=_PARALLEL
        )
        if counted.failure is not None:
            await self.delete(key)
            raise counted.failure
        return counted.size

    async def finish(
        self, upload: str, digest: str, known: tuple[int, str] | None, target: Callable[[int], str] | None
    ) -> int:
        await self.read(f"{upload}/state")
        parts = await self._parts(upload)
        size = sum(part.size for part in parts)
        if known and known[0] == size and len(parts) == 1:  # an immutable object whose bytes were hashed here
            _compare(known[1], digest)
            if target is not None:
                await self.copy(parts[0].name, target(size))
        elif target is None:
            hasher = hashlib.sha256()
            async for data in self._joined(parts):
                await asyncio.to_thread(hasher.update, data)
            _compare(f"sha256:{hasher.hexdigest()}", digest)
        else:
            hasher = hashlib.sha256()
            await self._put(target(size), self._joined(parts), hasher)
            try:
                _compare(f"sha256:{hasher.hexdigest()}", digest)
            except WrongDigest:
                await self.delete(target(size))
                raise
        if target is not None:
            await self.discard(upload)
        return size

    async def _joined(self, parts: list[Entry]) -> AsyncIterator[bytes]:
        for part in parts:
            async for data in self.stream(part.name, 0, part.size):
                yield data

    async def discard(self, upload: str) -> None:
        await self.delete(*[entry.name async for entry in self.walk(upload)])

    async def close(self) -> None:
        """The library ends its connections itself."""


class _Counted:
    """An iterator of bytes, hashed and counted, cut into blocks. What fails in it is kept for who asked for the bytes:
    the library would wrap the error."""

    def __init__(self, source: AsyncIterator[bytes], hasher: Any) -> None:
        self._source = source
        self._hasher = hasher
        self.size = 0
        self.failure: BaseException | None = None

    async def block(self) -> bytes:
        """The next `_PART` bytes or a few more; less at the end."""
        parts, length = [], 0
        async for data in self._source:
            parts.append(data)
            length += len(data)
            if length >= _PART:
                break
        block = b"".join(parts)
        if self._hasher is not None and block:
            await asyncio.to_thread(self._hasher.update, block)
        self.size += len(block)
        return block

    async def all(self, first: bytes) -> AsyncIterator[bytes]:
        block = first
        while block:
            yield block
            try:
                block = await self.block()
            except BaseException as error:
                self.failure = error
                raise


def _compare(found: str, digest: str) -> None:
    if found != digest:
        raise WrongDigest(f"the content's digest is {found}, not {digest}")


def _entry(found: Mapping[str, Any], name: str) -> Entry:
    return Entry(name, found["size"], found["last_modified"].timestamp())
