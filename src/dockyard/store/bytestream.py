"""A stream of bytes out of a descriptor: decompressed, hashed and bounded on the way.

Owns: `Source` (a thread that reads, decompresses and hashes ahead of the consumer; the kinds of compression are found
by their magic). Does not own: exact reads from its chunks (`proto.tarread`), what the bytes mean.

The work of decompressing and hashing happens in C without the interpreter's lock, so the threads run in parallel with
the consumer that parses and writes.
"""

from __future__ import annotations

import bz2
import errno
import fcntl
import hashlib
import io
import lzma
import os
import queue
import select
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, Any, Self, cast

import zstandard
from isal import igzip_lib

from dockyard.model.errors import NO_SPACE
from dockyard.proto.tarread import StreamError
from dockyard.proto.zstdframes import Frames

CHUNK = 1 << 20  # bytes read at a time, and the most that is decompressed at a time
_AHEAD = 6  # chunks between the threads
_PIPE_SIZE = 1 << 20
_GZIP_ERROR: type[Exception] = cast(Any, igzip_lib).IsalError  # the stub takes the class for an instance
_ZSTD_WINDOW = 1 << 27  # bytes: what `zstd --long=27` needs, and the most that a frame may ask for


def write_all(fd: int) -> Callable[[memoryview], None]:
    """A `write` for `ByteStream.copy` that writes everything to `fd`."""

    def write(view: memoryview) -> None:
        written = os.write(fd, view)
        while written < len(view):
            view = view[written:]
            written = os.write(fd, view)

    return write


class Source:
    """Chunks of what `fd` holds: all of it, or `length` bytes from `offset` of a file. Use in `with`, iterate once.

    After the iteration: `.digest` (sha256 of the decompressed bytes, hex), `.size` (their number).
    `limit` is the most decompressed bytes that may come.
    Errors of the threads (StreamError, OSError) are raised to the consumer.
    """

    def __init__(
        self,
        fd: int,
        *,
        offset: int | None = None,
        length: int | None = None,
        limit: int | None = None,
        decompress: bool = True,
        hash_out: bool = True,
        raw: RawInput | None = None,
    ) -> None:
        """`raw`: read this instead of `fd`. `hash_out`: whether anybody wants `.digest`."""
        self._input = raw or RawInput(fd, offset, length)
        self._stop = self._input.stop
        self._limit = limit
        self._decompress = decompress
        self._hash = hashlib.sha256()
        self._out: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
        self._to_hash: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._threads = [threading.Thread(target=self._read, name="source", daemon=True)]
        self._hashing = hash_out
        if hash_out:
            self._threads.append(threading.Thread(target=self._digest, name="source-hash", daemon=True))
        self.size = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            while thread.is_alive():
                self._drain(self._out)
                thread.join(0.01)

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._out.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
        if self._hashing:
            self._threads[1].join()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    @staticmethod
    def _drain(pending: queue.Queue[Any]) -> None:
        try:
            while True:
                pending.get_nowait()
        except queue.Empty:
            pass

    def _read(self) -> None:
        outcome: BaseException | None = None
        try:
            chunks = decompressed(self._input) if self._decompress else iter(self._input)
            for chunk in chunks:
                self.size += len(chunk)
                if self._limit is not None and self.size > self._limit:
                    raise OSError(errno.ENOSPC, f"{NO_SPACE}: more than {self._limit} bytes when unpacked")
                if self._hashing:
                    self._to_hash.put(chunk)
                self._out.put(chunk)
                if self._stop.is_set():
                    return
        except BaseException as error:  # raised to the consumer
            outcome = error
        finally:
            self._to_hash.put(None)
            if not self._stop.is_set():
                self._out.put(outcome)

    def _digest(self) -> None:
        while (chunk := self._to_hash.get()) is not None:
            self._hash.update(chunk)


class RawInput(io.RawIOBase):
    """Bytes as they lie in the file or come out of the pipe; an iterator of chunks and a raw file to libraries.

    Subclasses that have the bytes from elsewhere give -1 for the descriptor and a `_read_some` of their own.
    """

    def __init__(self, fd: int, offset: int | None = None, length: int | None = None, hash_: Any = None) -> None:
        self._fd = fd
        self.stop = threading.Event()  # the consumer has given up
        self._poll = select.poll()
        if fd >= 0:
            self._poll.register(fd, select.POLLIN)
        self._offset = offset
        self._left = length
        self._pushed = b""
        self.hash = hash_
        if offset is None and fd >= 0:
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            except OSError:
                pass  # not a pipe, or beyond the user's allowance

    def chunk(self, size: int = CHUNK) -> bytes:
        """The next bytes, b"" at the end."""
        if self._pushed:
            data, self._pushed = self._pushed[:size], self._pushed[size:]
            return data
        if self._left is not None:
            size = min(size, self._left)
        data = self._read_some(size)
        if self._left is not None:
            if not data and size:
                raise StreamError("unexpected end: the archive is truncated")
            self._left -= len(data)
        if self.hash is not None:
            self.hash.update(data)
        return data

    def _read_some(self, size: int) -> bytes:
        """Up to `size` of the next bytes as they lie there; b"" at the end."""
        if self._offset is None:
            self._wait()
            return os.read(self._fd, size)
        data = os.pread(self._fd, size, self._offset)
        self._offset += len(data)
        return data

    def _wait(self) -> None:
        """Until the pipe has something: a consumer that gave up must not have to wait for a client that stalls."""
        while not self._poll.poll(100):
            if self.stop.is_set():
                raise StreamError("abandoned")

    def push_back(self, data: bytes) -> None:
        self._pushed = data + self._pushed

    def peek(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := self.chunk(CHUNK)):
            data += more
        self.push_back(data)
        return data[:size]

    def __iter__(self) -> Iterator[bytes]:
        while data := self.chunk():
            yield data

    def __next__(self) -> bytes:
        raise StopIteration

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.chunk(size if 0 < size < CHUNK else CHUNK)

    def readinto(self, buffer: Any) -> int:
        data = self.chunk(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def compression(magic: bytes) -> str:
    """ "gzip", "zstd", "bzip2", "xz" or "" by the first bytes (six are enough)."""
    for kind, start in _MAGIC.items():
        if magic.startswith(start):
            return kind
    return ""


def decompressed(source: RawInput) -> Iterator[bytes]:
    """The chunks of `source`, decompressed if they begin like something compressed."""
    kind = compression(source.peek(6))
    if not kind:
        return iter(source)
    return _DECOMPRESSORS[kind](source)


def _gzip(source: RawInput) -> Iterator[bytes]:
    """One member after another, as gzip(1) concatenates them; zeros after the last are padding."""
    data = source.chunk()
    while data:
        decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        while not decoder.eof:
            try:
                out = decoder.decompress(data, CHUNK)
            except _GZIP_ERROR as error:
                raise StreamError(f"damaged gzip data: {error}") from None
            if out:
                yield out
            data = b""
            if decoder.needs_input and not decoder.eof and not (data := source.chunk(1 << 18)):
                raise StreamError("unexpected end: the gzip data is truncated")
        data = decoder.unused_data or source.chunk()
        while data and not data.strip(b"\0"):
            data = source.chunk()
        if data and not data.startswith(b"\x1f\x8b"[: len(data)]):
            raise StreamError("damaged gzip data: something else follows it")


class _Watched:
    """Input on its way to zstd's reader, which takes the end of the input for the end of a frame."""

    def __init__(self, source: RawInput) -> None:
        self._source = source
        self.frames = Frames()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.frames.feed(data)
        return data


def _zstd(source: RawInput) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    watched = _Watched(source)
    with decoder.stream_reader(cast(IO[bytes], watched), read_across_frames=True, closefd=False) as reader:
        try:
            while data := reader.read(CHUNK):
                yield data
        except zstandard.ZstdError as error:
            raise StreamError(f"damaged zstd data: {error}") from None
    if not watched.frames.whole:
        raise StreamError("unexpected end: the zstd data is truncated")


def _bzip2(source: RawInput) -> Iterator[bytes]:
    yield from _stdlib(source, bz2.BZ2Decompressor, "bzip2")


def _xz(source: RawInput) -> Iterator[bytes]:
    yield from _stdlib(source, lambda: lzma.LZMADecompressor(memlimit=1 << 28), "xz")


def _stdlib(source: RawInput, make: Callable[[], Any], name: str) -> Iterator[bytes]:
    data = source.chunk()
    while data:
        decoder = make()
        while not decoder.eof:
            try:
                out = decoder.decompress(data, CHUNK)
            except (OSError, lzma.LZMAError, EOFError) as error:
                raise StreamError(f"damaged {name} data: {error}") from None
            if out:
                yield out
            data = b""
            if decoder.needs_input and not decoder.eof and not (data := source.chunk(1 << 18)):
                raise StreamError(f"unexpected end: the {name} data is truncated")
        data = decoder.unused_data or source.chunk()
        while data and not data.strip(b"\0"):
            data = source.chunk()


_MAGIC = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd", "bzip2": b"BZh", "xz": b"\xfd7zXZ\x00"}
_DECOMPRESSORS: dict[str, Callable[[RawInput], Iterator[bytes]]] = {
    "gzip": _gzip,
    "zstd": _zstd,
    "bzip2": _bzip2,
    "xz": _xz,
}
