"""The backend on a file system, local or shared.

Owns: files below one root: written to `tmp/`, fsynced, renamed; uploads as one growing file under flock(2), which keeps
two requests (of any process on any host that shares the file system's locks) from writing, or finishing, the same one.
Does not own: what keys mean (`registry.names`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from dockyard.registry.backend import CHUNK, Entry, Listing, Missing
from dockyard.registry.errors import Busy, WrongDigest, WrongOffset

T = TypeVar("T")
_WORKERS = 16
_PARTS = 512  # buffers of one writev(2); IOV_MAX is 1024
_TRIES = 20  # a folder may be pruned between its making and its use
_TEMPORARY_AGE = 24 * 3600.0  # seconds


class FileBackend:
    """`root` is made if it is not there. Blocking work happens in threads of its own."""

    tick = 0.02  # the kernel dates files by its timer's ticks

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / "tmp"
        self._temporary.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._pool = ThreadPoolExecutor(_WORKERS, "registry-files")
        _sweep_temporary(self._temporary)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def path(self, key: str) -> Path:
        return self._root / key

    async def read(self, key: str) -> bytes:
        try:
            return await self._run(self.path(key).read_bytes)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise Missing(key) from None

    async def write(self, key: str, content: bytes, durable: bool = True) -> None:
        await self._run(self._write, self.path(key), content, durable)

    def _write(self, path: Path, content: bytes, durable: bool) -> None:
        if content:
            temporary = self._temporary / secrets.token_hex(16)
            try:
                with open(temporary, "xb", buffering=0) as file:
                    file.write(content)
                    if durable:
                        os.fsync(file.fileno())
                _in_folder(path, lambda: os.rename(temporary, path))
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        else:
            _in_folder(path, lambda: _make_empty(path))
        if durable:
            self._sync_folders({path.parent})

    async def sync(self, keys: list[str]) -> None:
        await self._run(self._sync_folders, {self.path(key).parent for key in keys})

    def _sync_folders(self, folders: set[Path]) -> None:
        """fsync of folders and of those above them, up to the root, each once."""
        wanted: dict[Path, None] = {}
        for folder in folders:
            while folder != self._root and folder not in wanted:
                wanted[folder] = None
                folder = folder.parent
        for folder in (*wanted, self._root):
            with contextlib.suppress(FileNotFoundError):
                _sync_folder(folder)

    async def delete(self, *keys: str) -> None:
        await self._run(self._delete, keys)

    def _delete(self, keys: tuple[str, ...]) -> None:
        parents = set()
        for key in keys:
            path = self.path(key)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)
                parents.add(path.parent)
        for parent in parents:
            with contextlib.suppress(FileNotFoundError):
                _sync_folder(parent)
            self._prune(parent)

    def _prune(self, folder: Path) -> None:
        """Remove folders that have become empty, but not those right below the root."""
        while folder.parent != self._root and folder != self._root:
            try:
                os.rmdir(folder)
            except OSError:
                return
            folder = folder.parent

    async def delete_if(self, key: str, content: bytes) -> bool:
        return await self._run(self._delete_if, self.path(key), content)

    def _delete_if(self, path: Path, content: bytes) -> bool:
        """Taken aside first: what was taken is known then, and goes back if it is not what was meant."""
        aside = self._temporary / secrets.token_hex(16)
        try:
            if path.read_bytes() != content:
                return False
            os.rename(path, aside)
        except FileNotFoundError:
            return False
        try:
            if aside.read_bytes() != content:
                with contextlib.suppress(FileExistsError):  # a newer one is there already
                    _in_folder(path, lambda: os.link(aside, path))
                return False
            with contextlib.suppress(FileNotFoundError):
                _sync_folder(path.parent)
            return True
        finally:
            aside.unlink(missing_ok=True)
            self._prune(path.parent)

    async def stat(self, key: str) -> Entry | None:
        try:
            found = await self._run(os.stat, self.path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(key, found.st_size, found.st_mtime)

    async def below(self, prefix: str) -> Listing:
        return await self._run(_list, self.path(prefix))

    async def walk(self, prefix: str) -> AsyncIterator[Entry]:
        iterator = _walk(str(self.path(prefix)), prefix)
        while batch := await self._run(_take, iterator, 1000):
            for entry in batch:
                yield entry

    async def copy(self, source: str, target: str) -> None:
        await self._run(self._copy, self.path(source), self.path(target))

    def _copy(self, source: Path, target: Path) -> None:
        """A copy of its own, not a hard link: the two are dated apart. Copied within the file system where it can."""
        temporary = self._temporary / secrets.token_hex(16)
        try:
            with open(source, "rb") as reader, open(temporary, "xb") as writer:
                try:
                    while os.copy_file_range(reader.fileno(), writer.fileno(), 64 << 20):
                        pass
                except OSError:
                    writer.truncate(0)
                    os.lseek(writer.fileno(), 0, os.SEEK_SET)
                    reader.seek(0)
                    shutil.copyfileobj(reader, writer, CHUNK)
                writer.flush()
                os.fsync(writer.fileno())
            _in_folder(target, lambda: os.rename(temporary, target))
        except FileNotFoundError:
            raise Missing(str(source)) from None
        finally:
            temporary.unlink(missing_ok=True)

    async def stream(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        fd = await self.open(key)
        try:
            while length:
                data = await self._run(os.pread, fd, min(CHUNK, length), start)
                if not data:
                    raise OSError(errno.EIO, "the object is shorter than it should be", key)
                start, length = start + len(data), length - len(data)
                yield data
        finally:
            os.close(fd)

    async def open(self, key: str) -> int:
        try:
            return await self._run(os.open, self.path(key), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise Missing(key) from None

    async def now(self) -> float:
        return await self._run(self._now)

    def _now(self) -> float:
        """The file system's clock may be another host's."""
        path = self._temporary / secrets.token_hex(16)
        _make_empty(path)
        try:
            return os.stat(path).st_mtime
        finally:
            path.unlink()

    # Uploads

    async def begin(self, upload: str, state: bytes) -> None:
        await self._run(self._begin, self.path(upload), state)

    def _begin(self, folder: Path, state: bytes) -> None:
        _in_folder(folder / "data", lambda: _make_empty(folder / "data"))
        self._write(folder / "state", state, False)

    async def state(self, upload: str) -> tuple[bytes, int]:
        return await self._run(self._state, self.path(upload))

    def _state(self, folder: Path) -> tuple[bytes, int]:
        try:
            return (folder / "state").read_bytes(), os.stat(folder / "data").st_size
        except FileNotFoundError:
            raise Missing(str(folder)) from None

    async def append(self, upload: str, offset: int | None, source: AsyncIterator[bytes], hasher: Any) -> int:
        fd, size = await self._run(_lock_upload, self.path(upload))
        try:
            if offset is not None and offset != size:
                raise WrongOffset(size)
            return size + await self._pour(fd, source, hasher)
        finally:
            os.close(fd)

    async def _pour(self, fd: int, source: AsyncIterator[bytes], hasher: Any) -> int:
        """Hashes and writes in a thread what has come, while the next bytes come. What has come is written always."""
        total, held, waiting = 0, 0, []
        job: asyncio.Future[None] | None = None
        loop = asyncio.get_running_loop()
        try:
            async for data in source:
                waiting.append(data)
                held += len(data)
                if held >= CHUNK or len(waiting) >= _PARTS:
                    if job is not None:
                        await job
                    job = loop.run_in_executor(self._pool, _write_all, fd, waiting, hasher)
                    total, held, waiting = total + held, 0, []
        finally:
            if job is not None:
                await _ended(job)
            if waiting:
                await _ended(loop.run_in_executor(self._pool, _write_all, fd, waiting, hasher))
        return total + held

    async def finish(
        self, upload: str, digest: str, known: tuple[int, str] | None, target: Callable[[int], str] | None
    ) -> int:
        return await self._run(self._finish, self.path(upload), digest, known, target)

    def _finish(
        self, folder: Path, digest: str, known: tuple[int, str] | None, target: Callable[[int], str] | None
    ) -> int:
        fd, size = _lock_upload(folder)
        try:
            found = known[1] if known and known[0] == size else _digest_of(fd)
            if found != digest:
                raise WrongDigest(f"the content's digest is {found}, not {digest}")
            if target is None:
                return size
            os.fsync(fd)
            os.utime(fd)
            path = self.path(target(size))
            _in_folder(path, lambda: os.rename(folder / "data", path))
        finally:
            os.close(fd)
        shutil.rmtree(folder, ignore_errors=True)
        return size

    async def discard(self, upload: str) -> None:
        await self._run(shutil.rmtree, self.path(upload), True)

    async def close(self) -> None:
        self._pool.shutdown(wait=False)


async def _ended(job: asyncio.Future[None]) -> None:
    """Waits for a thread that uses our descriptor, also when this task is cancelled meanwhile."""
    cancelled = False
    while not job.done():
        try:
            await asyncio.shield(job)
        except asyncio.CancelledError:
            if job.done():
                break
            cancelled = True
    job.result()
    if cancelled:
        raise asyncio.CancelledError


def _lock_upload(folder: Path) -> tuple[int, int]:
    """The upload's file, locked, at its end; and its size. Missing, Busy."""
    try:
        fd = os.open(folder / "data", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise Missing(str(folder)) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(fd)
        named = os.stat(folder / "data")
        if (named.st_dev, named.st_ino) != (found.st_dev, found.st_ino):
            raise FileNotFoundError
        return fd, found.st_size
    except BlockingIOError:
        os.close(fd)
        raise Busy("another request writes to this upload") from None
    except FileNotFoundError:  # finished or discarded before we had the lock
        os.close(fd)
        raise Missing(str(folder)) from None


def _write_all(fd: int, parts: list[bytes], hasher: Any) -> None:
    if hasher is not None:
        for part in parts:
            hasher.update(part)
    length = sum(map(len, parts))
    written = os.writev(fd, parts)
    if written < length:
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def _digest_of(fd: int) -> str:
    hasher = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view, offset = memoryview(buffer), 0
    while count := os.preadv(fd, [buffer], offset):
        hasher.update(view[:count])
        offset += count
    return f"sha256:{hasher.hexdigest()}"


def _in_folder(path: Path, action: Callable[[], None]) -> None:
    """`action` puts `path` there; its folder is made when it is missing, again if it is pruned meanwhile."""
    for _ in range(_TRIES):
        try:
            return action()
        except FileNotFoundError as error:
            if error.filename2 is not None and not os.path.exists(error.filename):
                raise  # the source of a rename is gone
            with contextlib.suppress(FileNotFoundError):  # the one above it was pruned
                path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    return action()


def _make_empty(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.utime(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _list(folder: Path) -> Listing:
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                    continue
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    files.append(Entry(entry.name, found.st_size, found.st_mtime))
    except (FileNotFoundError, NotADirectoryError):
        pass
    return Listing(sorted(folders), sorted(files))


def _walk(folder: str, prefix: str) -> Iterator[Entry]:
    for parent, _, names in os.walk(folder):
        relative = prefix + parent[len(folder) :]
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(os.path.join(parent, name))
                yield Entry(f"{relative}/{name}", found.st_size, found.st_mtime)


def _take(iterator: Iterator[Entry], count: int) -> list[Entry]:
    return [entry for entry, _ in zip(iterator, range(count), strict=False)]


def _sweep_temporary(folder: Path) -> None:
    """What a kill left; young files may be another process's."""
    limit = time.time() - _TEMPORARY_AGE
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            if entry.stat().st_mtime < limit:
                os.unlink(entry.path)
