"""The layers table: one row an unpacked layer.

Owns: `Layer` and its SQL. Does not own: the directories (`store.snapshots`), which image uses a layer (`store.images`).
"""

from __future__ import annotations

import sqlite3

import msgspec
from msgspec import Struct

_COLUMNS = "chain_id, diff_id, parent, directory, blob, document"


class LayerDocument(Struct, omit_defaults=True):
    size: int = 0  # bytes of the files in it
    tar_size: int = 0  # bytes of its uncompressed tar
    root_mode: int = 0o755  # of the root directory, after this layer
    root_uid: int = 0
    root_gid: int = 0
    recipe: bool = False  # whether its tar can be rebuilt from a recipe; else it is packed from the tree
    media_type: str = ""  # of the blob
    blob_size: int = 0
    boot_id: str = ""  # of the boot in which it was written and not yet known to be on disk; "" afterwards


class Layer(Struct):
    """An unpacked layer. `directory` is its short name; `blob` the digest under which its compressed form came."""

    chain_id: str
    diff_id: str
    parent: str | None
    directory: str
    blob: str | None
    document: LayerDocument


_decode = msgspec.json.Decoder(LayerDocument).decode


def load(connection: sqlite3.Connection) -> list[Layer]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM layers").fetchall()
    return [
        Layer(chain, diff_id, parent, directory, blob, _decode(document))
        for chain, diff_id, parent, directory, blob, document in rows
    ]


def insert(connection: sqlite3.Connection, layer: Layer) -> None:
    """sqlite3.IntegrityError if the chain is there already."""
    document = msgspec.json.encode(layer.document).decode()
    connection.execute(
        f"INSERT INTO layers ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
        (layer.chain_id, layer.diff_id, layer.parent, layer.directory, layer.blob, document),
    )


def update(connection: sqlite3.Connection, layer: Layer) -> None:
    connection.execute(
        "UPDATE layers SET blob = ?, document = ? WHERE chain_id = ?",
        (layer.blob, msgspec.json.encode(layer.document).decode(), layer.chain_id),
    )


def delete(connection: sqlite3.Connection, chain_ids: list[str]) -> set[str]:
    """Delete those that nothing lies on (children have to come before their parents); which those were."""
    childless = "chain_id = ? AND NOT EXISTS (SELECT 1 FROM layers AS child WHERE child.parent = layers.chain_id)"
    return {c for c in chain_ids if connection.execute(f"DELETE FROM layers WHERE {childless}", (c,)).rowcount}
