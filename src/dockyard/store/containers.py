"""The containers table: one row a container.

Owns: `ContainerSpec` (what was asked, resolved once at creation), the SQL, and the rule that specification, status and
desired state are three columns with three writers. Does not own: what they mean (`model.lifecycle`, `engine`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from msgspec import Struct, field

from dockyard.model.container import ContainerConfig, EndpointSettings, HostConfig
from dockyard.model.lifecycle import Desired, Status
from dockyard.model.mounts import MountPoint
from dockyard.store.db import Database


class ContainerSpec(Struct):
    """A container as it was created: the client's request merged with its image. Only `update` changes it."""

    created_at: int  # ns since the epoch
    config: ContainerConfig  # merged with the image's
    host: HostConfig
    image_id: str  # "sha256:…"
    image_ref: str  # as the client named it
    path: str
    args: list[str]
    chain_id: str | None = None  # of the image's layers; None: an empty image
    networks: dict[str, EndpointSettings] = field(default_factory=dict)  # asked for, by network name
    mounts: list[MountPoint] = field(default_factory=list)
    log_driver: str = "json-file"
    log_options: dict[str, str] = field(default_factory=dict)
    platform: str = "linux"
    process_label: str = ""  # SELinux; "": none
    mount_label: str = ""


class ContainerRow(NamedTuple):
    id: str
    name: str
    spec: ContainerSpec
    status: Status
    desired: Desired


Also = Callable[[sqlite3.Connection], None]  # what belongs into the same transaction


class NameTaken(Exception):
    """Another row has this name (or this id)."""


_decode_spec = msgspec.json.Decoder(ContainerSpec).decode
_decode_status = msgspec.json.Decoder(Status).decode
_decode_desired = msgspec.json.Decoder(Desired).decode
_encoder = msgspec.json.Encoder()


def _text(value: Struct) -> str:
    return _encoder.encode(value).decode()


class ContainerStore:
    """Rows of containers. What a method wrote is on disk when it returns. SystemFailure if the disk refuses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, row: ContainerRow, also: Also | None = None) -> None:
        """Add a row, and what `also` writes, together. NameTaken if the name or the id exists."""
        values = (row.id, row.name, _text(row.spec), _text(row.status), _text(row.desired))
        statement = "INSERT INTO containers (id, name, spec, status, desired) VALUES (?, ?, ?, ?, ?)"
        try:
            await self._database.write(lambda connection: _execute(connection, statement, values, also))
        except sqlite3.IntegrityError as error:
            raise NameTaken(row.name) from error

    async def save_status(self, container_id: str, status: Status, desired: Desired) -> None:
        """Replace status and desired state. A row that is gone stays gone."""
        values = (_text(status), _text(desired), container_id)
        statement = "UPDATE containers SET status = ?, desired = ? WHERE id = ?"
        await self._database.write(lambda connection: _execute(connection, statement, values))

    async def save_spec(self, container_id: str, spec: ContainerSpec) -> None:
        values = (_text(spec), container_id)
        statement = "UPDATE containers SET spec = ? WHERE id = ?"
        await self._database.write(lambda connection: _execute(connection, statement, values))

    async def rename(self, container_id: str, name: str) -> None:
        """Give a row another name. NameTaken if another row has it."""
        statement = "UPDATE containers SET name = ? WHERE id = ?"
        try:
            await self._database.write(lambda connection: _execute(connection, statement, (name, container_id)))
        except sqlite3.IntegrityError as error:
            raise NameTaken(name) from error

    async def delete(self, container_id: str, also: Also | None = None) -> None:
        """Take a row away, and what `also` does, together; one that is gone already is fine."""
        statement = "DELETE FROM containers WHERE id = ?"
        await self._database.write(lambda connection: _execute(connection, statement, (container_id,), also))

    async def all(self) -> list[ContainerRow]:
        """Every row, oldest first."""
        statement = "SELECT id, name, spec, status, desired FROM containers"
        raw = await self._database.read(lambda connection: connection.execute(statement).fetchall())
        rows = [
            ContainerRow(id_, name, _decode_spec(spec), _decode_status(status), _decode_desired(desired))
            for id_, name, spec, status, desired in raw
        ]
        return sorted(rows, key=lambda row: row.spec.created_at)


def _execute(connection: sqlite3.Connection, statement: str, values: tuple[str, ...], also: Also | None = None) -> None:
    connection.execute(statement, values)
    if also is not None:
        also(connection)
