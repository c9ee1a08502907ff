"""The journald log driver with a real journald (in the virtual machine: `python -m tools.vm --systemd`)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.proto.logformats import Entry, Source
from dockyard.runtime.cgroups import systemd
from dockyard.runtime.shipper import sinks
from tests.support import steps
from tests.support.engines import Dockyardd
from tests.support.flagged import load_images
from tests.unit.test_shipper import NAME, Ground, ground, until

__all__ = ["ground"]
pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not systemd.available() or not shutil.which("journalctl"), reason="needs systemd and journald"),
]
UNITS = ("systemd-journald.socket", "systemd-journald.service")


@pytest.fixture(scope="module", autouse=True)
def journald() -> Iterator[None]:
    """The machine's own, which nothing else has started."""
    started = not os.path.exists(sinks.JOURNAL)
    if started:
        systemctl("start", *UNITS)
    yield
    if started:
        systemctl("stop", *UNITS)


def systemctl(*words: str) -> None:
    subprocess.run(["systemctl", *words], check=True, timeout=120)


def journal(*matches: str) -> list[dict[str, Any]]:
    """Records as journalctl gives them. A field that is not UTF-8 is a list of bytes, a very long one is there too."""
    command = ["journalctl", "-q", "-o", "json", "--all", *matches]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)  # 1: there is none
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_journald_knows_whose_line_it_is(tmp_path: Path) -> None:
    given = ["--log-driver=journald", "--log-opt=tag={{.Name}}/{{.ImageName}}", "--log-opt=labels=team.name"]
    given += ["--log-opt=env=WHO", "--label=team.name=a b", "--label=other=1", "--env=WHO=me", "--network=none"]
    script = (
        "echo hello; sleep 0.2; printf 'two\\n\\n' >&2; sleep 0.2; printf größe; yes x | head -n20000 | tr -d '\\n'"
    )
    with Dockyardd() as engine:
        load_images(engine)
        container = engine.out("create", "--name", "writer", *given, "bb", "sh", "-c", script)
        engine.docker("start", "-a", "writer")
        steps.eventually(lambda: len(found(container)) >= 5, seconds=30)
        records = found(container)
        common = {
            "CONTAINER_ID": container[:12],
            "CONTAINER_NAME": "writer",
            "CONTAINER_TAG": "writer/bb",
            "SYSLOG_IDENTIFIER": "writer/bb",
            "IMAGE_NAME": "bb",
            "TEAM_NAME": "a b",
            "WHO": "me",
        }
        for record in records:
            assert common.items() <= record.items()
            assert "OTHER" not in record
        assert [(record["MESSAGE"], record["PRIORITY"]) for record in records[:3]] == [
            ("hello", "6"), ("two", "3"), ("", "3"),
        ]  # fmt: skip
        pieces = records[3:]
        assert "".join(record["MESSAGE"] for record in pieces) == "größe" + "x" * 20000
        assert [record.get("CONTAINER_PARTIAL_MESSAGE") for record in pieces] == ["true", None]
        assert [record["CONTAINER_PARTIAL_ORDINAL"] for record in pieces] == ["1", "2"]
        assert len({record["CONTAINER_PARTIAL_ID"] for record in pieces}) == 1
        assert engine.out("logs", "-n", "1", "writer").endswith("x"), "dual logging"
        since = steps.inspect(engine.api(), "writer")["State"]["StartedAt"][:19]
        assert records[0]["SYSLOG_TIMESTAMP"].startswith(since[:14])


def found(container: str) -> list[dict[str, Any]]:
    return journal(f"CONTAINER_ID_FULL={container}")


def test_journald_may_be_restarted_and_killed(ground: Ground) -> None:
    """While lines come: none comes twice. A restart loses none, a kill at most the datagram that journald had taken
    from its socket and not yet written: nobody but journald knows of it."""

    async def main() -> None:
        ground.prepare("journald")
        async with ground.shipping():
            for first, words in ((0, ("restart", UNITS[1])), (500, ("kill", "-s", "KILL", UNITS[1]))):
                ground.write(*map(str, range(first, first + 250)))
                await asyncio.to_thread(systemctl, *words)
                ground.write(*map(str, range(first + 250, first + 500)))
                if not first:  # else the kill meets these
                    await until(lambda: len(journal(f"CONTAINER_ID_FULL={NAME}")) == 500)
            ground.write("end", stream="stderr")
            await until(lambda: journal(f"CONTAINER_ID_FULL={NAME}", "PRIORITY=3"))

    asyncio.run(main())
    lines = [int(record["MESSAGE"]) for record in journal(f"CONTAINER_ID_FULL={NAME}", "PRIORITY=6")]
    assert lines == sorted(set(lines))
    lost = set(range(1000)) - set(lines)
    assert len(lost) <= 1 and not lost & set(range(500)), lost
    assert ground.told == []


def test_journald_takes_what_fits_into_no_datagram() -> None:
    source = Source("e" * 64, "web", "app", "sha256:1", "run", 0, "journald", {}, "big", {"ODD": "two\nlines"})

    async def main() -> None:
        sink = await sinks.connect(source)
        await sink.send([Entry(False, "z" * 400_000, 1), Entry(True, "after", 2)])
        await sink.close()

    asyncio.run(main())
    match = f"CONTAINER_ID_FULL={source.id}"
    steps.eventually(lambda: len(journal(match)) == 2, seconds=30)
    assert sorted(len(record["MESSAGE"]) for record in journal(match)) == [5, 400_000]
    assert {record["ODD"] for record in journal(match)} == {"two\nlines"}
