"""The gate between TLS and a plain socket: halves that end, clients that stay silent, vanish, send too much."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from dockyard.edge import tls
from dockyard.edge.tls import TlsFiles, TlsGate, server_context
from dockyard.model.errors import InvalidArgument
from tests.support import certificates

Inside = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.authority_in(tmp_path_factory.mktemp("tls"))


class Ground:
    """A listening gate with `inside` behind it, and a raw connection to it."""

    def __init__(self, port: int, gates: set[TlsGate], authority: Path) -> None:
        self.port, self.gates = port, gates
        self.context = ssl.create_default_context(cafile=str(authority / "ca.crt"))
        self.context.load_cert_chain(authority / "client.cert", authority / "client.key")

    async def gone(self) -> None:
        """Until no connection is left."""
        async with asyncio.timeout(10):
            while self.gates:
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def listening(authority: Path, inside: Inside) -> AsyncIterator[Ground]:
    files = TlsFiles(str(authority / "server.cert"), str(authority / "server.key"), str(authority / "ca.crt"))
    context, gates, running = server_context(files), set[TlsGate](), set[asyncio.Task[None]]()

    async def serve(sock: socket.socket) -> None:
        async def work() -> None:
            reader, writer = await asyncio.open_unix_connection(sock=sock)
            with contextlib.suppress(ConnectionError):
                await inside(reader, writer)
            writer.close()

        task = asyncio.create_task(work())
        running.add(task)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: TlsGate(context, serve, gates), "127.0.0.1", 0)
    try:
        yield Ground(server.sockets[0].getsockname()[1], gates, authority)
    finally:
        server.close()
        for gate in list(gates):
            gate.abort()
        for task in running:
            task.cancel()


async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What a container does with its standard input: it speaks when that has ended."""
    data = await reader.read()
    writer.write(b"%d bytes" % len(data))
    await writer.drain()


def connected(ground: Ground) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", ground.port), timeout=10)
    return ground.context.wrap_socket(raw, server_hostname="127.0.0.1")


def half_closed(ground: Ground, data: bytes) -> bytes:
    """Send, say close_notify, read the answer, as Go's `CloseWrite` does."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ground.context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", ground.port), timeout=10) as sock:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        client.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.unwrap()
        sock.sendall(outgoing.read())
        received = b""
        while chunk := sock.recv(65536):
            incoming.write(chunk)
        with contextlib.suppress(ssl.SSLError):
            while part := client.read(65536):
                received += part
        return received


def test_the_end_of_one_half_is_not_the_end_of_the_other(authority: Path) -> None:
    async def work() -> None:
        async with listening(authority, answer_at_the_end) as ground:
            # OpenSSL drops what comes after its own close_notify, so that the answer is counted in records here.
            with contextlib.closing(await asyncio.to_thread(connected, ground)) as client:
                await asyncio.to_thread(client.sendall, b"x" * 100_000)
                client.setblocking(True)
                socket.socket.shutdown(client, socket.SHUT_WR)
                assert await asyncio.to_thread(client.recv, 100) == b"100000 bytes"
                assert await asyncio.to_thread(client.recv, 100) == b""
            await ground.gone()

    asyncio.run(work())


def test_close_notify_ends_what_the_inside_reads(authority: Path) -> None:
    seen: list[int] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(len(await reader.read()))

    async def work() -> None:
        async with listening(authority, count) as ground:
            await asyncio.to_thread(half_closed, ground, b"x" * 50_000)
            await ground.gone()

    asyncio.run(work())
    assert seen == [50_000]


def test_an_early_answer_reaches_a_client_that_sends_on(authority: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(10)
        writer.write(b"no")
        writer.write_eof()
        await asyncio.sleep(0.05)

    def send_much(ground: Ground) -> bytes:
        with contextlib.closing(connected(ground)) as client:
            client.sendall(b"x" * (8 << 20))
            return client.recv(100)

    async def work() -> None:
        async with listening(authority, refuse) as ground:
            assert await asyncio.to_thread(send_much, ground) == b"no"
            await ground.gone()

    asyncio.run(work())


def test_who_vanishes_is_noticed_inside(authority: Path) -> None:
    async def work() -> None:
        ended = asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                await reader.read()
            ended.set()

        async with listening(authority, wait) as ground:
            client = await asyncio.to_thread(connected, ground)
            client.close()
            await asyncio.wait_for(ended.wait(), 10)
            await ground.gone()

    asyncio.run(work())


def test_who_does_not_shake_hands_is_dropped(authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.1)
    monkeypatch.setattr(tls, "LINGER_SECONDS", 0.1)

    async def work() -> None:
        async with listening(authority, answer_at_the_end) as ground:
            for first in (b"", b"\x16\x03\x01", b"\x00\x01", b"GET / HTTP/1.1\r\n\r\n"):
                with socket.create_connection(("127.0.0.1", ground.port), timeout=10) as client:
                    client.sendall(first)
                    with contextlib.suppress(ConnectionResetError):
                        said = await asyncio.to_thread(client.recv, 1000)
                        assert (b"HTTP request to an HTTPS server" in said) == first.startswith(b"GET"), said
                await ground.gone()

    asyncio.run(work())


@pytest.mark.parametrize("wrong", ["cert", "key", "ca"])
def test_a_bad_file_is_named(authority: Path, tmp_path: Path, wrong: str) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing\n")
    files = {
        "cert": str(authority / "server.cert"),
        "key": str(authority / "server.key"),
        "ca": str(authority / "ca.crt"),
    }
    for path in (bad, tmp_path / "absent"):
        with pytest.raises(InvalidArgument, match=path.name):
            server_context(TlsFiles(**{**files, wrong: str(path)}))
