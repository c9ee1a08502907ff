"""Worker functions between a registry and the store: a layer comes in, a layer goes out.

Owns: `receive` (bytes of a blob out of a pipe: kept in a file, hashed, decompressed and unpacked at once) and `send`
(an unpacked layer becomes a tar again, hashed, compressed and hashed). Does not own: the HTTP, the rows.

A blob that `receive` has kept is not forced to disk: the row of its layer says until a syncfs that it may not be there,
and what no row refers to after a power loss is swept before anybody looks at it.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from isal import isal_zlib

from dockyard.model.errors import DockyardError, InvalidArgument, SystemFailure
from dockyard.proto.tarformat import TarError
from dockyard.proto.tarread import StreamError
from dockyard.store.bytestream import RawInput, Source, write_all
from dockyard.store.recipe import rebuild
from dockyard.store.unpack import apply_source, free_space

_LEVEL = 1  # of isal's 0 to 3
_AHEAD = 8  # pieces between the threads
_PIECE = 1 << 18  # bytes: what two threads read one after the other should still be in the cache
_GZIP = 31  # window bits of zlib that mean: with a gzip header


class _Received(RawInput):
    """A blob: the part that is there already, then what comes out of the pipe, which is kept too."""

    def __init__(self, pipe: int, kept: int, have: int) -> None:
        super().__init__(pipe, hash_=hashlib.sha256())
        self._kept = kept
        self._have = have
        self.total = 0

    def _read_some(self, size: int) -> bytes:
        if self.total < self._have:
            data = os.pread(self._kept, min(size, self._have - self.total), self.total)
            if not data:
                raise StreamError("the part that was fetched before has become shorter")
        else:
            data = super()._read_some(size)
            view, at = memoryview(data), self.total
            while view:
                written = os.pwrite(self._kept, view, at)
                view, at = view[written:], at + written
        self.total += len(data)
        return data

    def drain(self) -> None:
        """Read to the end, whatever it is."""
        self.stop.clear()
        while self.chunk():
            pass


def receive(
    *,
    fds: Sequence[int],
    have: int,
    size: int,
    digest: str,
    partial: str,
    root: str,
    recipe: str,
    what: str,
    overlay: bool,
) -> dict[str, Any]:
    """Unpack a layer while its blob arrives; keep the blob in `partial`, complete and verified when this returns.

    `fds`: the pipe, and the file `partial`, which holds the first `have` bytes. Returns what `store.unpack:apply` does,
    or {"short": bytes} if the pipe ended early (the file stays, to be gone on with), or {"wrong": the cause} if the
    bytes are not those of `digest` (the file is gone). Other failures are raised and take the file with them: the layer
    itself is bad, or the disk is full.
    """
    raw = _Received(fds[0], fds[1], have)
    limit = free_space(root)
    failure: DockyardError | None = None
    result: dict[str, Any] = {}
    try:
        try:
            result = apply_source(lambda: Source(-1, raw=raw, limit=limit), root, recipe, what, overlay, False)
        except InvalidArgument as error:
            failure = error  # a damaged transfer rather than a bad layer, if the digest says so
        raw.drain()
        if raw.total < size:
            return {"short": raw.total}
        found = f"sha256:{raw.hash.hexdigest()}"
        if found != digest or raw.total != size:
            os.unlink(partial)
            return {"wrong": f"{what}: verification failed: the digest of what the registry sent is {found}"}
        if failure is not None:
            os.unlink(partial)
            raise failure
    except OSError as error:
        _forget(partial)
        raise SystemFailure(f"{what}: {error.strerror}") from error
    except SystemFailure:
        _forget(partial)
        raise
    return result


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def send(*, fds: Sequence[int], layer: dict[str, Any], compress: bool, skip: int = 0) -> dict[str, Any]:
    """Write an unpacked layer's tar to the pipe `fds[0]`, gzipped or not, but for the first `skip` bytes of that.

    `layer`: {"recipe", "tree", "size", "digest"}, verified on the way. Returns {"digest", "size"} of all of it: the
    same each time. SystemFailure if the layer is not what it was.
    """
    what = f"layer {layer['digest']}"
    packer = _Packer(write_all(fds[0]), compress, skip)
    try:
        with _Stage("send-hash") as hashing, _Stage("send-pack") as packing:
            out = _Chunks(
                [lambda chunk: hashing.put(packer.digest, chunk), lambda chunk: packing.put(packer.pack, chunk)]
            )
            rebuild(layer["recipe"], layer["tree"], out.take)
            out.flush()
            hashing.end()
            if out.size != layer["size"] or f"sha256:{packer.tar_hash.hexdigest()}" != layer["digest"]:
                raise StreamError("it has changed in the store")
            packing.put(packer.finish, b"")
            packing.end()
    except (OSError, StreamError, TarError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise SystemFailure(f"{what}: {text}") from error
    return {"digest": f"sha256:{packer.hash.hexdigest()}", "size": packer.size}


class _Chunks:
    """Many small pieces become few large ones, copied once."""

    def __init__(self, takers: Sequence[Callable[[bytes], None]]) -> None:
        self._takers = takers
        self._parts: list[memoryview] = []
        self._waiting = 0
        self.size = 0

    def take(self, view: memoryview) -> None:
        self._parts.append(view)
        self._waiting += len(view)
        if self._waiting >= _PIECE:
            self.flush()

    def flush(self) -> None:
        chunk = b"".join(self._parts)
        self.size += len(chunk)
        self._parts, self._waiting = [], 0
        for take in self._takers:
            take(chunk)


class _Stage:
    """A thread that does one thing after another. Use in `with`; its failure is raised by the next `put`, or `end`."""

    def __init__(self, name: str) -> None:
        self._queue: queue.Queue[tuple[Callable[[bytes], None], bytes] | None] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> _Stage:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._thread.is_alive():
            self._error = self._error or StreamError("given up")  # what waits is not done any more
            self._queue.put(None)
            self._thread.join()

    def put(self, work: Callable[[bytes], None], data: bytes) -> None:
        if self._error is not None:
            raise self._error
        self._queue.put((work, data))

    def end(self) -> None:
        """Wait until everything is done."""
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    item[0](item[1])
                except BaseException as error:  # raised to the one who puts
                    self._error = error


class _Packer:
    """A tar's hash; its bytes compressed, hashed and written."""

    def __init__(self, write: Callable[[memoryview], None], compress: bool, skip: int) -> None:
        self._write = write
        self._codec = isal_zlib.compressobj(level=_LEVEL, wbits=_GZIP) if compress else None
        self._skip = skip
        self.tar_hash = hashlib.sha256()
        self.hash = hashlib.sha256()
        self.size = 0

    def digest(self, chunk: bytes) -> None:
        self.tar_hash.update(chunk)

    def pack(self, chunk: bytes) -> None:
        self._out(self._codec.compress(chunk) if self._codec else chunk)

    def finish(self, _: bytes) -> None:
        if self._codec is not None:
            self._out(self._codec.flush())

    def _out(self, data: bytes) -> None:
        if data:
            self.hash.update(data)
            dropped = min(max(self._skip - self.size, 0), len(data))
            self.size += len(data)
            self._write(memoryview(data)[dropped:])
