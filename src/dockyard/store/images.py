"""The images and image_names tables.

Owns: `ImageRecord` and its SQL. Does not own: layers (`store.snapshots`), blobs (`store.content`), what a name may look
like (`proto.references`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec
from msgspec import Struct, field

from dockyard.model.oci import ImageConfig


class ImageRecord(Struct, omit_defaults=True):
    """An image as it is kept. `id` is the digest of its configuration blob, which lies in the content store."""

    id: str
    config: ImageConfig
    chain_id: str | None = None  # of its layers; None: it has none
    size: int = 0  # bytes of the files of all its layers
    created: int = 0  # ns since the epoch, from the configuration
    manifest: str = ""  # digest of the manifest that it came with, kept as a blob
    manifest_type: str = ""
    index: str = ""  # digest of the index of several platforms that it came with, kept as a blob
    index_type: str = ""
    attached: list[str] = field(default_factory=list)  # blobs that the index needs beside images: indexes, attestations
    digests: list[str] = field(default_factory=list)  # complete names with digests: "docker.io/library/a@sha256:…"
    tagged_at: int = 0  # ns
    used_at: int = 0  # ns: when it came, or was last seen in use (to the hour; only if images go unattended)


_decode = msgspec.json.Decoder(ImageRecord).decode


def load(connection: sqlite3.Connection) -> tuple[list[ImageRecord], dict[str, str]]:
    """Every image, and every complete name with the id of its image."""
    records = [_decode(row[0]) for row in connection.execute("SELECT document FROM images")]
    return records, dict(connection.execute("SELECT name, image_id FROM image_names").fetchall())


def save(connection: sqlite3.Connection, record: ImageRecord, names: Iterable[str] = ()) -> None:
    """Insert or replace an image's row, and let `names` (complete) stand for it."""
    connection.execute(
        "INSERT INTO images (id, document) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET document = excluded.document",
        (record.id, msgspec.json.encode(record).decode()),
    )
    for name in names:
        connection.execute(
            "INSERT INTO image_names VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET image_id = excluded.image_id",
            (name, record.id),
        )


def remove_names(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    connection.executemany("DELETE FROM image_names WHERE name = ?", [(name,) for name in names])


def delete(connection: sqlite3.Connection, image_ids: Iterable[str]) -> None:
    """Remove images with their names."""
    for image_id in image_ids:
        connection.execute("DELETE FROM image_names WHERE image_id = ?", (image_id,))
        connection.execute("DELETE FROM images WHERE id = ?", (image_id,))
