"""What builds have made, to be found again: the rows of the build cache.

Owns: `Record`, `BuildCache`: lookup by key, rows in memory and in the tables build_cache and build_keys, the hold on
their layers, the directories of cache mounts. Does not own: what a key is made of (`engine.builds`), what goes when
space is wanted (`proto.buildgc`).

A row is written behind: a build does not wait for it, and one that a crash loses is only a step done once more. Content
first, then the row: a row whose layers are not there is dropped when the cache is opened. The layers of rows are held
by a lease, so that a collection leaves them alone.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from dockyard.model.errors import DockyardError
from dockyard.store.db import Database
from dockyard.store.layout import Layout
from dockyard.store.snapshots import Snapshots

REGULAR: Final = "regular"
CACHE_MOUNT: Final = "exec.cachemount"
INTERNAL: Final = "internal"  # when an image was made whose steps were all cached
SOURCE_GIT: Final = "source.git.checkout"
SOURCE_HTTP: Final = "source.http"


class Record(Struct, omit_defaults=True):
    """One row. Times in ns since the epoch, sizes in bytes."""

    id: str
    type: str = REGULAR
    description: str = ""
    chain: str | None = None  # of the file system after the step
    made: bool = False  # whether the step made a layer of its own
    created: int = 0
    last_used: int = 0
    uses: int = 0
    size: int = 0
    parents: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    mount: str = ""  # cache mount: its identity ("" for others)
    etag: str = ""  # fetched file: what the server called this version
    modified: int = 0  # fetched file: when it says that it was made, ns
    digest: str = ""  # fetched file: "sha256:…"; checkout: its commit
    imported: bool = False  # cache mount: nobody has had it since it came
    directory: str = ""  # below builds/mounts: a cache mount's or fetched file's


_decode = msgspec.json.Decoder(Record).decode
_encode = msgspec.json.Encoder().encode


class BuildCache:
    """All rows. For the event loop's thread. `open()` after the snapshots are and before anything is collected."""

    def __init__(self, layout: Layout, database: Database, snapshots: Snapshots, clock: Callable[[], int]) -> None:
        self._layout = layout
        self._database = database
        self._snapshots = snapshots
        self._clock = clock
        self._lease = snapshots.lease()
        self._records: dict[str, Record] = {}
        self._by_key: dict[str, Record] = {}
        self._held: Counter[str] = Counter()
        self._dirty: set[str] = set()
        self._writing: set[asyncio.Task[Any]] = set()
        self.warnings: list[str] = []

    # --- life ------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read the rows; drop those whose content is gone; sweep directories and contexts that belong to none."""
        records = await self._database.read(_load)
        lost = [record.id for record in records if not self._is_whole(record)]
        gone = set(lost)
        for record in records:
            if record.id not in gone:
                self._take_in(record)
        if lost:
            await self._database.write(lambda connection: _delete(connection, lost))
        wanted = {record.directory for record in self._records.values() if record.directory}
        for name in os.listdir(self._layout.builds / "mounts"):
            if name not in wanted:
                self._layout.discard(self._layout.build_mount(name))
        for name in os.listdir(self._layout.builds / "contexts"):
            self._layout.discard(self._layout.build_context(name))

    async def close(self) -> None:
        """Wait until everything is written."""
        self.flush()
        while self._writing:
            await asyncio.gather(*self._writing, return_exceptions=True)

    def _is_whole(self, record: Record) -> bool:
        if record.chain is not None and not self._snapshots.has(record.chain):
            return False
        return not record.directory or self._layout.build_mount(record.directory).is_dir()

    def _take_in(self, record: Record) -> None:
        self._records[record.id] = record
        for key in record.keys:
            self._by_key[key] = record
        if record.chain is not None:
            self._lease.add(record.chain)

    # --- asking ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._records.values()))

    def __len__(self) -> int:
        return len(self._records)

    def get(self, record_id: str) -> Record | None:
        return self._records.get(record_id)

    def find(self, key: str) -> Record | None:
        """What a key stands for; it counts as used now."""
        record = self._by_key.get(key)
        if record is None:
            return None
        if record.chain is not None and not self._snapshots.has(record.chain):
            return None
        self.touch(record)
        return record

    def mounts(self, identity: str) -> list[Record]:
        """The cache mounts of that identity (several where each is private)."""
        return [record for record in self._records.values() if record.type == CACHE_MOUNT and record.mount == identity]

    def touch(self, record: Record) -> None:
        """It is used now. Written when the build ends."""
        record.last_used = self._clock()
        record.uses += 1
        self._dirty.add(record.id)

    def in_use(self, record: Record) -> bool:
        """Whether a build is using it."""
        return self._held[record.id] > 0

    @contextmanager
    def hold(self) -> Iterator[Callable[[Record], None]]:
        """What is given to the function stays until the end of the `with`: for the time of a build."""
        mine: list[str] = []

        def take(record: Record) -> None:
            self._held[record.id] += 1
            mine.append(record.id)

        try:
            yield take
        finally:
            for record_id in mine:
                self._held[record_id] -= 1
                if not self._held[record_id]:
                    del self._held[record_id]

    @contextmanager
    def holding(self, record: Record) -> Iterator[None]:
        """`hold` for one row."""
        with self.hold() as take:
            take(record)
            yield

    # --- changing --------------------------------------------------------------------------------------------------

    def put(self, record: Record, keys: Iterable[str]) -> Record:
        """Have a row, found by `keys` (other rows lose them). Its chain has to be there. Written behind."""
        if not record.id:
            record.id = secrets.token_hex(13)
        now = self._clock()
        record.created = record.created or now
        record.last_used = now
        record.uses += 1
        emptied = []
        for key in keys:
            old = self._by_key.get(key)
            if old is not None and old is not record:
                old.keys.remove(key)
                if not old.keys and old.type != CACHE_MOUNT and not self.in_use(old):
                    emptied.append(old)
            if key not in record.keys:
                record.keys.append(key)
        for old in emptied:
            self._drop(old)
        self._take_in(record)
        gone = [old.id for old in emptied]
        document = _encode(record).decode()

        def write(connection: sqlite3.Connection) -> None:
            _delete(connection, gone)
            _save(connection, record.id, document, record.keys)

        self._behind(self._database.write(write))
        return record

    def add_key(self, record: Record, key: str) -> None:
        """Let another key stand for a row that is there."""
        if self._by_key.get(key) is record:
            return
        lease_held = record.chain
        self.put(record, [key])
        record.uses -= 1
        if lease_held is not None:
            self._lease.drop(lease_held)  # `put` took it once more

    def remove(self, records: Iterable[Record]) -> None:
        """Forget rows: their layers are let go, directories deleted behind."""
        doomed = [record for record in records if record.id in self._records]
        for record in doomed:
            self._drop(record)
        ids = [record.id for record in doomed]
        if ids:
            self._behind(self._database.write(lambda connection: _delete(connection, ids)))

    def _drop(self, record: Record) -> None:
        self._records.pop(record.id, None)
        self._dirty.discard(record.id)
        for key in record.keys:
            if self._by_key.get(key) is record:
                del self._by_key[key]
        if record.chain is not None:
            self._lease.drop(record.chain)
        if record.directory:
            self._layout.discard(self._layout.build_mount(record.directory))

    def flush(self) -> None:
        """Write behind what has been touched."""
        dirty = [self._records[record_id] for record_id in self._dirty if record_id in self._records]
        self._dirty.clear()
        documents = [(record.id, _encode(record).decode()) for record in dirty]
        if documents:
            self._behind(self._database.write(lambda connection: _update(connection, documents)))

    def _behind(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and isinstance(error, DockyardError):
            self.warnings.append(f"build cache: {error}")


def _load(connection: sqlite3.Connection) -> list[Record]:
    return [_decode(row[0]) for row in connection.execute("SELECT document FROM build_cache")]


def _save(connection: sqlite3.Connection, record_id: str, document: str, keys: list[str]) -> None:
    connection.execute(
        "INSERT INTO build_cache VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET document = excluded.document",
        (record_id, document),
    )
    connection.executemany(
        "INSERT INTO build_keys VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET cache_id = excluded.cache_id",
        [(key, record_id) for key in keys],
    )


def _update(connection: sqlite3.Connection, documents: list[tuple[str, str]]) -> None:
    connection.executemany(
        "UPDATE build_cache SET document = ? WHERE id = ?", [(document, id_) for id_, document in documents]
    )


def _delete(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    for record_id in ids:
        connection.execute("DELETE FROM build_keys WHERE cache_id = ?", (record_id,))
        connection.execute("DELETE FROM build_cache WHERE id = ?", (record_id,))
