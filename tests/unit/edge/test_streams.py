"""Hijacked connections: heads, both directions, half-close, detach keys, clients that vanish."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from dockyard.proto.frames import frame
from dockyard.runtime.link import StartFailed

UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"


def attach(server: Any, query: str = "stream=1&stdin=1&stdout=1", *, head: str = UPGRADE, extra: bytes = b"") -> Any:
    """An attached client: (its socket, the head of the answer, the program's end)."""
    sock = server.connect()
    path = f"/v1.50/containers/web/attach?{query}"
    sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{head}\r\n".encode() + extra)
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = sock.recv(1)
        assert piece, answer
        answer += piece
    return sock, answer.decode(), server.containers.programs[-1] if server.containers.programs else None


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_heads(start_server: Any) -> None:
    plain = start_server()
    _, head, _ = attach(plain)
    assert head.startswith("HTTP/1.1 101 UPGRADED\r\n")
    assert "Content-Type: application/vnd.docker.multiplexed-stream\r\n" in head
    assert "Connection: Upgrade\r\nUpgrade: tcp\r\n" in head
    _, head, _ = attach(plain, head="")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert "Content-Type: application/vnd.docker.raw-stream\r\n" in head


def test_output_does_not_arrive_together_with_the_head(server: Any) -> None:
    """docker-py loses what it reads along with the head."""
    sock = server.connect()
    head = f"POST /containers/web/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n"
    sock.sendall(head.encode())
    wait_for(lambda: bool(server.containers.programs))
    server.containers.programs[0].sendall(b"quick")
    server.containers.programs[0].close()
    time.sleep(0.3)
    assert sock.recv(4096).endswith(b"\r\n\r\n")
    assert sock.recv(4096) == b"quick"
    assert sock.recv(4096) == b""


def test_both_directions_and_half_close(server: Any) -> None:
    client, _, program = attach(server, extra=b"early ")
    client.sendall(b"input")
    client.shutdown(socket.SHUT_WR)
    received = b""
    while piece := program.recv(100):
        received += piece
    assert received == b"early input"
    program.sendall(b"output after the end of input")
    program.close()
    assert client.recv(100) == b"output after the end of input"
    assert client.recv(100) == b""


def test_end_of_output_reaches_a_client_that_still_types(server: Any) -> None:
    client, _, program = attach(server)
    program.sendall(b"bye")
    program.close()
    assert client.recv(100) == b"bye"
    assert client.recv(100) == b""
    client.sendall(b"too late")
    client.close()
    wait_for(lambda: server.tasks() == 0)


def test_back_pressure_and_every_byte(server: Any) -> None:
    client, _, program = attach(server)
    program.setblocking(False)
    sent = 0
    piece = os.urandom(65536)
    stalled = time.monotonic()
    while time.monotonic() - stalled < 0.3:  # until nothing moves: the client does not read
        try:
            sent += program.send(piece)
            stalled = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
    assert sent < 8 << 20
    program.close()
    received = 0
    while data := client.recv(1 << 20):
        received += len(data)
    assert received == sent


def test_input_that_was_not_asked_for_is_dropped(server: Any) -> None:
    client, _, program = attach(server, "stream=1&stdout=1")
    client.sendall(b"nobody wants this")
    program.settimeout(0.2)
    with pytest.raises(TimeoutError):
        program.recv(10)
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(TimeoutError):
        program.recv(10)
    program.sendall(b"still here")
    assert client.recv(100) == b"still here"


@pytest.mark.parametrize(("query", "keys"), [("", b"\x10\x11"), ("&detachKeys=a,b,c", b"abc")])
def test_detach_keys_of_a_terminal(start_server: Any, query: str, keys: bytes) -> None:
    server = start_server(tty=True)
    client, head, program = attach(server, "stream=1&stdin=1&stdout=1" + query)
    assert "vnd.docker.raw-stream" in head
    client.sendall(b"x" + keys[:1])
    assert program.recv(10) == b"x"
    client.sendall(keys[1:])
    assert client.recv(10) == b""
    wait_for(lambda: server.containers.left == 1)


def test_detach_keys_mean_nothing_without_a_terminal(server: Any) -> None:
    client, _, program = attach(server)
    client.sendall(b"\x10\x11")
    assert program.recv(10) == b"\x10\x11"


def test_invalid_detach_keys(server: Any) -> None:
    status, _, body = server.request("POST /containers/web/attach?stream=1&detachKeys=ctrl-1 HTTP/1.1\nUpgrade: tcp")
    assert status == 400 and b"Invalid detach keys (ctrl-1) provided" in body


def test_s51_clients_that_vanish_leave_no_task_and_no_descriptor(server: Any) -> None:
    before = open_files()
    for half in (False, True):
        for _ in range(30):
            client, _, program = attach(server)
            if half:
                client.shutdown(socket.SHUT_WR)
                assert program.recv(1) == b""
            client.close()
            program.close() if not half else None
    for program in server.containers.programs:
        if program.fileno() >= 0:
            assert program.recv(1) == b""  # the relay has closed its end
            program.close()
    server.containers.programs.clear()
    wait_for(lambda: server.tasks() == 0 and open_files() <= before)


def test_logs_come_before_the_stream(start_server: Any) -> None:
    server = start_server(tty=True)
    client, _, program = attach(server, "logs=1&stream=1&stdout=1")
    program.sendall(b"live")
    program.close()
    received = b""
    while piece := client.recv(100):
        received += piece
    assert received == b"hello\nlive"
    client, _, _ = attach(server, "logs=1&stdout=1")
    assert client.recv(100) == b"hello\n"
    assert client.recv(100) == b""


@pytest.mark.parametrize("cut", [20, 300, -12, -8, -6, -5, -2])
def test_what_a_client_sends_early_is_not_lost(server: Any, cut: int) -> None:
    body = b'{"Tty":false}'
    head = f"POST /exec/{'e' * 64}/start HTTP/1.1\r\nHost: x\r\nX-Long: {'y' * 99}\r\n"
    head += "Content-Type: application/json\r\n"
    request = head.encode() + f"Content-Length: {len(body)}\r\n{UPGRADE}\r\n".encode() + body + b"early"
    with server.connect() as sock:
        sock.sendall(request[:cut])
        time.sleep(0.05)
        sock.sendall(request[cut:])
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 UPGRADED\r\n")
        received = b""
        while len(received) < 5:
            received += server.containers.programs[-1].recv(100)
        assert received == b"early"


def start_exec(server: Any, body: bytes, head: str = UPGRADE) -> socket.socket:
    sock: socket.socket = server.connect()
    sock.sendall(
        f"POST /exec/{'e' * 64}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{head}\r\n".encode()
        + body
    )
    return sock


def test_exec_with_a_body_before_the_upgrade(server: Any) -> None:
    sock = start_exec(server, b'{"Detach":false,"Tty":false}')
    assert sock.recv(4096).startswith(b"HTTP/1.1 101 UPGRADED\r\n")
    program = server.containers.programs[-1]
    sock.sendall(b"to the program")
    assert program.recv(100) == b"to the program"


def test_exec_ends_with_its_process_not_before(server: Any) -> None:
    class Handle:
        exit: Any = None

    async def make() -> None:
        Handle.exit = server.loop.create_future()

    server.call(make())
    server.execs.process.handle = Handle
    sock = start_exec(server, b"{}")
    assert sock.recv(4096).startswith(b"HTTP/1.1 101 UPGRADED\r\n")
    server.containers.programs[-1].close()
    sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    server.loop.call_soon_threadsafe(Handle.exit.set_result, {"code": 3})
    sock.settimeout(5)
    assert sock.recv(1) == b""


def test_exec_that_cannot_start_says_so_in_the_stream(server: Any) -> None:
    server.execs.error = StartFailed("OCI runtime exec failed: no such file", 127)
    sock = start_exec(server, b"{}")
    answer = b""
    while piece := sock.recv(4096):
        answer += piece
    assert answer.endswith(b"\r\n\r\n" + frame(1, b"OCI runtime exec failed: no such file\r\n"))


def test_a_server_that_ends_takes_its_streams_with_it(start_server: Any) -> None:
    server = start_server()
    client, _, program = attach(server)
    server.call(server.server.close(0.5))
    assert client.recv(10) == b""
    assert program.recv(10) == b""
