"""Attach over a websocket: output, input, parameters, detach keys, clients that vanish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

Socket = aiohttp.ClientWebSocketResponse


def attached(engine: Engine, identifier: str, body: Callable[[Socket], Awaitable[Any]], **query: Any) -> Any:
    """What `body` gives of a websocket that is attached to a container."""

    async def main() -> Any:
        connector = aiohttp.UnixConnector(str(engine.socket_path))
        async with aiohttp.ClientSession(connector=connector) as session:
            url = f"http://localhost/v1.41/containers/{identifier}/attach/ws"
            headers = {"Origin": "http://localhost"}  # what dockerd's library insists on
            async with session.ws_connect(url, params=query, headers=headers, autoping=True) as socket:
                return await asyncio.wait_for(body(socket), 30)

    return asyncio.run(main())


async def read_all(socket: Socket) -> bytes:
    out = b""
    async for message in socket:
        if message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
            break
        out += message.data if isinstance(message.data, bytes) else message.data.encode()
    return out


async def until(socket: Socket, text: bytes) -> bytes:
    out = b""
    while text not in out:
        message = await socket.receive(20)
        assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
        out += message.data if isinstance(message.data, bytes) else message.data.encode()
    return out


def test_input_and_output(engine: Engine, api: Connection) -> None:
    """Bytes as they are: no frames; stdout and stderr together."""
    script = "while read line; do [ $line = end ] && exit 0; echo out-$line; echo err-$line >&2; done"
    identifier = steps.started(api, "sh", "-c", script, OpenStdin=True)

    async def talk(socket: Socket) -> bytes:
        await socket.send_bytes(b"one\n")
        seen = await until(socket, b"err-one\n")
        await socket.send_str("end\n")
        return seen + await read_all(socket)

    seen = attached(engine, identifier, talk, stdin=1, stdout=1, stderr=1, stream=1)
    assert sorted(seen.split()) == [b"err-one", b"out-one"]
    assert steps.wait(api, identifier) == 0


def test_what_was_written_before_comes_first(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "sh", "-c", "echo early; read x; echo late", OpenStdin=True)
    steps.eventually(lambda: steps.logs(api, identifier)[0] == "early\n")

    async def talk(socket: Socket) -> bytes:
        seen = await until(socket, b"early\n")
        await socket.send_bytes(b"\n")
        return seen + await read_all(socket)

    assert attached(engine, identifier, talk, stdin=1, stdout=1, logs=1, stream=1) == b"early\nlate\n"
    assert attached(engine, identifier, read_all, stdout=1, logs=1) == b"early\nlate\n"


def test_detach_keys(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "cat", Tty=True, OpenStdin=True)

    async def leave(socket: Socket) -> None:
        await socket.send_bytes(b"x")
        await until(socket, b"x")
        await socket.send_bytes(b"\x01")
        await read_all(socket)

    since = time.time()
    attached(engine, identifier, leave, stdin=1, stdout=1, stream=1, detachKeys="ctrl-a")
    assert steps.inspect(api, identifier)["State"]["Running"]
    told = [e["Action"] for e in api.get("/events", since=f"{since:.6f}", until=f"{time.time() + 0.2:.6f}").lines()]
    assert told == ["attach", "detach"]


def test_a_client_that_leaves_does_not_end_the_container(engine: Engine, api: Connection) -> None:
    identifier = steps.started(api, "cat", OpenStdin=True)

    async def nothing(socket: Socket) -> None:
        await socket.close()

    attached(engine, identifier, nothing, stdin=1, stdout=1, stream=1)
    time.sleep(0.2)
    assert steps.inspect(api, identifier)["State"]["Running"]


def test_errors(engine: Engine, api: Connection) -> None:
    answer = api.get("/containers/nosuch/attach/ws")
    assert answer.status == 404 and "No such container: nosuch" in answer.message
    identifier = steps.sleeper(api)
    assert api.get(f"/containers/{identifier}/attach/ws", detachKeys="ctrl-").status == 400


@pytest.mark.dockyardd_only("20.10 answers in plain text")
def test_a_request_that_is_no_handshake(engine: Engine, api: Connection) -> None:
    identifier = steps.sleeper(api)
    answer = steps.expect(api.get(f"/containers/{identifier}/attach/ws", stdout=1, stream=1), 400)
    assert "websocket" in answer.message
