"""The framing of Docker's multiplexed streams: who wrote these bytes, stdout or stderr.

Owns: writing and reading frames of an 8-byte header (stream, three zero bytes, length as big-endian 32 bits) and data.
Does not own: where the bytes come from and go to. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

STDIN, STDOUT, STDERR = 0, 1, 2
HEADER = struct.Struct(">BxxxI")


def frame(stream: int, data: bytes) -> bytes:
    """One frame."""
    return HEADER.pack(stream, len(data)) + data


class FrameReader:
    """Takes a stream apart, however it was cut into pieces."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames (stream, data) that are complete with `data`."""
        pending = self._pending
        pending += data
        position = 0
        while len(pending) - position >= HEADER.size:
            stream, length = HEADER.unpack_from(pending, position)
            end = position + HEADER.size + length
            if end > len(pending):
                break
            yield stream, bytes(pending[position + HEADER.size : end])
            position = end
        del pending[:position]

    @property
    def incomplete(self) -> bool:
        """Whether the stream has stopped within a frame."""
        return bool(self._pending)
