"""Clients that have said all that they had to say, and later go away.

Owns: noticing the second after the first, on a unix socket. Does not own: what is done then.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class HangupWatch:
    """Notices that a peer which had closed its writing end has gone altogether (EPOLLHUP, AF_UNIX only)."""

    def __init__(self, fd: int, gone: Callable[[], None]) -> None:
        self._fd = fd
        self._gone = gone
        self._poll = select.epoll(1)
        self._poll.register(fd, 0)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._poll.fileno(), self._fired)

    def _fired(self) -> None:
        self.close()
        self._gone()

    def close(self) -> None:
        if not self._poll.closed:
            self._loop.remove_reader(self._poll.fileno())
            self._poll.close()
