"""The leases table: one row a lease.

Owns: `LeaseRow` and the SQL. Does not own: what belongs to a lease (the rows of containers, networks and volumes say so
by a label), when it ends (`engine.leases`).
"""

from __future__ import annotations

import sqlite3

import msgspec
from msgspec import Struct

from dockyard.store.db import Database


class LeaseRow(Struct):
    """One lease. `ttl` in ns; `ending`: what belongs to it is being taken away, nothing may be added."""

    id: str
    created_at: int  # ns since the epoch
    ttl: int
    ending: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(LeaseRow).decode


class LeaseStore:
    """Rows of leases. What a method wrote is on disk when it returns. SystemFailure if the disk refuses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[LeaseRow]:
        """All of them, oldest first."""
        rows = await self._database.read(
            lambda connection: [_decode(text) for (text,) in connection.execute("SELECT document FROM leases")]
        )
        return sorted(rows, key=lambda row: row.created_at)

    async def save(self, row: LeaseRow) -> None:
        """Add or replace."""
        statement = "INSERT OR REPLACE INTO leases (id, document) VALUES (?, ?)"
        await self._write(statement, (row.id, _encode(row).decode()))

    async def delete(self, lease_id: str) -> None:
        await self._write("DELETE FROM leases WHERE id = ?", (lease_id,))

    async def _write(self, statement: str, values: tuple[str, ...]) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute(statement, values)

        await self._database.write(write)
