"""HTTP's chunked transfer coding, taken apart.

Owns: `Dechunker`: bytes as they come off a connection become the body's bytes. Does not own: reading, the connection.
Pure.

Source: RFC 9112, section 7.1. Extensions and trailers are read over.
"""

from __future__ import annotations

from typing import Final

_LINE: Final = 4096  # bytes of a chunk's head or of a trailer
_TRAILERS: Final = 100


class ChunkError(ValueError):
    """The bytes are no chunked body."""


class Dechunker:
    """`feed` until `ended`. What follows the body is dropped: the connection is closed after it."""

    def __init__(self) -> None:
        self.ended = False
        self._left = 0  # bytes of the current chunk that have not come
        self._line = b""  # the beginning of a line that was cut
        self._expected = "head"  # or "end" (of a chunk), "trailer"
        self._trailers = 0

    def feed(self, data: bytes) -> list[memoryview]:
        """The body's bytes in `data`. ChunkError."""
        view, at = memoryview(data), 0
        found: list[memoryview] = []
        while at < len(data) and not self.ended:
            if self._left:
                part = min(self._left, len(data) - at)
                found.append(view[at : at + part])
                at += part
                self._left -= part
                continue
            end = data.find(b"\n", at)
            line = self._line + data[at : end if end >= 0 else len(data)]
            if len(line) > _LINE:
                raise ChunkError("a line of a chunked body is too long")
            if end < 0:
                self._line = line
                break
            self._line = b""
            at = end + 1
            self._take(line.removesuffix(b"\r"))
        return found

    def _take(self, line: bytes) -> None:
        if self._expected == "head":
            digits = line.partition(b";")[0].strip(b" \t")
            if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
                raise ChunkError("malformed head of a chunk")
            self._left = int(digits, 16)
            self._expected = "end" if self._left else "trailer"
        elif self._expected == "end":
            if line:
                raise ChunkError("a chunk is longer than its head says")
            self._expected = "head"
        elif not line:
            self.ended = True
        else:
            self._trailers += 1
            if self._trailers > _TRAILERS:
                raise ChunkError("too many trailers")
