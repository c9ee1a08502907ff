"""Where in the files of a log to begin: the last N records, or those since a moment.

Owns: both searches, whose time does not grow with the log (for N: only with N). Does not own: the files (`files`), what
is then made of the records. Both may begin a little early for `since`: the reader looks at each record's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dockyard.store.journal.files import LogFile
from dockyard.store.journal.records import sortable

_BLOCK: Final = 64 * 1024
_LONGEST: Final = 1 << 20  # bytes within which a record's end is looked for


def tail(files: Sequence[LogFile], wanted: int) -> tuple[int, int]:
    """(index of the file, offset in it) where the last `wanted` records begin. `files`: oldest first."""
    if not files:
        return 0, 0
    for index in range(len(files) - 1, -1, -1):
        at, found = _find_tail(files[index], wanted)
        if found >= wanted:
            return index, at
        wanted -= found
    return 0, 0


def _find_tail(file: LogFile, wanted: int) -> tuple[int, int]:
    """Where the last `wanted` records of a file begin, and how many there are from there."""
    end = _end_of_records(file)
    if wanted <= 0 or end == 0:
        return end, 0
    found, position = 0, end - 1  # the newline at the very end belongs to the last record
    while position > 0:
        start = max(0, position - _BLOCK)
        block = file.read(position - start, start)
        count = block.count(b"\n")
        if found + count < wanted:
            found += count
            position = start
            continue
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            found += 1
            if found == wanted:
                return start + at + 1, found
    return 0, found + 1


def _end_of_records(file: LogFile) -> int:
    """Behind the last newline: what follows is a record that is being written."""
    size = file.size()
    while size > 0:
        start = max(0, size - _BLOCK)
        at = file.read(size - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        size = start
    return 0


def since(files: Sequence[LogFile], moment: str) -> tuple[int, int]:
    """(index of the file, offset in it) from where on records may be as young as `moment` (`records.sortable`).

    Times ascend in a log, apart from a clock that was set back and from pieces of long lines, which all have the time
    of their line's beginning."""
    for index in range(len(files) - 1, -1, -1):
        first = _record_at(files[index], 0)
        if first is not None and first[1] < moment:
            return index, _bisect(files[index], moment)
    return 0, 0


def _bisect(file: LogFile, moment: str) -> int:
    low, high = 0, file.size()
    while high - low > _BLOCK:
        middle = (low + high) // 2
        found = _record_at(file, middle)
        if found is None or found[0] >= high or found[1] >= moment:
            high = middle
        else:
            low = found[0]
    return low


def _record_at(file: LogFile, at: int) -> tuple[int, str] | None:
    """Where the first whole record at or behind `at` begins, and its time; None if none is found nearby."""
    data = b""
    start = 0 if at == 0 else -1
    search = 0
    while len(data) < 2 * _LONGEST:
        block = file.read(_BLOCK, at + len(data))
        if not block:
            return None
        data += block
        if start < 0:
            start = data.find(b"\n") + 1 or -1
            search = start
            if start < 0:
                continue
        while (end := data.find(b"\n", search)) >= 0:
            time = data.rfind(b'"time":"', start, end)
            if time >= 0:
                return at + start, sortable(data[time + 8 : data.find(b'"', time + 8, end)].decode("ascii", "replace"))
            start = search = end + 1  # damaged: the next one
    return None
