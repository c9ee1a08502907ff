"""The volumes table: one row a volume.

Owns: `VolumeRow` and the SQL. Does not own: the directories (`engine.volumes`), who uses a volume (containers' rows
say so).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from dockyard.store.db import Database


class VolumeRow(Struct, omit_defaults=True):
    """One volume of the driver local. `labels` and `options` are None where none were given (clients can tell)."""

    name: str
    created_at: int  # ns since the epoch
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None  # type, o, device, size
    anonymous: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(VolumeRow).decode


class VolumeStore:
    """Rows of volumes. What a method wrote is on disk when it returns. SystemFailure if the disk refuses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[VolumeRow]:
        return await self._database.read(
            lambda connection: [_decode(text) for (text,) in connection.execute("SELECT document FROM volumes")]
        )

    async def insert(self, rows: Iterable[VolumeRow]) -> None:
        """Add or replace."""
        kept = list(rows)
        await self._database.write(lambda connection: insert(connection, kept))

    async def delete(self, names: Iterable[str]) -> None:
        """Take rows away; missing ones are fine."""
        gone = list(names)
        await self._database.write(lambda connection: delete(connection, gone))


def insert(connection: sqlite3.Connection, rows: Iterable[VolumeRow]) -> None:
    """As `VolumeStore.insert`, within somebody else's transaction."""
    statement = "INSERT OR REPLACE INTO volumes (name, document) VALUES (?, ?)"
    connection.executemany(statement, [(row.name, _encode(row).decode()) for row in rows])


def delete(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    """As `VolumeStore.delete`, within somebody else's transaction."""
    connection.executemany("DELETE FROM volumes WHERE name = ?", [(name,) for name in names])
