"""Bodies of archives as clients send them: in one length, in chunks of any size, announced, broken off, refused."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import busybox, steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

TAR = busybox.layer_tar({"noise": os.urandom(3 << 20), "text": b"t" * 10_000})
ARCHIVE = busybox.docker_archive(["body:1"], [TAR], {"Cmd": ["x"]})
LOAD = "/images/load"
IMPORT = "/images/create?fromSrc=-&repo=body&tag=1"


def pieces(data: bytes) -> Iterator[bytes]:
    """Of many sizes, those of an HTTP client among them."""
    at = 0
    for size in (1, 2, 511, 32768, 7, 100_000, 4096):
        yield data[at : at + size]
        at += size
    while at < len(data):
        yield data[at : at + 32768]
        at += 32768


def dial(engine: Engine) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(str(engine.socket_path))
    return sock


def answer(sock: socket.socket) -> tuple[int, bytes]:
    """Status and everything behind the head, until the engine closes or has sent the last chunk."""
    data = b""
    while not (data.endswith(b"0\r\n\r\n") or _is_whole(data)):
        part = sock.recv(65536)
        if not part:
            break
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def _is_whole(data: bytes) -> bool:
    head, mark, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if mark and line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return False


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: docker", "Content-Type: application/x-tar", *lines, "", ""]
    ).encode()


@pytest.fixture
def forget(api: Connection) -> Iterator[None]:
    yield
    api.request("DELETE", "/images/body:1", query={"force": True})


@pytest.mark.parametrize("path", [LOAD, IMPORT], ids=["load", "import"])
def test_chunks_of_any_size(engine: Engine, api: Connection, path: str, forget: None) -> None:
    with dial(engine) as sock:
        sock.sendall(head(path, "Transfer-Encoding: chunked"))
        for piece in pieces(ARCHIVE if path == LOAD else TAR):
            sock.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        sock.sendall(b"0\r\n\r\n")
        status, body = answer(sock)
    assert status == 200 and b"errorDetail" not in body
    assert api.get("/images/body:1/json").json()["RootFS"]["Layers"] == [f"sha256:{busybox.sha256(TAR)}"]


@pytest.mark.parametrize("path", [LOAD, IMPORT], ids=["load", "import"])
def test_a_length_that_is_announced(engine: Engine, api: Connection, path: str, forget: None) -> None:
    data = ARCHIVE if path == LOAD else TAR
    with dial(engine) as sock:
        sock.sendall(head(path, f"Content-Length: {len(data)}", "Expect: 100-continue"))
        assert sock.recv(65536).startswith(b"HTTP/1.1 100")
        sock.sendall(data)
        status, body = answer(sock)
    assert status == 200 and b"errorDetail" not in body
    assert api.get("/images/body:1/json").json()["RootFS"]["Layers"] == [f"sha256:{busybox.sha256(TAR)}"]


@pytest.mark.parametrize("path", [LOAD, IMPORT], ids=["load", "import"])
def test_s30_a_client_that_goes_in_the_middle(engine: Engine, api: Connection, path: str) -> None:
    before = api.get("/images/json", all=True).json()
    for framing in ("Transfer-Encoding: chunked", f"Content-Length: {len(ARCHIVE)}"):
        with dial(engine) as sock:
            sock.sendall(head(path, framing))
            part = ARCHIVE[: 2 << 20]
            sock.sendall(b"%x\r\n%s" % (len(ARCHIVE), part) if "chunked" in framing else part)
        time.sleep(0.2)
        assert api.get("/images/json", all=True).json() == before


def test_s30_an_archive_that_is_refused_early_still_gets_its_answer(engine: Engine) -> None:
    """The client is not done sending when the engine knows already. dockerd leaves such a client with a broken pipe."""
    if engine.name == "dockerd":
        pytest.skip("the peer closes the connection")
    with engine.api(30) as api:
        response = api.request("POST", "/images/create", query={"fromSrc": "-", "repo": "bad"}, raw=os.urandom(8 << 20))
        assert response.status >= 400 or b"errorDetail" in response.body
        response = api.request("POST", LOAD, raw=os.urandom(8 << 20))
        assert response.status >= 400 or b"errorDetail" in response.body
        assert steps.expect(api.get("/_ping"), 200)


def test_bars_of_layers_and_none_if_quiet(engine: Engine, api: Connection, forget: None) -> None:
    def load(**query: Any) -> list[dict[str, Any]]:
        found = steps.expect(api.request("POST", LOAD, raw=ARCHIVE, query=query), 200).lines()
        steps.expect(api.delete("/images/body:1", force=True), 200)
        return list(found)

    told = load(quiet=False)
    bars = [line for line in told if line.get("status") == "Loading layer"]
    assert bars and bars[-1]["progressDetail"]["total"] >= len(TAR), told
    assert bars[-1]["id"] == busybox.sha256(TAR)[:12] and bars[-1]["progress"].startswith("[")
    assert told[-1] == {"stream": "Loaded image: body:1\n"}
    for quiet in ({}, {"quiet": True}):
        assert [line for line in load(**quiet) if "Loading layer" in json.dumps(line)] == []
