"""The database: group commit, isolation of neighbours, refusal of newer schemas."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.model.errors import NotFound, SystemFailure
from dockyard.store.db import MIGRATIONS, Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "dockyard.db")
    database.open()
    yield database
    database.close()


def put(name: str, value: str = "x") -> object:
    return lambda c: c.execute("INSERT INTO meta VALUES (?, ?)", (name, value)) and None


def names(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT key FROM meta ORDER BY key")]


def test_a_failing_write_does_not_undo_its_neighbours(database: Database) -> None:
    def bad(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO meta VALUES ('half', 'x')")
        raise NotFound("no such thing")

    async def run() -> None:
        results = await asyncio.gather(
            database.write(put("a")), database.write(bad), database.write(put("a")), database.write(put("b")),
            return_exceptions=True,
        )  # fmt: skip
        assert results[0] is None
        assert isinstance(results[1], NotFound)
        assert isinstance(results[2], sqlite3.IntegrityError)
        assert results[3] is None
        assert await database.read(names) == ["a", "b"]

    asyncio.run(run())


def test_writes_that_arrive_together_share_a_commit(database: Database, tmp_path: Path) -> None:
    commits: list[str] = []

    async def run() -> None:
        await database.write(lambda c: c.set_trace_callback(lambda s: commits.append(s) if s == "COMMIT" else None))
        commits.clear()
        await asyncio.gather(*(database.write(put(str(i))) for i in range(200)))
        assert len(await database.read(names)) == 200

    asyncio.run(run())
    assert 1 <= len(commits) < 100


def test_written_means_seen_by_readers_and_by_the_next_open(database: Database, tmp_path: Path) -> None:
    async def run() -> None:
        await database.write(put("a"))
        assert await database.read(names) == ["a"]
        with pytest.raises(SystemFailure):
            await database.read(lambda c: c.execute("DELETE FROM meta"))

    asyncio.run(run())
    database.close()
    database.open()
    assert asyncio.run(database.read(names)) == ["a"]


def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(SystemFailure, match="schema"):
        Database(path).open()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["new.db"]


def test_a_closed_or_broken_database_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match="closed"):
        asyncio.run(Database(tmp_path / "x.db").read(names))
    (tmp_path / "y.db").write_bytes(b"not a database, however long it goes on" * 100)
    with pytest.raises(SystemFailure, match="not a database"):
        Database(tmp_path / "y.db").open()


def test_s36_the_file_is_readable_by_its_owner_only(database: Database, tmp_path: Path) -> None:
    asyncio.run(database.write(put("a")))
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
