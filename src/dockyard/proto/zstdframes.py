"""Whether zstd data ends where a frame ends (RFC 8878, section 3.1).

Owns: walking over frames and blocks by their headers. Does not own: decompression: the library's bounded reader takes
input that ends within a frame for its end, and says nothing.
"""

from __future__ import annotations

from typing import Final

MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"  # after a byte 0x50 to 0x5f
_SIZES_OF_SIZE: Final = (0, 2, 4, 8)  # by the frame content size flag; 1, not 0, in a single segment
_SIZES_OF_DICTIONARY: Final = (0, 1, 2, 4)
_RLE: Final = 1
_CHECKSUM: Final = 4  # bytes


class Frames:
    """Looks at all of the data as it passes by. `whole`: it could end here."""

    def __init__(self) -> None:
        self._skip = 0  # bytes until the next header
        self._header = b""  # what there is of it
        self._in_frame = self._has_checksum = self._strange = False

    @property
    def whole(self) -> bool:
        """Also for what is no zstd data at all: the decompressor says that."""
        return self._strange or not (self._in_frame or self._skip or self._header)

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream."""
        at, end = 0, len(data)
        while at < end and not self._strange:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
                continue
            step = min(self._wanted() - len(self._header), end - at)
            self._header += data[at : at + step]
            at += step
            if len(self._header) == self._wanted():
                self._take()

    def _wanted(self) -> int:
        """Bytes of the header that is being read, as far as is known yet: of a block, or of a frame."""
        if self._in_frame:
            return 3
        return 8 if self._header[1:4] == _SKIPPABLE else 5

    def _take(self) -> None:
        header, self._header = self._header, b""
        if self._in_frame:
            self._block(int.from_bytes(header, "little"))
        elif header[:4] == MAGIC:
            self._frame(header[4])
        elif header[1:4] == _SKIPPABLE and header[0] & 0xF0 == 0x50:
            self._skip = int.from_bytes(header[4:], "little")
        else:
            self._strange = True

    def _frame(self, descriptor: int) -> None:
        single = descriptor >> 5 & 1
        size = _SIZES_OF_SIZE[descriptor >> 6] or single
        self._skip = (1 - single) + _SIZES_OF_DICTIONARY[descriptor & 3] + size
        self._in_frame, self._has_checksum = True, bool(descriptor & 4)

    def _block(self, header: int) -> None:
        self._skip = 1 if header >> 1 & 3 == _RLE else header >> 3
        if header & 1:
            self._in_frame = False
            self._skip += _CHECKSUM if self._has_checksum else 0
