"""The shipper as a process: started by a worker, killed, replaced, told to end, gone when nothing is left to do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dockyard.proto.logformats import Source
from dockyard.runtime import channel
from dockyard.runtime.client import Runtime
from dockyard.runtime.shipper import process
from dockyard.runtime.shipper.client import ShipperClient
from dockyard.runtime.shipper.spool import Spool
from dockyard.store.journal.writer import LogWriter
from tests.support.logreceivers import FluentdReceiver

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

NAME = "d" * 64
Test = Callable[[Runtime, ShipperClient], Awaitable[None]]


def peer_of(directory: Path) -> int:
    """The pid of the shipper that serves `directory`; 0: none does."""
    home = os.open(directory, os.O_RDONLY)
    try:
        with channel.connect(home, process.SOCKET) as sock:
            return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
    except OSError:
        return 0
    finally:
        os.close(home)


async def until(condition: Callable[[], Any], seconds: float = 15) -> None:
    for _ in range(int(seconds * 50)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it does not happen")


def run(directory: Path, test: Test) -> None:
    """`test` with a runtime and a client of the shipper; then the shipper has to end by itself, with its socket."""

    async def main() -> None:
        runtime = Runtime(str(directory / "errors"))
        (directory / "errors").touch()
        await runtime.start()
        client = ShipperClient(runtime.call, str(directory), str(directory / "shipping"))
        try:
            await test(runtime, client)
            last = peer_of(directory)
        finally:
            client.close()
            await runtime.close()
        await until(lambda: not last or not os.path.exists(f"/proc/{last}"))
        assert not (directory / process.SOCKET).exists()
        assert "Traceback" not in (directory / "errors").read_text()

    asyncio.run(asyncio.wait_for(main(), 60))


def numbers(receiver: FluentdReceiver) -> list[int]:
    """What has arrived, each once: a kill between an acknowledgement and its record sends something twice."""
    return list(dict.fromkeys(int(record["log"]) for _, record in receiver.entries))


def begin(directory: Path, port: int) -> tuple[Spool, LogWriter]:
    spool = Spool(directory / "shipping" / NAME)
    options = {"fluentd-address": f"127.0.0.1:{port}"}
    spool.prepare(Source(NAME, "web", "app", "sha256:1", "run", 0, "fluentd", options, "t"))
    spec: Any = {"driver": "json-file", "path": spool.log_path, "max_size": 20_000, "max_file": 9, "attrs": {}}
    return spool, LogWriter(spec)


def test_killed_it_is_started_again_and_nothing_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    receiver = FluentdReceiver()
    spool, log = begin(tmp_path, receiver.port)

    def write(first: int, last: int) -> None:
        log.write("stdout", b"".join(b"%d\n" % number for number in range(first, last)), 1_700_000_000_000_000_000)

    async def test(_runtime: Runtime, client: ShipperClient) -> None:
        write(0, 1000)
        await client.look(NAME)
        first = peer_of(tmp_path)
        await until(lambda: numbers(receiver) == list(range(1000)))
        os.kill(first, signal.SIGKILL)
        write(1000, 2000)
        await until(lambda: numbers(receiver) == list(range(2000)))
        second = peer_of(tmp_path)
        assert second not in (0, first)
        receiver.stop()
        write(2000, 2500)
        await until(lambda: "cannot be sent" in caplog.text)
        os.kill(second, signal.SIGKILL)
        receiver.start()
        await until(lambda: numbers(receiver) == list(range(2500)))
        log.close()
        assert spool.remove()
        await client.look(NAME)
        await until(lambda: not spool.directory.exists())

    with caplog.at_level(logging.WARNING):
        run(tmp_path, test)
    receiver.stop()


def test_it_outlives_the_daemon_and_the_next_one_finds_it(tmp_path: Path) -> None:
    receiver = FluentdReceiver()
    spool, log = begin(tmp_path, receiver.port)

    async def test(_runtime: Runtime, client: ShipperClient) -> None:
        await client.look(NAME)
        pid = peer_of(tmp_path)
        client.close()
        log.write("stdout", b"alone\n", 1)
        await until(lambda: receiver.entries)
        runtime = Runtime(str(tmp_path / "errors"))
        await runtime.start()
        again = ShipperClient(runtime.call, str(tmp_path), str(tmp_path / "shipping"))
        await again.look()
        assert peer_of(tmp_path) == pid
        spool.remove()
        await again.look(NAME)
        await until(lambda: not spool.directory.exists())
        again.close()
        await runtime.close()

    run(tmp_path, test)
    receiver.stop()
    log.close()


def test_one_of_another_version_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, log = begin(tmp_path, 1)
    log.close()

    async def test(runtime: Runtime, client: ShipperClient) -> None:
        await client.look()
        first = peer_of(tmp_path)
        monkeypatch.setattr("dockyard.runtime.shipper.client.__version__", "99")
        newer = ShipperClient(runtime.call, str(tmp_path), str(tmp_path / "shipping"))
        look = asyncio.create_task(newer.look())
        await until(lambda: peer_of(tmp_path) not in (0, first))
        newer.close()
        await look
        spool.destroy()
        await client.look(NAME)

    run(tmp_path, test)
