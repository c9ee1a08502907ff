"""Bytes between the event loop and worker functions, through pipes and temporary files.

Owns: `feed` (chunks of a request into a pipe), `drain` (a pipe into chunks), `worker_output` (what a worker writes),
`temporary_file`. Blocks nothing.
Does not own: what the bytes are.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dockyard.model.errors import SystemFailure
from dockyard.store.inline import Call
from dockyard.store.layout import Layout

_READ = 1 << 18
_PIPE_SIZE = 1 << 20  # what a worker may be ahead of the loop


async def feed(chunks: AsyncIterator[bytes], fd: int) -> None:
    """Write everything into the pipe `fd` and close it. A reader that has gone ends it silently: it has its reasons."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    try:
        async for chunk in chunks:
            view = memoryview(chunk)
            while view:
                try:
                    view = view[os.write(fd, view) :]
                except BlockingIOError:
                    await _ready(loop.add_writer, loop.remove_writer, fd)
    except BrokenPipeError:
        pass
    finally:
        os.close(fd)


async def drain(fd: int) -> AsyncIterator[bytes]:
    """What comes out of the pipe `fd`, until its end. The caller closes it."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    with suppress(OSError):  # beyond the user's allowance
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    while True:
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            await _ready(loop.add_reader, loop.remove_reader, fd)
            continue
        if not data:
            return
        yield data


async def worker_output(call: Call, function: str, arguments: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    """What a worker function writes to the pipe that is its first descriptor. Its failure is raised when all that it
    has written has been handed over; closing the generator ends the worker."""
    reading, writing = os.pipe2(os.O_CLOEXEC)

    async def work() -> None:
        try:
            await call(function, arguments, [writing])
        finally:
            os.close(writing)

    worker = asyncio.ensure_future(work())
    try:
        async for chunk in drain(reading):
            yield chunk
        await worker
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        os.close(reading)


async def _ready(add: Callable[..., Any], remove: Callable[[int], Any], fd: int) -> None:
    """Until the loop's `add` (add_reader, add_writer) says that `fd` is ready."""
    ready = asyncio.get_running_loop().create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    add(fd, tell)
    try:
        await ready
    finally:
        remove(fd)


@contextmanager
def temporary_file(layout: Layout) -> Iterator[int]:
    """An empty file without a name on the store's file system, open for reading and writing."""
    path = layout.ingest / f"spool-{secrets.token_hex(8)}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SystemFailure(f"temporary file: {error.strerror}") from error
    try:
        os.unlink(path)
        yield fd
    finally:
        os.close(fd)
