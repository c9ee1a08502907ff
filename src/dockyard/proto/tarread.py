"""Reading a tar stream: which entry comes next, and where its payload is.

Owns: `ByteStream` (exact reads from an iterator of chunks), the order of blocks (extended headers before the entry they
belong to, payload, padding, end marker), and telling every byte that is not payload to `record`, so that the stream can
be put together again (`store.recipe`). Does not own: single headers (`proto.tarformat`), where the bytes come from,
what happens with an entry. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dockyard.proto import tarformat as fmt
from dockyard.proto import tarsparse
from dockyard.proto.tarformat import BLOCK, ZERO_BLOCK, Entry, TarError


class StreamError(ValueError):
    """The bytes end early, are damaged, or are too many. The text says which."""


class ByteStream:
    """Exact reads from an iterator of chunks. A chunk is never changed after it was handed over."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""
        self._position = 0

    def _next(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._buffer = chunk
                self._position = 0
                return True
        return False

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes. StreamError if the stream ends within them."""
        start = self._position
        end = start + size
        if end <= len(self._buffer):
            self._position = end
            return self._buffer[start:end]
        return self._take_across(size)

    def _take_across(self, size: int) -> bytes:
        parts: list[bytes] = []
        self.copy(size, lambda view: parts.append(bytes(view)))
        return b"".join(parts)

    def take_or_end(self, size: int) -> bytes:
        """As `take`, but b"" if the stream ends before the first of the bytes."""
        if self._position == len(self._buffer) and not self._next():
            return b""
        return self.take(size)

    def some(self, size: int) -> bytes:
        """Up to `size` of the next bytes, as they come without copying several pieces together; b"" at the end."""
        if self._position == len(self._buffer) and not self._next():
            return b""
        start = self._position
        self._position = min(start + size, len(self._buffer))
        return self._buffer[start : self._position]

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, which stay where they are; fewer at the end."""
        while len(self._buffer) - self._position < size:
            rest = self._buffer[self._position :]
            if not self._next():
                self._buffer, self._position = rest, 0
                break
            self._buffer = rest + self._buffer
        return self._buffer[self._position : self._position + size]

    def copy(self, size: int, write: Callable[[memoryview], object]) -> None:
        """Hand `size` bytes to `write`, piece by piece. StreamError if the stream ends within them."""
        while size:
            available = len(self._buffer) - self._position
            if not available:
                if not self._next():
                    raise StreamError("unexpected end: the archive is truncated")
                continue
            part = min(size, available)
            write(memoryview(self._buffer)[self._position : self._position + part])
            self._position += part
            size -= part

    def rest(self) -> Iterator[bytes]:
        """What is left, in pieces."""
        if self._position < len(self._buffer):
            yield self._buffer[self._position :]
            self._position = len(self._buffer)
        while self._next():
            self._position = len(self._buffer)
            yield self._buffer


class TarReader:
    """`next()` until None, with `payload()` for the entries whose payload is wanted; then `finish()`.

    `record` gets all bytes but the payloads fetched with `payload()`, in order. A skipped payload goes to `record` too.
    Raises TarError and StreamError. `bare`: the stream is such a record, where the payload of tree files is missing.
    `sparse`: files with holes are wanted (`Entry.sparse`; the payload is then their pieces), otherwise refused.
    """

    def __init__(
        self,
        stream: ByteStream,
        record: Callable[[bytes], object] = lambda data: None,
        *,
        bare: bool = False,
        sparse: bool = False,
    ) -> None:
        self._stream = stream
        self._record = record
        self._bare = bare
        self._sparse = sparse
        self._payload = 0  # bytes of the current entry that were not consumed
        self._padding = 0
        self._extended = 0  # bytes of the extended headers in front of the current entry
        self.ended = False  # the end marker was seen
        self.count = 0  # entries so far

    def next(self) -> Entry | None:
        """The next member, or None at the end of the archive."""
        self._leave()
        pax: dict[bytes, bytes] = {}
        name = link = b""
        self._extended = 0
        while True:
            block = self._stream.take_or_end(BLOCK)
            if not block:
                if pax or name or link:
                    raise TarError("the archive ends after an extended header")
                return None
            self._record(block)
            if block == ZERO_BLOCK:
                self._end(bool(pax or name or link))
                return None
            entry = fmt.parse_header(block)
            if entry.kind == fmt.PAX or entry.kind == b"X":
                pax.update(fmt.parse_pax(self._extension(entry)))
            elif entry.kind == fmt.PAX_GLOBAL:
                fmt.parse_pax(self._extension(entry))  # of the archive as a whole: git's commit, … has no effect here
            elif entry.kind == fmt.GNU_NAME:
                name = self._extension(entry).partition(b"\0")[0]
            elif entry.kind == fmt.GNU_LINK:
                link = self._extension(entry).partition(b"\0")[0]
            else:
                break
        if name:
            entry.name = name
        if link:
            entry.link = link
        if pax:
            fmt.apply_pax(entry, pax)
        self._padding = -entry.size % BLOCK
        if entry.kind == fmt.GNU_SPARSE or b"GNU.sparse.map" in pax or b"GNU.sparse.major" in pax:
            self._holes(entry, block, pax)
        fmt.check(entry)
        self.count += 1
        self._payload = 0 if self._bare and entry.is_tree_file else entry.size
        return entry

    def _holes(self, entry: Entry, header: bytes, pax: dict[bytes, bytes]) -> None:
        """A file with holes: read its map, which may lie in blocks of its own; `entry.size` is then the pieces'."""
        try:
            if not self._sparse:
                raise TarError("sparse files are not supported")
            pieces: list[tuple[int, int]] | None
            if entry.kind == fmt.GNU_SPARSE:
                entry.kind = fmt.FILE
                pieces, size, more = tarsparse.old_header(header)
                while more:
                    found, more = tarsparse.old_extension(self._block())
                    pieces += found
                    tarsparse.check_count(pieces)
            else:
                pieces, size = tarsparse.pax(pax)
                if pieces is None:
                    pieces = self._map_before(entry)
            entry.sparse = tarsparse.check(pieces, size, entry.size)
        except TarError as error:
            raise TarError(f"entry {show(entry.name)}: {error}") from None

    def _map_before(self, entry: Entry) -> list[tuple[int, int]]:
        """The map at the beginning of a payload, which is the less for it."""
        reader = tarsparse.MapReader()
        while not reader.done:
            if entry.size < BLOCK:
                raise TarError("malformed map of a sparse file")
            reader.feed(self._block())
            entry.size -= BLOCK
        return reader.pieces

    def _block(self) -> bytes:
        block = self._stream.take(BLOCK)
        self._record(block)
        return block

    def payload(self, write: Callable[[memoryview], object]) -> None:
        """Hand the current entry's payload to `write`."""
        size, self._payload = self._payload, 0
        self._stream.copy(size, write)

    def some(self, limit: int) -> bytes:
        """Up to `limit` of the next bytes of the current entry's payload, b"" after its end. StreamError if cut off."""
        limit = min(limit, self._payload)
        data = self._stream.some(limit) if limit else b""
        if limit and not data:
            raise StreamError("unexpected end: the archive is truncated")
        self._payload -= len(data)
        return data

    def peek(self, size: int) -> bytes:
        """The first `size` bytes of the current entry's payload, which has that many. They stay."""
        return self._stream.peek(size)

    def skip_padding(self) -> None:
        """Consume (and record) the padding after a payload now instead of at `next()`.

        An archive may end where padding should begin: the docker CLI closes a context so when it adds a Dockerfile.
        """
        if self._padding:
            self._record(self._stream.take_or_end(self._padding))
            self._padding = 0

    def finish(self) -> None:
        """Consume what follows the end marker: some writers fill up a tape block. It is part of the stream's digest."""
        for chunk in self._stream.rest():
            self._record(chunk)

    def _leave(self) -> None:
        if self._payload:
            size, self._payload = self._payload, 0
            self._stream.copy(size, lambda view: self._record(bytes(view)))
        self.skip_padding()

    def _end(self, dangling: bool) -> None:
        if dangling:
            raise TarError("the archive ends after an extended header")
        block = self._stream.take_or_end(BLOCK)
        if block:
            self._record(block)
            if block != ZERO_BLOCK:
                raise TarError("a lone zero block in the middle")
        self.ended = True

    def _extension(self, entry: Entry) -> bytes:
        self._extended += entry.size
        if self._extended > fmt.MAX_EXTENSION:
            raise TarError(f"an entry with extended headers of {self._extended} bytes")
        data = self._stream.take(entry.size)
        self._record(data)
        self._padding = -entry.size % BLOCK
        self.skip_padding()
        return data


def show(name: bytes) -> str:
    """A name for an error message: quoted, one line, whatever bytes it has."""
    text = name[:200].decode("utf-8", "backslashreplace")
    return "'" + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + ("…'" if len(name) > 200 else "'")
