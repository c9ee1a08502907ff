"""The networks table: one row a network.

Owns: `NetworkRow` (a network as it was made) and the SQL. Does not own: what a network is good for
(`engine.networks`), its containers (their rows name their endpoints).
"""

from __future__ import annotations

import sqlite3

import msgspec
from msgspec import Struct, field

from dockyard.store.db import Database


class NetworkRow(Struct):
    """One network. `driver`: bridge, host, null. Addresses are text, "" where the driver has none."""

    id: str  # 64 hex digits
    name: str
    driver: str
    created_at: int  # ns since the epoch
    bridge: str = ""  # the Linux bridge
    owned: bool = True  # the bridge was made by us, and goes with us
    subnet: str = ""  # "172.17.0.0/16"
    gateway: str = ""  # "172.17.0.1"
    mtu: int = 1500
    icc: bool = True
    masquerade: bool = True
    internal: bool = False
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(NetworkRow).decode


class NetworkStore:
    """Rows of networks. What a method wrote is on disk when it returns. SystemFailure if the disk refuses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[NetworkRow]:
        """All of them, oldest first."""
        rows = await self._database.read(lambda connection: _select(connection))
        return sorted(rows, key=lambda row: (row.created_at, row.name))

    async def save(self, row: NetworkRow) -> None:
        """Add or replace. sqlite3.IntegrityError if another network has the name."""
        values = (row.id, row.name, _encode(row).decode())
        statement = (
            "INSERT INTO networks (id, name, document) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET name = excluded.name, document = excluded.document"
        )
        await self._database.write(lambda connection: _execute(connection, statement, values))

    async def delete(self, network_id: str) -> None:
        statement = "DELETE FROM networks WHERE id = ?"
        await self._database.write(lambda connection: _execute(connection, statement, (network_id,)))


def _select(connection: sqlite3.Connection) -> list[NetworkRow]:
    return [_decode(document) for (document,) in connection.execute("SELECT document FROM networks")]


def _execute(connection: sqlite3.Connection, statement: str, values: tuple[str, ...]) -> None:
    connection.execute(statement, values)
