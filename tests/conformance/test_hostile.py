"""Requests that no client of good will sends: each is answered as Docker would, or clearly refused; nothing of Python
is told, nothing is logged as a failure of the engine, nothing half made or open is left behind.

Found by fuzzing every endpoint of the API's description with wrong types, ends of ranges, nesting, bytes that are no
text, and by talking HTTP badly. What a container may do is in `test_security`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.support import steps
from tests.support.engines import Engine
from tests.support.leaks import settle
from tests.support.rawhttp import Connection

DEEP = "[" * 5000 + "]" * 5000
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def unharmed(engine: Engine) -> Iterator[None]:
    """The engine has nothing to complain of afterwards, and holds no more than before."""
    logged, held = engine.log_path.stat().st_size, descriptors(engine)
    yield
    with open(engine.log_path, "rb") as file:
        file.seek(logged)
        new = file.read().decode(errors="replace")
    assert "Traceback" not in new and "level=error" not in new, new
    assert not settle(lambda: [] if descriptors(engine) <= held + 2 else ["descriptors"])


def descriptors(engine: Engine) -> int:
    return len(os.listdir(f"/proc/{engine.pid}/fd"))


def test_text_that_is_no_text_is_kept_as_far_as_it_is_one(engine: Engine, api: Connection) -> None:
    """Docker reads JSON like this, and answers about it afterwards."""
    body = b'{"Image": "bb", "Cmd": ["true"], "Labels": {"a": "x\xffy", "b": "\\ud800"}}'
    identifier = steps.expect(api.request("POST", "/containers/create", raw=body, headers=JSON), 201).json()["Id"]
    assert steps.inspect(api, identifier)["Config"]["Labels"] == {"a": "x\ufffdy", "b": "\ufffd"}
    assert len(api.get("/containers/json", all=True).json()) == 1


BODIES: list[tuple[str, str, bytes]] = [
    ("POST", "/containers/create", f'{{"Image": {DEEP}}}'.encode()),
    ("POST", "/containers/create", f'{{"Nonsense": {DEEP}}}'.encode()),
    ("POST", "/volumes/create", ('{"Driver":' * 3000 + "1" + "}" * 3000).encode()),
    ("POST", "/volumes/create", b'{"Driver": "\\ud800"}'),
    ("POST", "/containers/create", b'{"Image": "bb", "HostConfig": {"Memory": 1e400}}'),
    ("POST", "/containers/create", b'{"Image": "bb", "HostConfig": {"Memory": NaN}}'),
    ("POST", "/containers/create", b'{"Image": "bb", "HostConfig": {"Memory": ' + b"9" * 5000 + b"}}"),
    ("POST", "/containers/create", b'{"Image": "' + b"a" * 10_000_000 + b'"}'),
    ("POST", "/auth", b'{"username": "u", "password": "p", "serveraddress": "sha256:zz"}'),
    ("POST", "/commit?container=nobody", b'{"Cmd": "\xff", "\xff": 1}'),
    ("POST", "/exec/nobody/start", f'{{"Detach": {DEEP}}}'.encode()),
]


@pytest.mark.usefixtures("unharmed")
@pytest.mark.dockyardd_only("20.10 answers some of these with 500")
@pytest.mark.parametrize(("method", "path", "body"), BODIES, ids=[f"{p}-{b[:24]!r}" for _, p, b in BODIES])
def test_bodies(api: Connection, method: str, path: str, body: bytes) -> None:
    answer = api.request(method, path, raw=body, headers=JSON)
    assert answer.status in (400, 404), answer
    assert answer.message and "rror:" not in answer.message.replace("API error:", "")
    assert api.get("/containers/json", all=True).json() == []


@pytest.mark.usefixtures("unharmed")
@pytest.mark.dockyardd_only("what Docker makes of these is not the same for all")
@pytest.mark.parametrize(
    "target",
    [
        f"/containers/json?filters={quote(DEEP)}",
        f"/images/json?filters={quote('{' + chr(34) + 'label' + chr(34) + ':' + DEEP + '}')}",
        "/containers/json?limit=%C2%B2",
        "/containers/%00/json",
        "/containers/%ff/json",
        "/images/..%2f..%2fetc/json",
        "/volumes/..%2f..%2f..",
        "/events?since=%C2%B2&until=1",
        f"/containers/{'a' * 100_000}/json",
        "/containers/x/logs?stdout=1&tail=-" + "9" * 5000,
        f"/build/prune?filters={quote(DEEP)}",
    ],
)
def test_targets(api: Connection, target: str) -> None:
    answer = api.request("POST" if "prune" in target else "GET", target)
    assert answer.status in (400, 404), answer
    assert json.loads(answer.body)["message"]


@pytest.mark.dockyardd_only("20.10 doubles it beyond the range")
def test_a_limit_at_the_end_of_its_range(api: Connection) -> None:
    identifier = steps.create(api, "true", host={"Memory": (1 << 63) - 1})
    assert steps.inspect(api, identifier)["HostConfig"]["MemorySwap"] == (1 << 63) - 1


@pytest.mark.parametrize(
    "settings",
    [
        {"HostConfig": {"BlkioDeviceReadBps": [{"Path": "/dev/\0", "Rate": 1}]}},
        {"HostConfig": {"Devices": [{"PathOnHost": "/dev/\0"}]}},
        {"HostConfig": {"Binds": ["/tmp:/x\0"]}},
        {"HostConfig": {"Tmpfs": {"/x\0": ""}}},
        {"Volumes": {"/x\0": {}}},
    ],
    ids=str,
)
def test_paths_with_nul(engine: Engine, api: Connection, settings: dict[str, Any]) -> None:
    answer = api.post("/containers/create", {"Image": "bb", "Cmd": ["true"], **settings})
    if answer.status == 201:
        answer = api.post(f"/containers/{answer.json()['Id']}/start")
    assert answer.status in ((400,) if engine.name == "dockyardd" else (400, 500)) and answer.message


CREATE = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
LOAD = b"POST /images/load HTTP/1.1\r\nHost: d\r\n"
CHUNKED = CREATE + b"Transfer-Encoding: chunked\r\n\r\n"
HTTP: dict[str, tuple[bytes, bytes]] = {
    "noise": (b"\0\xff" * 4000, b"400"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), b"400"),
    "a hundred thousand headers": (
        b"GET /_ping HTTP/1.1\r\nHost: d\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(100_000)) + b"\r\n", b"4",
    ),
    "an endless header": (b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: " + b"y" * 4_000_000, b"4"),
    "an endless target": (b"GET /" + b"y" * 4_000_000, b"4"),
    "a negative length": (CREATE + b"Content-Length: -1\r\n\r\n{}", b"400"),
    "a huge length": (CREATE + b"Content-Length: 99999999999999999999999\r\n\r\n{}", b"400"),
    "two lengths": (CREATE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", b"400"),
    "a length and chunks": (CREATE + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
    "no chunk": (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", b"400"),
    "a negative chunk": (CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n", b"400"),
    "a huge chunk": (CHUNKED + b"ffffffffffffffffffff\r\n{}", b"400"),
    "trailers without end": (CHUNKED + b"2\r\n{}\r\n0\r\n" + b"T: x\r\n" * 100_000, b"4"),
    "a body that is too long": (CREATE + b"Content-Length: 30000000\r\n\r\n" + b" " * 20_000_000, b"400"),
    "an upgrade to nothing": (
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: rubbish\r\n\r\n" + os.urandom(300_000),
        b"200",
    ),
    "a load of noise": (LOAD + b"Content-Length: 5000000\r\n\r\n" + b"\1" * 5_000_000, b"200"),
    "a load in no chunks": (LOAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"200"),
}  # fmt: skip


@pytest.mark.usefixtures("unharmed")
@pytest.mark.dockyardd_only("statuses of Go's server differ here and there")
@pytest.mark.parametrize("name", HTTP)
def test_what_is_no_http(engine: Engine, name: str) -> None:
    request, status = HTTP[name]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(engine.socket_path))
        try:
            sock.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it need not read to the end what it refuses
        answer = sock.recv(1 << 16)
    assert answer.split(b" ", 2)[1].startswith(status), answer[:200]
    assert b"Traceback" not in answer and b"File " not in answer
    assert engine.answers()


@pytest.mark.dockyardd_only("20.10 at times makes a container of whole JSON, whatever length was announced")
def test_bodies_that_are_cut_off_make_nothing(engine: Engine, api: Connection) -> None:
    image = b'{"Image": "bb", "Cmd": ["true"]}'
    requests = [
        CREATE + b"Content-Length: 1000\r\n\r\n" + image,
        CHUNKED + b"%x\r\n" % len(image) + image + b"\r\n",
        b"POST /build HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: 9999\r\n\r\n"
        + bytes(512),
        LOAD + b"Content-Length: 9999999\r\n\r\n" + bytes(512),
    ]
    for request in requests:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(engine.socket_path))
            sock.sendall(request)
    assert not settle(lambda: [row["Id"] for row in api.get("/containers/json", all=True).json()])


def test_an_answer_for_who_has_said_all(engine: Engine) -> None:
    """`printf 'GET …' | socat - UNIX-CONNECT:docker.sock`: the writing end is closed behind the request."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(engine.socket_path))
        sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while data := sock.recv(4096):
            got += data
    assert got.endswith(b"OK")
