"""The shipper: a container's log arrives at its receiver, whatever happens to either side."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dockyard.proto.logformats import Source
from dockyard.runtime.shipper import sinks, spool
from dockyard.runtime.shipper.shipping import Shipment
from dockyard.runtime.shipper.spool import Spool
from dockyard.store.journal.follow import Watcher
from dockyard.store.journal.writer import LogWriter
from tests.support.logreceivers import DatagramReceiver, FluentdReceiver, StreamReceiver

NAME = "c" * 64


class Ground:
    """One container's spool, its writer, and what was told of troubles."""

    def __init__(self, directory: Path) -> None:
        self.spool = Spool(directory / "shipping" / NAME)
        self.told: list[str] = []
        self.log: LogWriter | None = None
        self._time = 1_700_000_000_000_000_000

    def prepare(self, driver: str, extra: dict[str, str] | None = None, **limits: Any) -> None:
        """`extra`: options of the driver."""
        options = extra or {}
        self.spool.prepare(Source(NAME, "web", "app", "sha256:1", "run", 0, driver, options, "t", {"k": "v"}))
        spec: Any = {"driver": "json-file", "path": self.spool.log_path, "max_size": 0, "max_file": 1, "attrs": {}}
        self.log = LogWriter(spec | limits)

    def write(self, *lines: str, stream: Any = "stdout") -> None:
        assert self.log is not None
        self._time += 1_000_000
        self.log.write(stream, "".join(f"{line}\n" for line in lines).encode(), self._time)

    @asynccontextmanager
    async def shipping(self, connect: Any = sinks.connect) -> AsyncIterator[asyncio.Task[None]]:
        """While a shipper runs; ends it as a kill does: in the middle of things."""
        watcher = Watcher()
        task = asyncio.create_task(Shipment(self.spool, watcher, self.told.append, connect).run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            watcher.close()


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    if made.log is not None:
        made.log.close()


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not happen")


def numbers(lines: list[str]) -> list[int]:
    return [int(line.rpartition(" ")[2]) for line in lines]


def complete(found: list[int], count: int) -> bool:
    """Each of them is there, and none before one that is smaller for the first time."""
    return list(dict.fromkeys(found)) == list(range(count))


def test_lines_arrive_over_tcp_while_they_are_written(ground: Ground) -> None:
    receiver = StreamReceiver()

    async def main() -> None:
        ground.prepare("syslog", {"syslog-address": f"tcp://127.0.0.1:{receiver.port}", "syslog-format": "rfc3164"})
        ground.write("0")
        async with ground.shipping():
            await until(lambda: receiver.lines())
            for number in range(1, 50):
                ground.write(str(number))
            ground.write("50", stream="stderr")
            await until(lambda: len(receiver.lines()) == 51)

    asyncio.run(main())
    receiver.stop()
    assert complete(numbers(receiver.lines()), 51)
    assert receiver.lines()[0].startswith("<30>") and receiver.lines()[50].startswith("<27>")
    assert f"{socket.gethostname()} t[{os.getpid()}]: 0" in receiver.lines()[0]


def test_nothing_is_lost_when_the_receiver_dies_and_comes_back(ground: Ground) -> None:
    receiver = StreamReceiver()

    async def main() -> None:
        ground.prepare("syslog", {"syslog-address": f"tcp://127.0.0.1:{receiver.port}"})
        async with ground.shipping():
            ground.write(*map(str, range(1000)))
            await until(lambda: len(receiver.lines()) >= 1000)
            receiver.stop()
            del receiver.data[2000:]  # it had not kept all that it had read
            ground.write(*map(str, range(1000, 2000)))
            await until(lambda: ground.told)
            receiver.start()
            await until(lambda: receiver.lines()[-1].endswith(" 1999"))

    asyncio.run(main())
    receiver.stop()
    text = receiver.data.decode()
    found = [n for n in range(2000) if f": {n}\n" in text]
    assert len(found) == 2000
    assert len(ground.told) == 2 and "trying on" in ground.told[0] and "is sent again" in ground.told[1]


def test_a_killed_shipper_goes_on_where_it_was(ground: Ground) -> None:
    receiver = StreamReceiver()

    async def main() -> None:
        ground.prepare("syslog", {"syslog-address": f"tcp://127.0.0.1:{receiver.port}"}, max_size=4000, max_file=9)
        ground.write(*map(str, range(100)))
        async with ground.shipping():
            await until(lambda: len(receiver.lines()) == 100)
            await until(lambda: ground.spool.read_place() is not None)  # 2 s: nobody doubts that it was read
        ground.write(*map(str, range(100, 200)))  # rotates
        async with ground.shipping():
            await until(lambda: len(receiver.lines()) == 200)
        ground.write(*map(str, range(200, 210)))
        async with ground.shipping():  # the one before was killed before what it had sent was sure
            await until(lambda: receiver.lines()[-1].endswith(" 209"))

    asyncio.run(main())
    receiver.stop()
    found = numbers(receiver.lines())
    assert found[:200] == list(range(200)), "what was sure is not sent again"
    assert complete(found, 210)


def test_fluentd_acknowledges_and_what_it_does_not_is_sent_again(ground: Ground) -> None:
    receiver = FluentdReceiver(lambda message: message not in (1, 3))

    async def main() -> None:
        ground.prepare("fluentd", {"fluentd-address": f"127.0.0.1:{receiver.port}"})
        async with ground.shipping():
            for number in range(10):
                ground.write(str(number))
                await until(lambda n=number: len(receiver.entries) == n + 1)
            ground.write("x" * 40_000)
            await until(lambda: len(receiver.entries) == 13)
        assert ground.spool.read_place() is not None, "acknowledged: sure at once"

    asyncio.run(main())
    receiver.stop()
    assert [record["log"] for _, record in receiver.entries[:10]] == [str(number) for number in range(10)]
    tag, record = receiver.entries[0]
    assert tag == "t" and record["container_name"] == "/web" and record["k"] == "v"
    pieces = [record for _, record in receiver.entries[10:]]
    assert "".join(piece["log"] for piece in pieces) == "x" * 40_000
    assert [piece["partial_ordinal"] for piece in pieces] == ["1", "2", "3"]
    assert [piece["partial_last"] for piece in pieces] == ["false", "false", "true"]


def test_tls_with_counted_messages_and_a_stranger_is_refused(ground: Ground, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    receiver = StreamReceiver(tls=context)
    options = {"syslog-address": f"tcp+tls://localhost:{receiver.port}", "syslog-format": "rfc5424"}

    async def main() -> None:
        ground.prepare("syslog", options)
        ground.write("0", "1")
        async with ground.shipping():
            await until(lambda: ground.told)
        assert "certificate" in ground.told[0].lower()
        ground.prepare("syslog", {**options, "syslog-tls-ca-cert": str(certificate)})
        async with ground.shipping():
            await until(lambda: receiver.data.count(b"\n") == 2)

    asyncio.run(main())
    receiver.stop()
    length, _, rest = bytes(receiver.data).partition(b" ")
    assert rest[: int(length)].endswith(b" - 0\n") and rest[: int(length)].startswith(b"<30>1 ")


def test_gelf_over_udp_and_tcp(ground: Ground) -> None:
    datagrams, stream = DatagramReceiver(), StreamReceiver()

    async def main() -> None:
        udp = {"gelf-address": f"udp://127.0.0.1:{datagrams.port}", "gelf-compression-type": "none"}
        ground.prepare("gelf", udp)
        ground.write("short", "", "y" * 3000)
        async with ground.shipping():
            await until(lambda: ground.spool.read_place())
        ground.prepare("gelf", {"gelf-address": f"tcp://127.0.0.1:{stream.port}"})
        ground.write("over tcp")
        async with ground.shipping():
            await until(lambda: stream.data.endswith(b"\0"))

    asyncio.run(main())
    first, *chunks = datagrams.take(4)
    assert json.loads(first)["short_message"] == "short"
    assert {chunk[:2] for chunk in chunks} == {b"\x1e\x0f"}
    assert json.loads(b"".join(chunk[12:] for chunk in chunks))["short_message"] == "y" * 3000
    assert json.loads(stream.data[:-1])["short_message"] == "over tcp"
    datagrams.stop()
    stream.stop()


def test_journald_and_what_is_too_big_for_a_datagram(ground: Ground, tmp_path: Path) -> None:
    receiver = DatagramReceiver(tmp_path / "socket")

    async def main() -> None:
        ground.prepare("journald", {})
        source = ground.spool.settings()
        assert source is not None
        source.extra["BIG"] = "z" * 300_000
        (ground.spool.directory / "settings.json").write_bytes(spool.msgspec.json.encode(source))
        ground.write("hello")
        async with ground.shipping(functools.partial(sinks.connect, journal=str(tmp_path / "socket"))):
            await until(lambda: ground.spool.read_place())

    asyncio.run(main())
    data, ancillary, _, _ = receiver.sock.recvmsg(1 << 16, 64)
    (fd,) = struct.unpack("i", ancillary[0][2])
    message = os.pread(fd, 1 << 20, 0)
    os.close(fd)
    receiver.stop()
    assert data == b"" and b"MESSAGE=hello\n" in message and b"BIG=" + b"z" * 300_000 + b"\n" in message


def test_a_unix_datagram_receiver_that_comes_late(ground: Ground, tmp_path: Path) -> None:
    path = tmp_path / "log"

    async def main() -> list[bytes]:
        ground.prepare("syslog", {"syslog-address": f"unixgram://{path}"})
        ground.write(*map(str, range(200)))
        async with ground.shipping():
            await until(lambda: ground.told)
            receiver = DatagramReceiver(path)
            found = await asyncio.to_thread(receiver.take, 200)
            receiver.stop()
            return found

    found = asyncio.run(main())
    assert complete(numbers([line.decode().strip() for line in found]), 200)


def test_udp_that_nobody_listens_to_is_tried_again(ground: Ground) -> None:
    receiver = DatagramReceiver()
    port = receiver.port
    receiver.stop()

    async def main() -> bool:
        ground.prepare("syslog", {"syslog-address": f"udp://127.0.0.1:{port}"})
        ground.write("a", "b", "c")
        async with ground.shipping():
            await until(lambda: ground.told)
        return ground.spool.read_place() is None

    assert asyncio.run(main())
    assert "refused" in ground.told[0].lower()


def test_what_was_rotated_away_is_told_and_the_rest_arrives(ground: Ground) -> None:
    receiver = StreamReceiver()

    async def main() -> None:
        ground.prepare("syslog", {"syslog-address": f"tcp://127.0.0.1:{receiver.port}"}, max_size=2000, max_file=3)
        ground.write("0")
        async with ground.shipping():
            await until(lambda: ground.spool.read_place())
        ground.write(*map(str, range(1, 300)))
        async with ground.shipping():
            await until(lambda: receiver.lines()[-1].endswith(" 299"))

    asyncio.run(main())
    receiver.stop()
    found = numbers(receiver.lines())
    assert found[0] == 0 and found[1:] == list(range(found[1], 300)) and found[1] > 1
    assert ["rotated away" in text for text in ground.told] == [True]


def test_a_removed_container_ends_when_all_has_arrived(ground: Ground) -> None:
    receiver = FluentdReceiver()

    async def main() -> None:
        ground.prepare("fluentd", {"fluentd-address": f"127.0.0.1:{receiver.port}"})
        receiver.stop()
        ground.write(*map(str, range(20)))
        async with ground.shipping() as task:
            await until(lambda: ground.told)
            assert ground.spool.remove()
            assert not task.done()
            receiver.start()
            await asyncio.wait_for(task, 20)

    asyncio.run(main())
    receiver.stop()
    assert [int(record["log"]) for _, record in receiver.entries] == list(range(20))


def test_what_waits_too_long_or_is_too_much_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "shipping"
    monkeypatch.setattr(spool, "KEPT_BYTES", 2500)
    for number, age in enumerate((10, 20, 30, spool.KEPT + 5)):
        one = Spool(root / f"{number}")
        one.prepare(Source(NAME, "n", "i", "s", "c", 0, "syslog", {}, "t"))
        (one.directory / "log").write_bytes(b"x" * 900)
        if number:
            assert one.remove()
            os.utime(one.directory / "removed", (time.time() - age,) * 2)
    assert not Spool(root / "none").remove()
    assert spool.sweep(root) == ["3"]
    monkeypatch.setattr(spool, "KEPT_BYTES", 1500)
    assert spool.sweep(root) == ["2"]
    assert {one.id for one in spool.spools(root)} == {"0", "1"}


def self_signed(directory: Path) -> Path:
    """A key and a certificate for localhost in one file."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    encoding = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(encoding)
    )
    return path
