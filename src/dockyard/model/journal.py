"""What a container's log is asked to be, as a value of plain JSON types.

Owns: `LogSpec`. Standard library only: the monitor reads it too.
"""

from __future__ import annotations

from typing import TypedDict


class LogSpec(TypedDict):
    """Where a container's output is kept. `driver`: "json-file" or "none"."""

    driver: str
    path: str
    max_size: int  # bytes; 0: no rotation
    max_file: int
    attrs: dict[str, str]
