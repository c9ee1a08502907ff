"""Wait for a file to grow.

Owns: the daemon's one inotify instance (a user has 128 of them at most) and who waits on which file.
Does not own: reading (`reader`). Where inotify refuses (limits), waiting degrades to looking every 0.2 s.
"""

from __future__ import annotations

import asyncio
import os

from dockyard.linux.inotify import IN_ATTRIB, IN_DELETE_SELF, IN_IGNORED, IN_MODIFY, IN_MOVE_SELF, Inotify

_MASK = IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF
_POLL = 0.2  # seconds


class Watch:
    """One reader's interest in one file. `close` it."""

    def __init__(self, watcher: Watcher, number: int) -> None:
        self._watcher = watcher
        self.number = number  # -1: not watched, poll
        self.changed = asyncio.Event()

    async def wait(self) -> None:
        """Until the file has changed since the last `clear` of `changed` (or 0.2 s where it cannot be watched)."""
        if self.number >= 0:
            await self.changed.wait()
            return
        try:
            await asyncio.wait_for(self.changed.wait(), _POLL)
        except TimeoutError:
            pass

    def close(self) -> None:
        self._watcher._forget(self)


class Watcher:
    """Serves all followers of one event loop."""

    def __init__(self) -> None:
        self._inotify: Inotify | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watches: dict[int, set[Watch]] = {}

    def watch(self, path: str | os.PathLike[str]) -> Watch:
        """Begin to watch the file that `path` names now; it is followed under other names too."""
        try:
            if self._inotify is None:
                self._inotify = Inotify()
                self._loop = asyncio.get_running_loop()
                self._loop.add_reader(self._inotify.fileno(), self._deliver)
            number = self._inotify.add(path, _MASK)
        except OSError:
            return Watch(self, -1)
        watch = Watch(self, number)
        self._watches.setdefault(number, set()).add(watch)
        return watch

    @property
    def watched(self) -> int:
        """How many files are watched."""
        return len(self._watches)

    def close(self) -> None:
        if self._inotify is not None and self._loop is not None:
            self._loop.remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None
        for watches in self._watches.values():
            for watch in watches:
                watch.number = -1
                watch.changed.set()
        self._watches.clear()

    def _deliver(self) -> None:
        if self._inotify is None:
            return
        for change in self._inotify.read():
            if change.watch < 0:  # events were lost: everybody looks
                for watches in self._watches.values():
                    for watch in watches:
                        watch.changed.set()
                continue
            for watch in self._watches.get(change.watch, ()):
                watch.changed.set()
                if change.mask & IN_IGNORED:
                    watch.number = -1
            if change.mask & IN_IGNORED:
                self._watches.pop(change.watch, None)

    def _forget(self, watch: Watch) -> None:
        watches = self._watches.get(watch.number)
        if watches is None:
            return
        watches.discard(watch)
        if not watches and self._inotify is not None:
            del self._watches[watch.number]
            self._inotify.remove(watch.number)
