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
from dockyard.store.bytestream import CHUNK, RawInput, Source, StreamError, write_all
from dockyard.store.recipe import rebuild
from dockyard.store.tarformat import TarError
from dockyard.store.unpack import apply_source, free_space

_LEVEL = 1  # of isal's 0 to 3
_AHEAD = 6  # chunks between the threads
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


def send(*, fds: Sequence[int], layer: dict[str, Any], compress: bool) -> dict[str, Any]:
    """Write an unpacked layer's tar to the pipe `fds[0]`, gzipped or not.

    `layer`: {"recipe", "tree", "size", "digest"}, verified on the way. Returns {"digest", "size"} of what was written.
    SystemFailure if the layer is not what it was.
    """
    out = _Out(write_all(fds[0]), compress)
    hasher = hashlib.sha256()
    left = layer["size"]
    what = f"layer {layer['digest']}"

    def take(view: memoryview) -> None:
        nonlocal left
        left -= len(view)
        if left < 0:
            raise StreamError("it has changed in the store")
        hasher.update(view)
        out.write(view)

    try:
        with out:
            rebuild(layer["recipe"], layer["tree"], take)
            if left or f"sha256:{hasher.hexdigest()}" != layer["digest"]:
                raise StreamError("it has changed in the store")
    except (OSError, StreamError, TarError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise SystemFailure(f"{what}: {text}") from error
    return {"digest": f"sha256:{out.hash.hexdigest()}", "size": out.size}


class _Out:
    """A thread that compresses, hashes and writes what it is given. Use in `with`; its error is raised at the end."""

    def __init__(self, write: Callable[[memoryview], None], compress: bool) -> None:
        self._write = write
        self._codec = isal_zlib.compressobj(level=_LEVEL, wbits=_GZIP) if compress else None
        self._queue: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._run, name="send", daemon=True)
        self._error: BaseException | None = None
        self._parts: list[bytes] = []
        self._waiting = 0
        self._complete = False
        self.hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> _Out:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._flush()
            self._complete = True
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error from None

    def write(self, view: memoryview) -> None:
        self._parts.append(bytes(view))
        self._waiting += len(view)
        if self._waiting >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        if self._error is not None:
            raise StreamError("nobody takes it")
        self._queue.put(b"".join(self._parts))
        self._parts, self._waiting = [], 0

    def _run(self) -> None:
        while (chunk := self._queue.get()) is not None:
            if self._error is None:
                self._guard(self._codec.compress(chunk) if self._codec else chunk)
        if self._error is None and self._complete and self._codec is not None:
            self._guard(self._codec.flush())

    def _guard(self, data: bytes) -> None:
        try:
            self.hash.update(data)
            self.size += len(data)
            if data:
                self._write(memoryview(data))
        except BaseException as error:  # raised by __exit__
            self._error = error
