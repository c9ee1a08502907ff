"""`dockyard build --watch`: what has changed since the last build.

Owns: the picture of a context's files (by `.dockerignore`'s rules) and waiting for another. The client looks again and
again: a look at 20,000 files takes 60 ms, and the pauses between looks are at least ten times as long as a look.
inotify would need a watch for every directory, misses network file systems and knows no ignore rules.
"""

from __future__ import annotations

import os
import time

from dockyard.edge.cli.building.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Look = dict[str, tuple[int, int, int, int]]

_PAUSE = 0.25  # seconds, at least
_QUIET = 0.1  # seconds without a change before a build begins: editors write in several steps


def look(source: Source) -> Look:
    """Path → what tells one state of a file from another (inode, mode, size, time of change)."""
    found: Look = {}
    if source.root:
        _walk(source, source.root, "", found)
    for path in (source.outside, f"{source.outside}.dockerignore" if source.outside else ""):
        if path:
            _note(path, path, found)
    return found


def _walk(source: Source, path: str, prefix: str, found: Look) -> None:
    try:
        with os.scandir(path) as entries:
            listed = list(entries)
    except OSError:
        return
    rules = source.rules
    kept = {source.dockerfile, f"{source.dockerfile}.dockerignore", ".dockerignore"}
    for entry in listed:
        name = f"{prefix}{entry.name}"
        out = rules is not None and name not in kept and rules.excluded(name)
        if entry.is_dir(follow_symlinks=False):
            if not (out and rules is not None and rules.prunable(name)):
                _walk(source, entry.path, name + "/", found)
        elif not out:
            _note(entry.path, name, found)


def _note(path: str, name: str, found: Look) -> None:
    try:
        status = os.lstat(path)
    except OSError:
        return
    found[name] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)


def changed(before: Look, after: Look) -> list[str]:
    """Names of what is new, gone or different."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def wait(sources: Sequence[Source], before: Sequence[Look], sleep: Callable[[float], None] = time.sleep) -> list[str]:
    """Returns when something has changed and nothing changes any more: the names."""
    known = list(before)
    while True:
        begun = time.monotonic()
        now = [look(source) for source in sources]
        names = [name for old, new in zip(known, now, strict=True) for name in changed(old, new)]
        if names:
            return _settled(sources, now, names, sleep)
        sleep(max(_PAUSE, 10 * (time.monotonic() - begun)))


def _settled(sources: Sequence[Source], now: list[Look], names: list[str], sleep: Callable[[float], None]) -> list[str]:
    while True:
        sleep(_QUIET)
        later = [look(source) for source in sources]
        if later == now:
            return sorted(set(names))
        names += [name for old, new in zip(now, later, strict=True) for name in changed(old, new)]
        now = later
