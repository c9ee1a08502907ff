"""What a container's log is asked to be, as a value of plain JSON types.

Owns: `LogSpec`. Standard library only: the monitor reads it too.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class LogSpec(TypedDict):
    """Where a container's output is kept. `driver`: "json-file" (the form of the file, whatever the driver's name) or
    "none"."""

    driver: str
    path: str
    max_size: int  # bytes; 0: no rotation
    max_file: int
    attrs: dict[str, str]
    compress: NotRequired[bool]  # rotated files
    buffer: NotRequired[int]  # bytes; > 0: the container never waits for the log, what does not fit is dropped
