"""The client's own terminal.

Owns: whether stdin and stdout are terminals, raw mode and putting it back, the size. Does not own: what travels through
it (`streams`).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any


def is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def size(fd: int = 1) -> tuple[int, int]:
    """(rows, columns); (0, 0) where there is no terminal."""
    for each in (fd, 0, 2):
        try:
            columns, rows = os.get_terminal_size(each)
        except OSError:
            continue
        return rows, columns
    return 0, 0


class Raw:
    """Raw mode while inside: what is typed goes on byte for byte. Nothing happens where stdin is no terminal."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted and is_terminal(0)
        self._saved: Any = None

    def __enter__(self) -> Raw:
        if self._wanted:
            import termios
            import tty

            sys.stdout.flush()
            self._saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Puts the terminal back; may be called more than once."""
        if self._saved is not None:
            import termios

            saved, self._saved = self._saved, None
            termios.tcsetattr(0, termios.TCSANOW, saved)
