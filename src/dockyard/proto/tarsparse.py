"""Files with holes in a tar: where the pieces go that the payload consists of.

Owns: the maps of GNU's old sparse format and of PAX's 0.0, 0.1 and 1.0, read and checked. Does not own: where their
bytes are in the stream (`proto.tarread`), writing the file. Pure.

Source: GNU tar manual, "Storing Sparse Files". Docker takes the PAX forms and refuses the old one; here all are taken.
"""

from __future__ import annotations

from typing import Final

from dockyard.proto.tarformat import Sparse, TarError

PREFIX: Final = b"GNU.sparse."
_MAX_PIECES: Final = 100_000
_PIECE: Final = 24  # bytes of an entry of the old format: offset and length, twelve digits each


def old_header(block: bytes) -> tuple[list[tuple[int, int]], int, bool]:
    """(pieces, size of the file, whether more pieces follow in a block of their own) of a header of type S."""
    return _old_pieces(block[386:482]), _number(block[483:495]), block[482] != 0


def old_extension(block: bytes) -> tuple[list[tuple[int, int]], bool]:
    """(pieces, whether another such block follows)."""
    return _old_pieces(block[:504]), block[504] != 0


def pax(records: dict[bytes, bytes]) -> tuple[list[tuple[int, int]] | None, int]:
    """(pieces, size of the file) out of an extended header; None for the pieces: they are in front of the payload."""
    found = {key[len(PREFIX) :]: value for key, value in records.items() if key.startswith(PREFIX)}
    major = found.get(b"major", b"0")
    if major == b"1" and found.get(b"minor") == b"0":
        return None, _decimal(found.get(b"realsize", b""))
    if major != b"0" or b"map" not in found:
        raise TarError("a sparse file in an unknown format")
    numbers = [_decimal(text) for text in found[b"map"].split(b",")] if found[b"map"] else []
    if len(numbers) % 2:
        raise TarError("malformed map of a sparse file")
    return list(zip(numbers[::2], numbers[1::2], strict=True)), _decimal(found.get(b"size", b""))


class MapReader:
    """The map in front of a payload (1.0): decimal numbers, one a line. `feed` blocks until `done`."""

    def __init__(self) -> None:
        self._text = b""
        self._numbers: list[int] = []
        self._wanted = 1
        self.done = False

    def feed(self, block: bytes) -> None:
        """The next block. TarError for what is no map."""
        *lines, self._text = (self._text + block).split(b"\n")
        for line in lines:
            if self.done:
                break  # the padding
            self._numbers.append(_decimal(line))
            if len(self._numbers) == 1:
                if self._numbers[0] > _MAX_PIECES:
                    raise TarError(f"a sparse file of more than {_MAX_PIECES} pieces")
                self._wanted = 1 + 2 * self._numbers[0]
            self.done = len(self._numbers) == self._wanted
        if not self.done and len(self._text) > 20:
            raise TarError("malformed map of a sparse file")

    @property
    def pieces(self) -> list[tuple[int, int]]:
        return list(zip(self._numbers[1::2], self._numbers[2::2], strict=True))


def check_count(pieces: list[tuple[int, int]]) -> None:
    if len(pieces) > _MAX_PIECES:
        raise TarError(f"a sparse file of more than {_MAX_PIECES} pieces")


def check(pieces: list[tuple[int, int]], size: int, payload: int) -> Sparse:
    """The map, if it fits its file of `size` bytes and the `payload` bytes that are there. TarError."""
    check_count(pieces)
    at = 0
    for offset, length in pieces:
        if offset < at or offset + length > size:
            raise TarError("the pieces of a sparse file overlap, or lie beyond its end")
        at = offset + length
    if sum(length for _, length in pieces) != payload:
        raise TarError("the pieces of a sparse file are not what its payload holds")
    return Sparse(size, pieces)


def _old_pieces(data: bytes) -> list[tuple[int, int]]:
    pieces = []
    for at in range(0, len(data), _PIECE):
        if not data[at]:
            break
        pieces.append((_number(data[at : at + 12]), _number(data[at + 12 : at + _PIECE])))
    return pieces


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base-256."""
    if field[0] & 0x80:
        return _bounded(int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big"))
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise TarError("malformed map of a sparse file")
    return _bounded(int(digits or b"0", 8))


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise TarError("malformed map of a sparse file")
    return _bounded(int(text))


def _bounded(value: int) -> int:
    if value >= 1 << 63:
        raise TarError("a sparse file out of range")
    return value
