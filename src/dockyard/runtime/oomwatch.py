"""Being told when the kernel kills a process of a control group for lack of memory, while others in it live on.

Owns: `OomWatch`: one inotify instance for all groups (cgroup v2: `memory.events`), or an eventfd each (v1:
`memory.oom_control`, Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control"). Does not own: what is told of it
(`engine.oom`), the count that an exit record has (`cgroups`).

On v1 the kernel tells it too when a group goes, and where the killer is switched off, when processes begin to wait for
memory.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from dockyard.linux.inotify import IN_IGNORED, IN_MODIFY, Inotify
from dockyard.runtime.cgroups import open_cgroup
from dockyard.runtime.cgroups.v2 import oom_count


@dataclass(slots=True)
class _Group:
    file: str
    told: Callable[[], None]
    count: int = 0  # v2: of kills so far


class OomWatch:
    """The groups that are watched, by whatever key the caller has for them. For one event loop."""

    def __init__(self) -> None:
        self._eventfds: dict[str, int] = {}
        self._inotify: Inotify | None = None
        self._watches: dict[str, int] = {}
        self._groups: dict[int, _Group] = {}  # by the number of the watch

    def add(self, key: str, cgroup: str, told: Callable[[], None]) -> None:
        """Call `told` each time that it happens in the group (a cgroupsPath). OSError where that cannot be had."""
        self.remove(key)
        file = open_cgroup(cgroup).oom_file()
        if file.endswith(".events"):
            self._add_unified(key, file, told)
        elif file:
            self._add_eventfd(key, file, told)

    def remove(self, key: str) -> None:
        """No more calls. A key that is not there is fine."""
        eventfd = self._eventfds.pop(key, -1)
        if eventfd >= 0:
            asyncio.get_running_loop().remove_reader(eventfd)
            os.close(eventfd)
        watch = self._watches.pop(key, -1)
        if watch >= 0 and self._groups.pop(watch, None) is not None and self._inotify is not None:
            self._inotify.remove(watch)

    def close(self) -> None:
        """No more calls at all."""
        for key in [*self._eventfds, *self._watches]:
            self.remove(key)
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    # --- v1 ----------------------------------------------------------------------------------------------------------

    def _add_eventfd(self, key: str, file: str, told: Callable[[], None]) -> None:
        eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            control = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                register = os.open(f"{os.path.dirname(file)}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(register, f"{eventfd} {control}".encode())
                finally:
                    os.close(register)
            finally:
                os.close(control)  # the kernel has its own hold on it
        except BaseException:
            os.close(eventfd)
            raise
        self._eventfds[key] = eventfd
        asyncio.get_running_loop().add_reader(eventfd, self._on_eventfd, key, file, told)

    def _on_eventfd(self, key: str, file: str, told: Callable[[], None]) -> None:
        eventfd = self._eventfds.get(key, -1)
        try:
            os.eventfd_read(eventfd)
        except OSError:
            return
        if os.path.exists(file):
            told()
        else:
            self.remove(key)

    # --- v2 ----------------------------------------------------------------------------------------------------------

    def _add_unified(self, key: str, file: str, told: Callable[[], None]) -> None:
        if self._inotify is None:
            self._inotify = Inotify()
            asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._on_changes)
        watch = self._inotify.add(file, IN_MODIFY)
        self._watches[key] = watch
        self._groups[watch] = _Group(file, told, oom_count(os.path.dirname(file)))

    def _on_changes(self) -> None:
        changed: dict[int, int] = {}
        for change in self._inotify.read() if self._inotify is not None else ():
            changed[change.watch] = changed.get(change.watch, 0) | change.mask
        lost = -1 in changed  # events: everybody looks
        for watch, group in list(self._groups.items()) if lost else [(w, self._groups.get(w)) for w in changed]:
            if group is None:
                continue
            count = oom_count(os.path.dirname(group.file))
            if count > group.count:
                group.count = count
                group.told()
            if changed.get(watch, 0) & IN_IGNORED:
                self._groups.pop(watch, None)
