"""Image archives as files of members: taken in from a client, written out to one.

Owns: the worker functions `receive` (an uploaded tar, compressed or not, becomes a spool file of its members) and
`write` (blobs and rebuilt layers become a tar), and `Spool`, what `receive` left. Does not own: what the members mean
(`engine.images`).
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.proto import tarformat as fmt
from dockyard.proto.tarformat import Entry, TarError
from dockyard.proto.tarread import ByteStream, StreamError, TarReader
from dockyard.store.ahead import Ahead, Place
from dockyard.store.bytestream import CHUNK, Source, write_all
from dockyard.store.connection import Body
from dockyard.store.layertree import clean
from dockyard.store.recipe import rebuild
from dockyard.store.unpack import free_space_of

_MAX_MEMBERS = 200_000
_PIECE = 1 << 18  # bytes that are written at a time
_MAX_LINKS = 16  # symbolic links from member to member


class Member(NamedTuple):
    """What became of a member: bytes at `offset` of the spool; or `layer`: what `store.ahead` made of it; or `known`:
    the digest that it states, of something that is there already."""

    offset: int = 0
    size: int = 0
    layer: dict[str, Any] | None = None
    known: str = ""


class Spool:
    """The members of a received archive. Names are looked up in the archive only: its links lead nowhere else."""

    def __init__(self, fd: int, index: dict[str, Any]) -> None:
        self.fd = fd
        data = os.pread(fd, index["size"], index["offset"])
        self._members: dict[str, Any] = json.loads(data)
        self._layers: list[dict[str, Any]] = index["layers"]

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def member(self, name: str, what: str) -> Member:
        """InvalidArgument naming `what` if it is not there."""
        found = self._find(name)
        if found is None:
            raise InvalidArgument(f"{what}: {name[:200]!r} is not in the archive")
        if isinstance(found, list):
            return Member(found[0], found[1])
        if "known" in found:
            return Member(known=found["known"])
        layer = self._layers[found["layer"]]
        return Member(size=layer["bytes"], layer=layer)

    def read(self, name: str, what: str, limit: int) -> bytes:
        """A small member. InvalidArgument if it is missing, larger than `limit` bytes, or a layer."""
        member = self.member(name, what)
        if member.size > limit:
            raise InvalidArgument(f"{what}: larger than {limit} bytes")
        if member.layer is not None or member.known:
            raise InvalidArgument(f"{what}: {name[:200]!r} is no document")
        return os.pread(self.fd, member.size, member.offset)

    def _find(self, name: str) -> Any:
        for _ in range(_MAX_LINKS):
            try:
                member = self._members.get(_key(clean(name.encode("utf-8", "surrogateescape"))))
            except TarError:
                return None
            if not isinstance(member, str):
                return member
            name = member
        return None


def receive(
    *, fds: Sequence[int], what: str, ahead: dict[str, Any] | None = None, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Worker: read a tar from the pipe `fds[0]`, put its members one after another into the empty file `fds[1]`.

    `body`: `fds[0]` is a connection, see `store.connection`.
    `ahead`: {"place", "known"} for `store.ahead.Ahead`: layers are unpacked at once, and told of in the pipe `fds[2]`.
    At the end of the file comes the index of members: [offset, size], or the name a link leads to, or what `Ahead`
    says. Returns its place and the layers: {"offset", "size", "layers"}. InvalidArgument or SystemFailure naming `what`
    and the cause.
    """
    receiver = _Receiver(fds[1])
    layers = Ahead(Place(*ahead["place"]), ahead["known"], fds[2]) if ahead else None
    try:
        raw = Body(fds[0], body) if body is not None else None
        with Source(fds[0], raw=raw, limit=free_space_of(fds[1]), hash_out=False) as source:
            receiver.run(TarReader(ByteStream(iter(source))), layers)
        return {**receiver.finish(), "layers": layers.results if layers else []}
    except (TarError, StreamError) as error:
        raise InvalidArgument(f"{what}: {error}") from error
    except OSError as error:
        raise SystemFailure(f"{what}: {error.strerror}") from error
    except SystemFailure as error:  # of a layer
        raise SystemFailure(f"{what}: {error.message}") from error


class _Receiver:
    """Members into a spool file."""

    def __init__(self, spool: int) -> None:
        self._write = write_all(spool)
        self._members: dict[str, Any] = {}
        self._offset = 0

    def run(self, reader: TarReader, layers: Ahead | None) -> None:
        while (entry := reader.next()) is not None:
            if len(self._members) >= _MAX_MEMBERS:
                raise TarError(f"more than {_MAX_MEMBERS} members")
            if entry.kind == fmt.FILE:
                name = _key(clean(entry.name))
                taken: Any = layers.take(reader, name, entry.size) if layers is not None else None
                if taken is None:
                    reader.payload(self._write)
                    taken = [self._offset, entry.size]
                    self._offset += entry.size
                self._members[name] = taken
            elif entry.kind in (fmt.SYMLINK, fmt.HARDLINK):
                self._members[_key(clean(entry.name))] = _link_target(entry)
        if not reader.count:
            raise TarError("it is empty")
        reader.finish()

    def finish(self) -> dict[str, int]:
        index = json.dumps(self._members).encode()
        self._write(memoryview(index))
        return {"offset": self._offset, "size": len(index)}


def write(*, fds: Sequence[int], members: list[dict[str, Any]]) -> dict[str, Any]:
    """Worker: write a tar to the pipe `fds[0]`. Each member has "name" and one of:

    "text": its content; "blob": path of a file, with "size"; "layer": {"recipe", "tree", "size", "digest"}, an unpacked
    layer whose tar is rebuilt and verified; nothing: a directory. Times are zero, so that the same images give the same
    archive. SystemFailure if the store is damaged; the archive then ends early, without its end marker.
    """
    out = write_all(fds[0])
    try:
        for member in members:
            _write_member(member, out)
        out(memoryview(bytes(2 * fmt.BLOCK)))
    except BrokenPipeError:
        return {"complete": False}  # the client has gone
    except (OSError, StreamError, TarError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise SystemFailure(f"saving: {text}") from error
    return {"complete": True}


def _write_member(member: dict[str, Any], out: Callable[[memoryview], None]) -> None:
    name = member["name"].encode()
    if "text" in member:
        data = member["text"].encode("utf-8", "surrogateescape")
        out(memoryview(fmt.make_header(Entry(name, size=len(data))) + data + fmt.padding(len(data))))
    elif "blob" in member:
        out(memoryview(fmt.make_header(Entry(name, size=member["size"]))))
        _write_blob(member["blob"], member["size"], out)
        out(memoryview(fmt.padding(member["size"])))
    elif "layer" in member:
        layer = member["layer"]
        out(memoryview(fmt.make_header(Entry(name, size=layer["size"]))))
        _write_layer(layer, out)
        out(memoryview(fmt.padding(layer["size"])))
    else:
        out(memoryview(fmt.make_header(Entry(name, kind=fmt.DIRECTORY, mode=0o755))))


def _write_blob(path: str, size: int, out: Callable[[memoryview], None]) -> None:
    with open(path, "rb", buffering=0) as file:
        while size:
            data = file.read(min(CHUNK, size))
            if not data:
                raise StreamError(f"blob {os.path.basename(path)} is truncated")
            out(memoryview(data))
            size -= len(data)


def _write_layer(layer: dict[str, Any], out: Callable[[memoryview], None]) -> None:
    with _Behind(out) as behind:
        rebuild(layer["recipe"], layer["tree"], behind.write)
    if behind.size != layer["size"] or f"sha256:{behind.hash.hexdigest()}" != layer["digest"]:
        raise StreamError(f"layer {layer['digest']} has changed in the store")


class _Behind:
    """A thread that hashes and writes what it is given, in pieces of some size, while more is read. Use in `with`; its
    error is raised at the end, or by `write`."""

    def __init__(self, out: Callable[[memoryview], None]) -> None:
        self._out = out
        self._parts: list[bytes] = []
        self._waiting = 0
        self._queue: queue.Queue[bytes | None] = queue.Queue(4)
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)
        self._error: BaseException | None = None
        self.hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._queue.put(b"".join(self._parts))
        self._queue.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def write(self, view: memoryview) -> None:
        self._parts.append(bytes(view))
        self._waiting += len(view)
        if self._waiting >= _PIECE:
            if self._error is not None:
                raise self._error
            self._queue.put(b"".join(self._parts))
            self._parts, self._waiting = [], 0

    def _run(self) -> None:
        while (piece := self._queue.get()) is not None:
            if self._error is not None:
                continue
            try:
                self.hash.update(piece)
                self.size += len(piece)
                self._out(memoryview(piece))
            except BaseException as error:  # raised by the others
                self._error = error


def _link_target(entry: Entry) -> str:
    """Where a link leads, from the archive's root."""
    link = entry.link
    if entry.kind == fmt.SYMLINK and not link.startswith(b"/"):
        link = entry.name.rstrip(b"/").rpartition(b"/")[0] + b"/" + link
    return _key(link)


def _key(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
