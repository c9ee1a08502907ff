"""Which snapshot driver a data root has.

Owns: the choice at the first start, and holding later ones to it. Does not own: the probe of a driver (`drivers`).
"""

from __future__ import annotations

import sqlite3

from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.store.db import Database
from dockyard.store.layout import Layout
from dockyard.store.snapshots.drivers import DRIVERS, choose, why_not


async def choose_driver(layout: Layout, database: Database, wanted: str) -> tuple[str, str]:
    """(name, warning). `wanted`: "" for what the first start found. InvalidArgument for one that cannot be had."""

    def recorded(connection: sqlite3.Connection) -> str | None:
        row = connection.execute("SELECT value FROM meta WHERE key = 'snapshot-driver'").fetchone()
        return str(row[0]) if row else None

    name, warning = await database.read(recorded), ""
    if wanted and wanted not in DRIVERS:
        raise InvalidArgument(f"unknown storage driver {wanted!r}: choose of {', '.join(DRIVERS)}")
    if name is None:
        chosen, warning = _first(layout, wanted)
        insert = "INSERT INTO meta VALUES ('snapshot-driver', ?)"
        await database.write(lambda connection: connection.execute(insert, (chosen,)) and None)
        name = chosen
    elif wanted and name != wanted:
        raise InvalidArgument(f"storage driver {wanted} was asked for, but {layout.data_root} is made with {name}")
    if name not in DRIVERS:
        raise SystemFailure(f"{layout.data_root} is made with {name}, a driver that this program has not")
    return name, warning


def _first(layout: Layout, wanted: str) -> tuple[str, str]:
    """Of a fresh data root: the one asked for if it works, else what a probe finds."""
    if not wanted:
        name, reason = choose(layout.snapshots)
        text = f"overlay does not work on {layout.data_root} ({reason}): using {name}, slowly"
        return name, text if reason else ""
    if reason := why_not(wanted, layout.snapshots):
        raise InvalidArgument(f"storage driver {wanted} does not work on {layout.data_root}: {reason}")
    return wanted, ""
