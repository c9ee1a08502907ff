"""Directories nested deeper than paths, descriptors and Python's stack reach: what a container can make.

Owns: making and removing one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dockyard.store.trees import remove_tree

LEVELS = 1500


@contextmanager
def deep_tree(place: Path) -> Iterator[Path]:
    """`place` with LEVELS directories in each other and a file of five bytes at the end; afterwards it is gone, which
    pytest could not see to."""
    at = os.open(place.parent, os.O_RDONLY)
    for level in range(LEVELS):
        name = "directory" if level else place.name
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    Path(f"/proc/self/fd/{at}/file").write_bytes(b"12345")
    os.close(at)
    try:
        yield place
    finally:
        top = os.open(place.parent, os.O_RDONLY)
        remove_tree(top, place.name)
        os.close(top)
