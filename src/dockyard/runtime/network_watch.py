"""Notices when somebody changes firewalls.

Owns: listening for deleted tables and changed forward chains, looking now and then whether iptables-legacy (which tells
nobody) has come into use. Does not own: what is done about it (the function given).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dockyard.linux.nfnetlink import TableWatch

_LEGACY_TABLES = "/proc/thread-self/net/ip_tables_names"
_LOOK = 30.0  # seconds between looks at iptables-legacy


class FirewallWatch:
    """Calls `changed` (in the event loop) when our table was deleted or another's forward chain may drop now."""

    def __init__(self, loop: asyncio.AbstractEventLoop, table: str, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._table = table
        self._changed = changed
        self._tables = TableWatch()
        loop.add_reader(self._tables.fileno(), self._read)
        self._timer = loop.call_later(_LOOK, self._look)

    def close(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._tables.fileno())
        self._tables.close()

    def _read(self) -> None:
        changes = self._tables.read()
        # Our own chains are made anew with every refresh, and those of another dockyardd drop nothing by default.
        foreign = any(not table.startswith("dockyard") for table in changes.hooked)
        if foreign or changes.deleted & {self._table, "*"}:
            self._changed()

    def _look(self) -> None:
        self._timer = self._loop.call_later(_LOOK, self._look)
        try:
            with open(_LEGACY_TABLES) as file:
                in_use = "filter" in file.read().split()
        except OSError:
            return
        if in_use:
            self._changed()
