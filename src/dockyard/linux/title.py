"""What ps(1) shows as a process's command line.

Owns: writing over this process's own arguments. Does not own: its name (`prctl(PR_SET_NAME)`). Standard library only.
Where they lie is read at import, as a forked child has them in the same place: its own /proc may be a container's.
Source: proc_pid_cmdline(5): where the last byte of the arguments is no NUL, the text at their beginning is shown, up to
its end.
"""

from __future__ import annotations

import ctypes
from typing import Final


def _arguments() -> tuple[int, int]:
    """Their address and size; (0, 0) where /proc does not tell."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[45]), int(fields[46]) - int(fields[45])  # fields 48 and 49
    except (OSError, IndexError):
        return 0, 0


_START, _ROOM = _arguments()
_SHORTEST: Final = 2


def set_title(text: bytes) -> None:
    """Show `text` as this process's command line, shortened to the room that its arguments have."""
    if _START and _ROOM > _SHORTEST:
        shown = text.replace(b"\0", b" ")[: _ROOM - _SHORTEST]
        ctypes.memmove(_START, shown.ljust(_ROOM - 1, b"\0") + b"\x01", _ROOM)
