"""Image archives as files of members: taken in from a client, written out to one.

Owns: the worker functions `receive` (an uploaded tar, compressed or not, becomes a spool file of its members) and
`write` (blobs and rebuilt layers become a tar), and `Spool`, what `receive` left. Does not own: what the members mean
(`engine.images`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.store import tarformat as fmt
from dockyard.store.bytestream import CHUNK, ByteStream, Source, StreamError, write_all
from dockyard.store.layertree import clean
from dockyard.store.recipe import rebuild
from dockyard.store.tarformat import Entry, TarError
from dockyard.store.tarread import TarReader
from dockyard.store.unpack import RESERVE

_MAX_MEMBERS = 200_000
_MAX_LINKS = 16  # symbolic links from member to member


class Spool:
    """The members of a received archive. Names are looked up in the archive only: its links lead nowhere else."""

    def __init__(self, fd: int, index: dict[str, Any]) -> None:
        self.fd = fd
        data = os.pread(fd, index["size"], index["offset"])
        self._members: dict[str, Any] = json.loads(data)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def region(self, name: str, what: str) -> tuple[int, int]:
        """(offset, size) of a member. InvalidArgument naming `what` if it is not there."""
        found = self._find(name)
        if found is None:
            raise InvalidArgument(f"{what}: {name[:200]!r} is not in the archive")
        return found

    def read(self, name: str, what: str, limit: int) -> bytes:
        """A small member. InvalidArgument if it is missing or larger than `limit` bytes."""
        offset, size = self.region(name, what)
        if size > limit:
            raise InvalidArgument(f"{what}: larger than {limit} bytes")
        return os.pread(self.fd, size, offset)

    def _find(self, name: str) -> tuple[int, int] | None:
        for _ in range(_MAX_LINKS):
            try:
                member = self._members.get(_key(clean(name.encode("utf-8", "surrogateescape"))))
            except TarError:
                return None
            if not isinstance(member, str):
                return (member[0], member[1]) if member is not None else None
            name = member
        return None


def receive(*, fds: Sequence[int], what: str) -> dict[str, Any]:
    """Worker: read a tar from the pipe `fds[0]`, put its members one after another into the empty file `fds[1]`.

    At the end of the file comes the index {name: [offset, size] or the name a link leads to}; returns its place,
    {"offset", "size"}. InvalidArgument or SystemFailure naming `what` and the cause.
    """
    pipe, spool = fds
    state = os.fstatvfs(spool)
    limit = max(state.f_bavail * state.f_frsize - RESERVE, 0)
    members: dict[str, Any] = {}
    write = write_all(spool)
    offset = 0
    try:
        with Source(pipe, limit=limit, hash_out=False) as source:
            reader = TarReader(ByteStream(iter(source)))
            while (entry := reader.next()) is not None:
                if len(members) >= _MAX_MEMBERS:
                    raise TarError(f"more than {_MAX_MEMBERS} members")
                if entry.kind == fmt.FILE:
                    reader.payload(write)
                    members[_key(clean(entry.name))] = (offset, entry.size)
                    offset += entry.size
                elif entry.kind in (fmt.SYMLINK, fmt.HARDLINK):
                    members[_key(clean(entry.name))] = _link_target(entry)
            if not reader.count:
                raise TarError("it is empty")
            reader.finish()
        index = json.dumps(members).encode()
        write(memoryview(index))
    except (TarError, StreamError) as error:
        raise InvalidArgument(f"{what}: {error}") from error
    except OSError as error:
        raise SystemFailure(f"{what}: {error.strerror}") from error
    return {"offset": offset, "size": len(index)}


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
    hasher = hashlib.sha256()
    left = layer["size"]

    def tee(view: memoryview) -> None:
        nonlocal left
        left -= len(view)
        if left < 0:
            raise StreamError(f"layer {layer['digest']} has changed in the store")
        hasher.update(view)
        out(view)

    rebuild(layer["recipe"], layer["tree"], tee)
    if left or f"sha256:{hasher.hexdigest()}" != layer["digest"]:
        raise StreamError(f"layer {layer['digest']} has changed in the store")


def _link_target(entry: Entry) -> str:
    """Where a link leads, from the archive's root."""
    link = entry.link
    if entry.kind == fmt.SYMLINK and not link.startswith(b"/"):
        link = entry.name.rstrip(b"/").rpartition(b"/")[0] + b"/" + link
    return _key(link)


def _key(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
