"""The keys that detach a terminal from a container without ending it.

Owns: reading their notation (`ctrl-p,ctrl-q`), finding them in what is typed. Does not own: what detaching does. Pure.
"""

from __future__ import annotations

from dockyard.model.errors import InvalidArgument

DEFAULT_KEYS = b"\x10\x11"  # ctrl-p,ctrl-q
_CONTROL = "@abcdefghijklmnopqrstuvwxyz[\\]^_"


def parse_keys(text: str) -> bytes:
    """`a,ctrl-p,DEL` -> the bytes typed; "" -> the default. InvalidArgument in Docker's words for anything else."""
    if not text:
        return DEFAULT_KEYS
    codes = [_code(key) for key in text.split(",")]
    if None in codes:
        raise InvalidArgument(f"Invalid detach keys ({text}) provided")
    return bytes(code for code in codes if code is not None)


def _code(key: str) -> int | None:
    if len(key) == 1 and key.isascii():
        return ord(key)
    if key == "DEL":
        return 127
    if key.startswith("ctrl-") and len(key) == 6 and key[5] in _CONTROL:
        return _CONTROL.index(key[5])
    return None


class DetachMatcher:
    """Finds the keys in a stream of bytes, however it is cut into pieces; keys begun but not finished are held back."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What may go on to the program, and whether the keys were typed (what follows them is dropped)."""
        if not self._matched and self._keys[0] not in data:
            return data, False
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self._matched = 0
                    return bytes(out), True
                continue
            held = self._keys[: self._matched] + bytes([byte])
            self._matched = self._longest_start(held)
            out += held[: len(held) - self._matched]
        return bytes(out), False

    def _longest_start(self, held: bytes) -> int:
        """How much of the end of `held` is a beginning of the keys."""
        return next(n for n in range(min(len(held), len(self._keys) - 1), -1, -1) if held.endswith(self._keys[:n]))

    def flush(self) -> bytes:
        """The keys held back, at the end of the stream."""
        held, self._matched = self._keys[: self._matched], 0
        return held
