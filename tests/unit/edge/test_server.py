"""Versions, headers, errors, clients that go away."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dockyard.edge.listeners import listen, parse_address, refuse_open_tcp
from dockyard.edge.routing import Call, Route
from dockyard.model.errors import Conflict, InvalidArgument, NotModified


def message(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[2])["message"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("path", ["/_ping", "/v1.24/_ping", "/v1.50/_ping", "/v1.43/_ping"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping_tells_versions(server: Any, path: str, method: str) -> None:
    status, headers, body = server.request(f"{method} {path} HTTP/1.1")
    assert (status, body) == (200, b"OK" if method == "GET" else b"")
    assert headers["api-version"] == "1.50"
    assert headers["builder-version"] == "1"
    assert headers["docker-experimental"] == "false"
    assert headers["ostype"] == "linux"
    assert headers["server"].startswith("Dockyard/")


def test_versions_out_of_range(server: Any) -> None:
    assert message(server.request("GET /v1.60/version HTTP/1.1")) == (
        400, "client version 1.60 is too new. Maximum supported API version is 1.50",
    )  # fmt: skip
    assert message(server.request("GET /v1.12/version HTTP/1.1")) == (
        400, "client version 1.12 is too old. Minimum supported API version is 1.24, please upgrade your client to a "
        "newer version",
    )  # fmt: skip


@pytest.mark.parametrize("request_line", ["GET /nowhere", "PATCH /info", "GET /v1.50/nowhere", "GET /v1.50", "GET /"])
def test_unknown_paths(server: Any, request_line: str) -> None:
    assert message(server.request(f"{request_line} HTTP/1.1")) == (404, "page not found")


def test_what_is_not_served_names_itself(server: Any) -> None:
    assert message(server.request("POST /v1.50/plugins/pull HTTP/1.1")) == (
        501, "POST /plugins/pull is not served by this engine yet",
    )  # fmt: skip
    status, text = message(server.request("GET /v1.50/swarm HTTP/1.1"))
    assert status == 503 and text.startswith("This node is not a swarm manager. Use ")
    assert server.request("GET /v1.50/plugins HTTP/1.1")[2].strip() == b"[]"


def test_errors_have_a_status_and_no_traceback(start_server: Any) -> None:
    async def broken(call: Call) -> web.StreamResponse:
        raise RuntimeError("secret=1")

    async def same(call: Call) -> web.StreamResponse:
        raise NotModified("it is so")

    async def full(call: Call) -> web.StreamResponse:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data")

    async def reset(call: Call) -> web.StreamResponse:
        raise ConnectionResetError("not the client's connection")

    own = [("/broken", broken), ("/full", full), ("/reset", reset)]
    server = start_server(extra=[*(Route("GET", *each) for each in own), Route("POST", "/same", same)])
    assert message(server.request("GET /full HTTP/1.1")) == (500, "no space left on device: /data")
    assert message(server.request("GET /reset HTTP/1.1")) == (500, "internal error: ConnectionResetError")
    status, headers, body = server.request("GET /broken HTTP/1.1")
    assert (status, json.loads(body)) == (500, {"message": "internal error: RuntimeError"})
    assert headers["content-type"].startswith("application/json")
    assert server.request("POST /same HTTP/1.1")[0] == 304
    assert message(server.request("GET /containers/nope/json HTTP/1.1")) == (404, "No such container: nope")


def test_a_request_line_of_half_a_megabyte(server: Any) -> None:
    assert server.request(f"GET /_ping?x={'a' * (1 << 19)} HTTP/1.1")[0] == 200


def test_bodies(server: Any) -> None:
    def post(body: bytes, kind: str = "application/json") -> tuple[int, dict[str, str], bytes]:
        result: tuple[int, dict[str, str], bytes] = server.request(
            f"POST /containers/create HTTP/1.1\nContent-Type: {kind}", body
        )
        return result

    assert post(b'{"Image":"x","image":"y","HostConfig":{"MEMORY":7},"Unknown":1}')[0] == 201
    config, host, _ = server.containers.created[-1]
    assert (config.image, host.memory, type(config).__name__) == ("y", 7, "ContainerConfig")
    assert message(post(b"{}", "text/plain"))[0] == 400
    assert message(post(b"")) == (400, "invalid JSON: got EOF while reading request body")
    assert message(post(b'{"HostConfig":{"Memory":"x"}}')) == (
        400, "invalid JSON: field HostConfig.Memory: expected integer, got string",
    )  # fmt: skip
    assert len(server.containers.created) == 1


def test_a_long_body_that_is_read_slowly_comes_to_its_end(start_server: Any) -> None:
    """Its last bytes may arrive while reading is paused."""

    async def count(call: Call) -> web.StreamResponse:
        size = 0
        await asyncio.sleep(0.05)
        async for chunk in call.chunks():
            size += len(chunk)
        return call.json(size)

    server = start_server(extra=[Route("PUT", "/count", count)])
    for size in range(500_000, 1_100_000, 50_000):
        assert json.loads(server.request("PUT /count HTTP/1.1", bytes(size))[2]) == size


def test_s48_chunked_body_is_read_whole(server: Any) -> None:
    with server.connect() as sock:
        sock.sendall(
            b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b'Transfer-Encoding: chunked\r\n\r\n9\r\n{"Image":\r\n5\r\n"abc"\r\n1\r\n}\r\n0\r\n\r\n'
        )
        assert b" 201 " in sock.recv(4096)
    assert server.containers.created[-1][0].image == "abc"


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (b"Content-Length: 0", b'{"Image": "smuggled"}', b" 400 "),  # what follows is no body, but another request
        (b"Content-Length: 20000000", b'{"Image": "large", "x": "' + bytes(17 << 20), b" 400 "),
        (b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 17",
         b'{"Image": "once"}', b" 201 "),
    ],
)  # fmt: skip
def test_s48_a_body_is_what_its_head_says(server: Any, head: bytes, body: bytes, status: bytes) -> None:
    before = len(server.containers.created)
    with server.connect() as sock:
        request = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + head
        try:
            sock.sendall(request + b"\r\n\r\n" + body)
        except OSError:
            pass  # it need not read to the end what it refuses
        assert status in sock.recv(4096)
    made = [config.image for config, *_ in server.containers.created[before:]]
    assert made == (["once"] if status == b" 201 " else [])


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 100000\r\n\r\n",
        b"POST /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"secret=1\r\n\r\n",
    ],
)
def test_s50_what_is_no_http_gets_400_and_is_not_logged(
    server: Any, caplog: pytest.LogCaptureFixture, request_bytes: bytes
) -> None:
    with server.connect() as sock:
        sock.sendall(request_bytes)
        answer = sock.recv(4096)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert answer.endswith(b'{"message":"malformed HTTP request"}\n')
    assert caplog.text == ""


def test_expect_continue(server: Any) -> None:
    with server.connect() as sock:
        sock.sendall(
            b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"{}")
        assert b" 201 " in sock.recv(4096)


@pytest.mark.parametrize(
    ("request_bytes", "answers"),
    [
        (b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n", 1),
        (b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + b"GET /_ping HTTP/1.0\r\n\r\n", 4),
        (
            b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2\r\n\r\n{}",
            1,
        ),
        (b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{}", 0),  # its body is cut off
        (b"GET /_ping HTTP/1.1\r\nHost", 0),
    ],
    ids=["get", "several", "post", "cut body", "cut head"],
)
def test_a_client_that_has_said_all_gets_its_answer(server: Any, request_bytes: bytes, answers: int) -> None:
    """As socat and nc ask: they close their writing end behind the request."""
    with server.connect() as sock:
        sock.settimeout(5)
        sock.sendall(request_bytes)
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while data := sock.recv(4096):
            got += data
    assert got.count(b"HTTP/1.") == answers


def test_s51_a_client_that_has_said_all_and_then_vanishes_leaves_nothing(server: Any) -> None:
    before = server.tasks()
    socks = [server.connect() for _ in range(20)]
    for sock in socks:
        sock.sendall(b"GET /containers/web/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(4096)
    assert server.logs.closed == 0
    for sock in socks:
        sock.close()
    wait_for(lambda: server.logs.closed == 20 and server.tasks() == before)


def test_s51_log_readers_that_vanish_leave_nothing(server: Any) -> None:
    before = server.tasks()
    socks = [server.connect() for _ in range(50)]
    for sock in socks:
        sock.sendall(b"GET /containers/web/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(4096)
    for sock in socks:
        sock.close()
    wait_for(lambda: server.logs.closed == 50 and server.tasks() == before)


def test_s51_event_readers_that_vanish_leave_nothing(server: Any) -> None:
    sock = server.connect()
    sock.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200 OK" in sock.recv(4096)
    assert server.events.subscribers == 1
    server.loop.call_soon_threadsafe(server.events.publish, "container", "start", "c" * 64, {"image": "busybox"})
    event = json.loads(sock.recv(4096).split(b"\r\n")[1])
    assert (event["Type"], event["Action"], event["from"]) == ("container", "start", "busybox")
    sock.close()
    wait_for(lambda: server.events.subscribers == 0)


def test_what_was_asked_is_done_though_the_client_has_gone(server: Any) -> None:
    sock = server.connect()
    sock.sendall(b"POST /containers/web/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    time.sleep(0.1)
    sock.close()
    assert server.containers.stopped.wait(5)


def test_wait_answers_its_head_at_once_and_ends_with_its_client(server: Any) -> None:
    sock = server.connect()
    sock.sendall(b"POST /containers/web/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert b" 200 OK" in sock.recv(4096)
    sock.close()
    wait_for(lambda: server.containers.waits[0].cancelled())


def test_s49_browsers_are_refused_on_tcp(start_server: Any) -> None:
    server = start_server(host="tcp://127.0.0.1:0")

    def ping(*headers: str) -> int:
        with server.connect() as sock:
            sock.sendall("\r\n".join(["GET /_ping HTTP/1.1", *headers, "Connection: close", "", ""]).encode())
            return int(sock.recv(4096).split()[1])

    assert ping("Host: 127.0.0.1:2375") == 200
    assert ping("Host: localhost") == 200
    assert ping("Host: [::1]:2375") == 200
    assert ping("Host: evil.example:2375") == 403
    assert ping("Host: localhost", "Origin: http://evil.example") == 403
    assert ping("Host: localhost", "Sec-Fetch-Site: cross-site") == 403


def test_s49_a_websocket_library_names_the_host_that_it_asks(start_server: Any) -> None:
    server = start_server(host="tcp://127.0.0.1:0")

    def attach(*headers: str) -> int:
        head = ["GET /containers/nosuch/attach/ws HTTP/1.1", *headers, "Connection: Upgrade", "Upgrade: websocket"]
        with server.connect() as sock:
            sock.sendall("\r\n".join([*head, "", ""]).encode())
            return int(sock.recv(4096).split()[1])

    assert attach("Host: localhost:2375", "Origin: http://localhost:2375") == 404
    assert attach("Host: localhost:2375", "Origin: http://evil.example") == 403
    assert attach("Host: evil.example:2375", "Origin: http://evil.example:2375") == 403  # a name that was bound anew
    own = ("Host: localhost:2375", "Origin: http://localhost:2375")
    assert attach(*own, "Sec-Fetch-Mode: websocket") == 403


def test_s46_tcp_without_tls_is_refused_unless_forced() -> None:
    addresses = [parse_address("tcp://0.0.0.0:2375", "", tls=False)]
    with pytest.raises(InvalidArgument, match=r"refusing to listen on tcp://0\.0\.0\.0:2375"):
        refuse_open_tcp(addresses, client_verified=False, forced=False)
    refuse_open_tcp(addresses, client_verified=False, forced=True)
    refuse_open_tcp([parse_address("unix:///x", "", tls=False)], client_verified=False, forced=False)


def test_s46_unix_socket_is_for_its_group_only(server: Any) -> None:
    path = server.listeners[0].socket.getsockname()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660


def test_a_stale_socket_is_replaced_and_a_served_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 120) / "s.sock"  # longer than a socket's path can be
    address = parse_address(f"unix://{path}", "", tls=False)
    path.parent.mkdir()
    first = listen(address, "", {})
    with pytest.raises(Conflict, match="another process serves it"):
        listen(address, "", {})
    first[0].socket.close()  # as a kill leaves it
    second = listen(address, "", {})
    second[0].close()
    assert not path.exists()
    path.write_text("not a socket")
    with pytest.raises(Conflict, match="not a socket"):
        listen(address, "", {})


@pytest.mark.parametrize("text", ["/run/x", "http://x", "tcp://x:99999", "tcp://x:y", "npipe://x"])
def test_hosts_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="unable to parse host"):
        parse_address(text, "", tls=False)


def test_socket_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="no sockets found via socket activation"):
        listen(parse_address("fd://", "", tls=False), "", {"LISTEN_PID": "1", "LISTEN_FDS": "1"})
    given = socket.socket(socket.AF_UNIX)
    monkeypatch.setattr("dockyard.edge.listeners._FIRST_PASSED", given.fileno())
    passed = listen(parse_address("fd://", "", tls=False), "", {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
    assert [listener.socket.fileno() for listener in passed] == [given.detach()]
    passed[0].close()
