"""The one SQLite file that holds every record.

Owns: the schema and its migrations, the thread that alone reads and writes, with group commit.
Does not own: SQL about single things (`store.containers`, `store.images`, `store.networks`, …).

    containers   id · name · spec · status · desired        asked · is · should be
    images       id · document                              id: sha256 of the configuration blob
    image_names  name → image_id                            "docker.io/library/busybox:1.36"
    layers       chain_id · diff_id · parent · directory · blob · document
    networks     id · name · document
    endpoints    id · network_id · container_id · document
    volumes      name · document
    leases       id · document                              what belongs to one says so by a label
    build_cache  id · document                              a step's result, or a cache mount
    build_keys   key → cache_id                             by what it is found again
    meta         key · value                                snapshot driver, …

Documents are JSON; what is looked up by is a column. WAL with synchronous=FULL: a commit that returned is on disk.

Room for some hundred commits is set aside in the journal, so that on a full disk things can still be removed, and what
ends is still written down; it stays set aside while there is no daemon, for the next start may find the disk full. The
file is locked for this process alone: its index is then in memory, not mapped from a file, where a full disk (on file
systems that copy on write) or a broken one would be a signal that ends the daemon.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from dockyard.linux.space import keep_room
from dockyard.model.errors import NO_SPACE, SystemFailure

T = TypeVar("T")

_ROOM = 4 << 20  # bytes of the journal: after as many SQLite goes back to its beginning

# Statements of each schema version; never edited after a release, only added to.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE containers (
            id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE,
            spec TEXT NOT NULL, status TEXT NOT NULL, desired TEXT NOT NULL)""",
        "CREATE TABLE images (id TEXT PRIMARY KEY, document TEXT NOT NULL)",
        """CREATE TABLE image_names (
            name TEXT PRIMARY KEY, image_id TEXT NOT NULL REFERENCES images (id)) WITHOUT ROWID""",
        "CREATE INDEX image_names_by_image ON image_names (image_id)",
        """CREATE TABLE layers (
            chain_id TEXT PRIMARY KEY, diff_id TEXT NOT NULL, parent TEXT REFERENCES layers (chain_id),
            directory TEXT NOT NULL UNIQUE, blob TEXT, document TEXT NOT NULL)""",
        "CREATE INDEX layers_by_parent ON layers (parent)",
        "CREATE TABLE networks (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, document TEXT NOT NULL)",
        """CREATE TABLE endpoints (
            id TEXT PRIMARY KEY, network_id TEXT NOT NULL, container_id TEXT NOT NULL, document TEXT NOT NULL)""",
        "CREATE INDEX endpoints_by_network ON endpoints (network_id)",
        "CREATE INDEX endpoints_by_container ON endpoints (container_id)",
        "CREATE TABLE volumes (name TEXT PRIMARY KEY, document TEXT NOT NULL)",
    ),
    (
        "CREATE TABLE build_cache (id TEXT PRIMARY KEY, document TEXT NOT NULL)",
        """CREATE TABLE build_keys (
            key TEXT PRIMARY KEY, cache_id TEXT NOT NULL REFERENCES build_cache (id)) WITHOUT ROWID""",
        "CREATE INDEX build_keys_by_cache ON build_keys (cache_id)",
    ),
    ("CREATE TABLE leases (id TEXT PRIMARY KEY, document TEXT NOT NULL)",),
)


class Database:
    """`write` and `read` run functions on a connection, in a thread of its own, and never block the event loop.

    Functions given to `write` that arrive together share one commit; each runs in its own savepoint, so one that
    raises undoes only itself. What it raises (sqlite3.IntegrityError for a taken name, a DockyardError, …) is raised to
    its caller; any other sqlite3.Error (a full disk) becomes SystemFailure. When `write` returns, it is on disk.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._thread: _Thread | None = None

    def open(self) -> None:
        """Open or make the file and bring its schema up to date. SystemFailure if it is newer than this program."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # sqlite would take the umask's
            connection = _connect(self._path)
            try:
                _migrate(connection, self._path)
                _set_room_aside(f"{self._path}-wal")
            except BaseException:
                connection.close()
                raise
        except OSError as error:
            raise SystemFailure(f"database {self._path}: {error.strerror}") from error
        except sqlite3.Error as error:
            raise SystemFailure(f"database {self._path}: {_reason(error)}") from error
        self._thread = _Thread(connection, self._path)

    def close(self) -> None:
        """Finish what was asked, then close. Twice is fine."""
        if self._thread is not None:
            self._thread.close()
            _set_room_aside(f"{self._path}-wal")
        self._thread = None

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run `function(connection)` in the writer's transaction; returns after the commit."""
        return await _submit(self._thread, function, writes=True)

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run `function(connection)`, which changes nothing: sees every committed write."""
        return await _submit(self._thread, function, writes=False)


class _Job:
    """One function on its way through a thread, and its outcome."""

    __slots__ = ("error", "function", "future", "loop", "result", "writes")

    def __init__(
        self, function: Callable[[sqlite3.Connection], Any], loop: asyncio.AbstractEventLoop, *, writes: bool
    ) -> None:
        self.function = function
        self.writes = writes
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None


async def _submit(thread: _Thread | None, function: Callable[[sqlite3.Connection], T], *, writes: bool) -> T:
    if thread is None:
        raise SystemFailure("the database is closed")
    job = _Job(function, asyncio.get_running_loop(), writes=writes)
    thread.jobs.put(job)
    result: T = await job.future
    return result


class _Thread:
    """One thread with one connection: takes all jobs that wait, carries them out, answers them."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._connection = connection
        self._path = path
        self._thread = threading.Thread(target=self._loop, name="database", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.jobs.put(None)
        self._thread.join()
        self._connection.close()

    def _loop(self) -> None:
        open_ = True
        while open_:
            batch = [self.jobs.get()]
            while not self.jobs.empty():
                batch.append(self.jobs.get())
            open_ = None not in batch
            jobs = [job for job in batch if job is not None]
            if jobs:
                if writing := [job for job in jobs if job.writes]:
                    _write_batch(self._connection, writing)
                if reading := [job for job in jobs if not job.writes]:
                    _read_batch(self._connection, reading)
                self._answer(jobs)

    def _answer(self, jobs: list[_Job]) -> None:
        for job in jobs:
            if isinstance(job.error, sqlite3.Error) and not isinstance(job.error, sqlite3.IntegrityError):
                failure = SystemFailure(f"database {self._path}: {_reason(job.error)}")
                failure.__cause__ = job.error
                job.error = failure
        for loop in {job.loop for job in jobs}:
            try:
                loop.call_soon_threadsafe(_resolve, [job for job in jobs if job.loop is loop])
            except RuntimeError:
                pass  # that loop has ended: nobody waits


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue  # the caller was cancelled; what it asked for has happened
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


def _write_batch(connection: sqlite3.Connection, jobs: list[_Job]) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            _run_in_savepoint(connection, job)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        # The commit itself failed (disk full, I/O error): nothing of this batch happened.
        for job in jobs:
            job.error = error
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _run_in_savepoint(connection: sqlite3.Connection, job: _Job) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.result = job.function(connection)
    except BaseException as error:
        job.error = error
        if not connection.in_transaction:
            raise sqlite3.OperationalError(f"transaction ended early: {error}") from error
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")


def _read_batch(connection: sqlite3.Connection, jobs: list[_Job]) -> None:
    connection.execute("PRAGMA query_only = ON")
    for job in jobs:
        try:
            job.result = job.function(connection)
        except BaseException as error:  # it is raised to the caller, in its own thread
            job.error = error
    connection.execute("PRAGMA query_only = OFF")


def _reason(error: BaseException) -> str:
    """Also of one that a job has met, after which there was no transaction left."""
    code = getattr(error, "sqlite_errorcode", None) or getattr(error.__cause__, "sqlite_errorcode", None)
    return NO_SPACE if code == sqlite3.SQLITE_FULL else str(error)


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise SystemFailure(
            f"database {path} has schema {version}; this dockyard knows up to {len(MIGRATIONS)} and leaves it as it is"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    if version == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")


def _set_room_aside(journal: str) -> None:
    """An empty journal means the same to SQLite as none."""
    try:
        fd = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        keep_room(fd, _ROOM)
    except OSError:
        pass  # no room now, or never on this file system
    finally:
        os.close(fd)
