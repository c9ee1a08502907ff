"""Progress that the daemon reports while it pulls, pushes, loads and imports.

Owns: turning its JSON messages into lines; on a terminal every part (layer) keeps its line, which changes in place.
Does not own: where the messages come from.
"""

from __future__ import annotations

import os
import time

from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.terminal import is_terminal, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_BAR = 50  # characters
_PAUSE = 0.05  # seconds between two looks of a line that only counts


def show_messages(messages: Iterable[dict[str, Any]], fd: int = 1, quiet: bool = False) -> list[Any]:
    """Shows messages as they come; returns what they bring for programs (`aux`). CliError with the text of an error."""
    live = _Lines(fd) if is_terminal(fd) and not quiet else None
    aux = []
    for message in messages:
        if "error" in message:
            raise CliError(str((message.get("errorDetail") or {}).get("message") or message["error"]))
        if message.get("aux") is not None:
            aux.append(message["aux"])
        if live is not None:
            live.show(message)
        elif not quiet or "stream" in message:
            _plain(message, fd)
    return aux


def _plain(message: dict[str, Any], fd: int) -> None:
    """Without a terminal progress bars are left out: every line is said once."""
    if message.get("progressDetail") or message.get("progress"):
        return
    if text := _text(message):
        _write(fd, text)


def _text(message: dict[str, Any]) -> str:
    stream = message.get("stream")
    if stream is not None:
        return str(stream)
    if not message.get("status"):
        return ""
    return f"{message['id']}: {message['status']}\n" if message.get("id") else f"{message['status']}\n"


class _Lines:
    """The lines that change, always the last on the screen. What has scrolled off it is left as it is."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._places: dict[str, int] = {}  # part -> line, from the top
        self._last: dict[str, tuple[str, float]] = {}  # part -> status, when it was shown

    def show(self, message: dict[str, Any]) -> None:
        part, detail = message.get("id") or "", message.get("progressDetail") or {}
        if not part or "stream" in message:
            if text := _text(message):
                _write(self._fd, text)
                self._places.clear()  # later parts get lines of their own, below this one
                self._last.clear()
            return
        status = str(message.get("status") or "")
        if self._too_soon(part, status, detail):
            return
        rows, columns = size(self._fd)
        line = f"{part}: {status}"
        if detail:
            line += " " + bar(int(detail.get("current") or 0), int(detail.get("total") or 0), columns)
        self._put(part, line.rstrip()[: max(columns - 1, 20) if columns else None], rows or 24)

    def _too_soon(self, part: str, status: str, detail: dict[str, Any]) -> bool:
        """Whether a line that only counts was shown a moment ago."""
        now = time.monotonic()
        before, at = self._last.get(part, ("", 0.0))
        done = detail.get("current") == detail.get("total")
        if status == before and detail and not done and now - at < _PAUSE:
            return True
        self._last[part] = (status, now)
        return False

    def _put(self, part: str, line: str, rows: int) -> None:
        if part not in self._places:
            self._places[part] = len(self._places)
            _write(self._fd, f"{line}\x1b[K\n")
            return
        up = len(self._places) - self._places[part]
        if up < rows:
            _write(self._fd, f"\x1b[{up}A\r{line}\x1b[K\x1b[{up}B\r")


def bar(current: int, total: int, columns: int) -> str:
    """`[====>    ]  1.2MB/4.5MB`; without the bar on a narrow terminal, without the total if it is not known."""
    from dockyard.proto.units import human_size

    if total <= 0 or current > total:
        return f"{human_size(current):>8}" if current > 0 else ""
    counts = f"{human_size(current):>8}/{human_size(total)}"
    if columns <= _BAR + 60:
        return counts
    done = _BAR * current // total
    return f"[{'=' * done}>{' ' * (_BAR - done)}] {counts}"


def _write(fd: int, text: str) -> None:
    view = memoryview(text.encode("utf-8", "replace"))
    while view:
        view = view[os.write(fd, view) :]
