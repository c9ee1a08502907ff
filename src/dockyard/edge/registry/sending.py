"""Bytes of a blob to a client.

Owns: ranges and conditions (RFC 9110 sections 13 and 14: one range), and sending with sendfile(2) where the bytes lie
in a file and the connection is not encrypted. Does not own: which blob.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from dockyard.registry.errors import RegistryError

_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z")
_BURST: Final = 4 << 20  # bytes that one sendfile(2) may move before other clients have their turn


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """(start, length); None: the whole. RegistryError 416 for a range that the blob does not have."""
    match = _RANGE.match(header.replace(" ", ""))
    if not match or match[0] == "bytes=-" or len(header) > 100:
        return None  # several ranges and other units may be ignored
    first, last = match[1], match[2]
    if not first:
        length = min(int(last), size)
        start = size - length
    else:
        start = int(first)
        length = min(int(last) if last else size - 1, size - 1) - start + 1
        if last and int(last) < start:
            return None
    if length <= 0 or start >= size:
        raise RegistryError(
            "SIZE_INVALID", "the range cannot be satisfied", status=416, headers={"Content-Range": f"bytes */{size}"}
        )
    return start, length


def is_cached(request: web.BaseRequest, digest: str) -> bool:
    """Has the client this very content?"""
    header = request.headers.get("If-None-Match", "")
    tags = [part.strip().removeprefix("W/").strip('"') for part in header.split(",")]
    return digest in tags or header.strip() == "*"


async def send_stream(
    request: web.BaseRequest, response: web.StreamResponse, source: AsyncIterator[bytes]
) -> web.StreamResponse:
    """Chunk by chunk; the first one is there before the head of the answer goes out, so that errors can be told."""
    first = await anext(source, b"")
    await response.prepare(request)
    await response.write(first) if first else None
    async for data in source:
        await response.write(data)
    await response.write_eof()
    return response


async def send_file(
    request: web.BaseRequest, response: web.StreamResponse, fd: int, start: int, length: int
) -> web.StreamResponse:
    """From a descriptor, which stays the caller's. The connection is closed if the file turns out to be short."""
    await response.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    sock = transport.get_extra_info("socket")
    if sock is None or transport.get_extra_info("sslcontext") is not None:
        await _pour(response, fd, start, length)
    else:
        while transport.get_write_buffer_size():  # the head of the answer
            if transport.is_closing():
                raise ConnectionResetError("the client is gone")
            await asyncio.sleep(0)
        out = os.dup(sock.fileno())  # the loop watches the transport's own
        try:
            await _sendfile(transport, out, fd, start, length)
        finally:
            os.close(out)
    with contextlib.suppress(ConnectionError):
        await response.write_eof()
    return response


async def _sendfile(transport: asyncio.Transport, out: int, fd: int, start: int, length: int) -> None:
    loop = asyncio.get_running_loop()
    while length:
        try:
            sent = await loop.run_in_executor(None, os.sendfile, out, fd, start, min(length, _BURST))
        except BlockingIOError:
            await _writable(loop, out)
            continue
        except OSError as error:
            transport.abort()
            raise ConnectionResetError("the client is gone") from error
        if not sent:
            transport.abort()
            raise ConnectionResetError("the blob is shorter than its name says")
        start, length = start + sent, length - sent


async def _writable(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)


async def _pour(response: web.StreamResponse, fd: int, start: int, length: int) -> None:
    loop = asyncio.get_running_loop()
    while length:
        data = await loop.run_in_executor(None, os.pread, fd, min(length, 1 << 18), start)
        if not data:
            raise ConnectionResetError("the blob is shorter than its name says")
        await response.write(data)
        start, length = start + len(data), length - len(data)
