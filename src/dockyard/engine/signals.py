"""Signals by name and number, as clients write them.

Owns: reading them, with Docker's text for what is none. Does not own: sending.
"""

from __future__ import annotations

import re
import signal
from typing import Final

from dockyard.model.errors import InvalidArgument

_RTMIN: Final = 34  # as the C library of programs sees it; the kernel's first two are its own
_RTMAX: Final = 64
_REALTIME: Final = re.compile(r"RT(MIN(?:\+([0-9]{1,2}))?|MAX(?:-([0-9]{1,2}))?)\Z")
_NAMES: Final = {
    **{member.name.removeprefix("SIG"): int(member) for member in signal.Signals if member < _RTMIN},
    "IOT": 6,
    "CLD": 17,
    "POLL": 29,
    "UNUSED": 31,
    "STKFLT": 16,
}


def parse_signal(text: str) -> int:
    """`SIGTERM`, `term`, `15`, `RTMIN+3` → its number. InvalidArgument "invalid signal: X"."""
    if text.isascii() and text.isdigit():
        number = int(text)
        if 0 < number <= _RTMAX and (number <= 31 or number >= _RTMIN):
            return number
        raise InvalidArgument(f"invalid signal: {text}")
    name = text.upper().removeprefix("SIG")
    if name in _NAMES:
        return _NAMES[name]
    match = _REALTIME.match(name)
    if match:
        number = _RTMIN + int(match[2] or 0) if match[1].startswith("MIN") else _RTMAX - int(match[3] or 0)
        if _RTMIN <= number <= _RTMAX:
            return number
    raise InvalidArgument(f"invalid signal: {text}")
