"""Going through a tree of directories that somebody else fills, and may be changing.

Owns: `walk`. Does not own: what is looked for.

Like os.fwalk, but for trees of any depth: neither recursion nor a descriptor a level, and no path that could be too
long. A container can nest directories deeper than any of those limits (mkdir and chdir in a loop).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Directory(NamedTuple):
    """One directory of a tree: `path` from the top on ("": the top), `names` in it that are no directories, and its
    descriptor, open until the next one is asked for."""

    path: bytes
    names: list[bytes]
    fd: int


def walk(top: str | bytes | os.PathLike[str], *, dir_fd: int | None = None) -> Iterator[Directory]:
    """Every directory of a tree, each before those in it; no symbolic link is followed. OSError for the top only: what
    vanishes meanwhile is left out, and so is the rest if the directory where we are is moved elsewhere."""
    fd = os.open(top, _DIRECTORY, dir_fd=dir_fd)
    parts: list[bytes] = []
    levels: list[tuple[tuple[int, int], list[bytes]]] = []  # from the top to here: which one, what is left in it
    try:
        while True:
            directories, names = _listed(fd)
            levels.append((_identity(fd), directories))
            yield Directory(b"/".join(parts), names, fd)
            while (inner := _next_in(fd, directories)) is None:
                levels.pop()
                if not levels:
                    return
                parts.pop()
                upper = os.open("..", _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = upper
                identity, directories = levels[-1]
                if _identity(fd) != identity:
                    return
            name, below = inner
            os.close(fd)
            fd = below
            parts.append(name)
    finally:
        os.close(fd)


def _listed(fd: int) -> tuple[list[bytes], list[bytes]]:
    """(directories, everything else) in a directory."""
    directories: list[bytes] = []
    names: list[bytes] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            (directories if entry.is_dir(follow_symlinks=False) else names).append(os.fsencode(entry.name))
    return directories, names


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _next_in(fd: int, directories: list[bytes]) -> tuple[bytes, int] | None:
    """The next of the directories that is still there, and its descriptor; it is taken off the list."""
    while directories:
        name = directories.pop()
        try:
            return name, os.open(name, _DIRECTORY, dir_fd=fd)
        except OSError:
            continue
    return None
