"""Ports on IPv6 addresses: the relay, on the real kernel."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.runtime import network, relay
from tests.support import netns
from tests.support.netground import GATEWAY, Ground, Guest, ask_tcp, ask_udp, serve_tcp, serve_udp

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def relay_pid(directory: Path) -> int:
    """The process that listens on the relay's socket."""
    for _ in range(100):
        with relay.connect(str(directory)) as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid = int.from_bytes(credentials[:4], "little")
        comm = Path(f"/proc/{pid}/comm")
        if comm.exists() and comm.read_text() == "dockyard-relay\n":
            return pid
        time.sleep(0.02)
    raise AssertionError("no relay")


def start_as_worker(directory: str) -> bool:
    """`relay.start` in a child that ends, as workers do."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, b"1" if relay.start(directory=directory) else b"0")
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    ready, _, _ = select.select([read], [], [], 5)
    assert ready
    answer = os.read(read, 10)
    assert os.read(read, 10) == b"", "the relay keeps nothing of the worker's open"
    os.close(read)
    return answer == b"1"


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground()
    pid = 0
    try:
        ground.set_up()
        ground.relay = str(tmp_path)
        assert ground.on_host(start_as_worker, ground.relay)
        pid = relay_pid(tmp_path)
        yield ground
    finally:
        ground.close()
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def test_ports_on_ipv6_reach_the_container(ground: Ground) -> None:
    assert not ground.on_host(start_as_worker, ground.relay), "it runs already"
    one = ground.guest(
        ("tcp", "0.0.0.0", 8080, 80), ("tcp", "::", 8080, 80), ("udp", "::", 5353, 53), ("tcp", "::1", 8081, 80)
    )
    serve_tcp(one.namespace.path, 80, ground.keep)
    serve_udp(one.namespace.path, 53, ground.keep)
    assert ask_tcp(ground.host.path, "::1", 8080) == GATEWAY
    assert ask_tcp(ground.host.path, "::1", 8081) == GATEWAY
    assert ask_tcp(ground.host.path, "127.0.0.1", 8080) == GATEWAY
    for _ in range(3):
        assert ask_udp(ground.host.path, "::1", 5353) == GATEWAY


def test_large_streams_and_half_close(ground: Ground) -> None:
    one = ground.guest(("tcp", "::", 8080, 80))
    with netns.entered(one.namespace.path):
        listener = socket.create_server(("0.0.0.0", 80))
    ground.keep(listener)
    payload = os.urandom(1 << 20) * 8

    def echo_when_complete() -> None:
        connection, _ = listener.accept()
        with connection:
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
            connection.sendall(b"".join(parts))

    threading.Thread(target=echo_when_complete, daemon=True).start()
    with netns.entered(ground.host.path):
        client = socket.create_connection(("::1", 8080), timeout=20)
    with client:
        client.sendall(payload)
        client.shutdown(socket.SHUT_WR)
        back = b""
        while part := client.recv(1 << 20):
            back += part
    assert back == payload


def test_a_container_that_does_not_listen_ends_the_connection(ground: Ground) -> None:
    ground.guest(("tcp", "::", 8080, 80))
    with netns.entered(ground.host.path):
        client = socket.create_connection(("::1", 8080), timeout=5)
    with client:
        try:
            assert client.recv(10) == b""
        except ConnectionError:
            pass


def test_ports_end_with_their_holder_and_can_be_had_again_at_once(ground: Ground) -> None:
    for _ in range(5):
        one = ground.guest(("tcp", "::", 8080, 80), ("udp", "::", 8080, 80))
        with pytest.raises(network.PortUnavailable, match=r"\[::\]:8080:.*/tcp: address already in use"):
            other = Guest(ground, 99, (("tcp", "::", 8080, 80),))
            try:
                ground.on_host(network.bind_ports, other.plan)
            finally:
                other.namespace.close()
        one.stop()
    time.sleep(0.1)
    assert ask_tcp(ground.host.path, "::1", 8080) is None
    listening = ground.host.run("ss", "-Hltnu").stdout if os.path.exists("/usr/bin/ss") else ""
    assert ":8080" not in listening


def test_many_ports_of_one_container(ground: Ground) -> None:
    one = ground.guest(*(("tcp", "::", 9000 + number, 80) for number in range(100)))
    serve_tcp(one.namespace.path, 80, ground.keep)
    assert ask_tcp(ground.host.path, "::1", 9099) == GATEWAY


def test_without_a_relay_the_start_fails_by_name(ground: Ground, tmp_path: Path) -> None:
    ground.relay = str(tmp_path / "nowhere")
    os.mkdir(ground.relay)
    guest = Guest(ground, 9, (("tcp", "::", 8080, 80),))
    with pytest.raises(FileNotFoundError):
        ground.on_host(network.bind_ports, guest.plan)
    guest.namespace.close()


def test_s47_the_socket_is_private(ground: Ground, tmp_path: Path) -> None:
    assert os.stat(tmp_path / relay.SOCKET).st_mode & 0o777 == 0o600
    pid = os.fork()
    if pid == 0:
        os.chmod(tmp_path, 0o711)
        os.chmod(tmp_path / relay.SOCKET, 0o666)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.chdir(tmp_path)
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            connection.connect(relay.SOCKET)
            connection.settimeout(5)
            os._exit(0 if connection.recv(10) == b"" else 1)
        except BrokenPipeError:
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "another user's connection is closed"


def test_it_ends_when_nobody_is_left(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "brief"
    directory.mkdir()
    monkeypatch.setattr(relay, "_PATIENCE", 0.2)
    assert ground.on_host(start_as_worker, str(directory))
    held = relay.connect(str(directory))
    pid = relay_pid(directory)
    time.sleep(0.8)
    os.kill(pid, 0)
    held.close()
    end = time.monotonic() + 5
    while os.path.exists(directory / relay.SOCKET):
        assert time.monotonic() < end
        time.sleep(0.05)
