"""The monitor's side of a log on the real kernel: a disk that is full."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.store.journal.reader import read_log
from dockyard.store.journal.records import Query
from dockyard.store.journal.writer import Host, LogWriter

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.vm]


class Hearing(Host):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def log_trouble(self, text: str) -> None:
        self.heard.append(text)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """One MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def _read(path: Path) -> bytes:
    return b"".join([chunk async for chunk in read_log(str(path), Query(), raw=True)])


def test_a_full_disk_tears_no_record_and_the_log_goes_on(small_disk: Path) -> None:
    host = Hearing()
    spec: Any = {"driver": "json-file", "path": str(small_disk / "log"), "max_size": 0, "max_file": 1, "attrs": {}}
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 700_000)
    log = LogWriter(spec, host)
    for number in range(300):
        log.write("stdout", b"".join(b"%d %s\n" % (number, b"y" * 90) for _ in range(50)), 1)
    assert log.dropped > 0 and len(host.heard) == 1 and "No space left on device" in host.heard[0]
    ballast.unlink()
    log.write("stdout", b"room\n", 2)
    log.close()
    assert len(host.heard) == 2 and f"{log.dropped} bytes of records are missing" in host.heard[1]
    lines = asyncio.run(_read(small_disk / "log")).splitlines()
    assert lines[-1] == b"room" and all(len(line.split()[1]) == 90 for line in lines[:-1])
