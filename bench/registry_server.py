"""`python -m bench.registry_server`: our registry beside Debian's docker-registry, on files, over loopback.

16 clients at a time pull the same blobs, or push blobs of their own; the two take turns, so that what else the machine
does falls on both. The clients are processes of their own, the same for both. `--quick` does less.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from bench.report import Row, table, write_json

CLIENTS = 16
BLOB = 16_000_000  # bytes
OURS, PEER = "dockyardd", "dockerd"  # the report's names of us and them


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ours(folder: Path) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "dockyard.edge.registry", "serve", "--root", str(folder), "--listen", address]
    with served([*command, "--log-level", "warning"], address):
        yield address


@contextmanager
def peer(folder: Path) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    folder.mkdir()
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    with served(["docker-registry", "serve", str(config)], address):
        yield address


@contextmanager
def served(command: list[str], address: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        host, port = address.split(":")
        for _ in range(200):
            try:
                socket.create_connection((host, int(port))).close()
                break
            except OSError:
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def push(address: str, repository: str, content: bytes) -> str:
    """As docker does it: POST, PATCH, PUT. Returns the digest."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    connection = HTTPConnection(address, timeout=120)
    location = _answer(connection, "POST", f"/v2/{repository}/blobs/uploads/", None, 202)
    location = _answer(connection, "PATCH", location, content, 202)
    _answer(connection, "PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", None, 201)
    connection.close()
    return digest


def _answer(connection: HTTPConnection, method: str, path: str, body: bytes | None, status: int) -> str:
    connection.request(method, path, body, {"Content-Type": "application/octet-stream"} if body else {})
    answer = connection.getresponse()
    answer.read()
    if answer.status != status:
        raise AssertionError(f"{method} {path}: {answer.status}")
    where = answer.headers["Location"]
    return where[where.index("/v2/") :]


def pull(address: str, repository: str, digest: str, times: int) -> int:
    """Reads a blob `times` times and throws it away; returns the bytes. recv(2) only: the client is not under test."""
    host, port = address.split(":")
    buffer, total = bytearray(1 << 20), 0
    with socket.create_connection((host, int(port))) as sock:
        for _ in range(times):
            sock.sendall(f"GET /v2/{repository}/blobs/{digest} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
            got, head = 0, -1
            while head < 0 or got < head + BLOB:
                count = sock.recv_into(buffer)
                if not count:
                    raise AssertionError("the registry closed the connection")
                if head < 0:
                    head = buffer.index(b"\r\n\r\n") + 4
                got += count
            total += got - head
    return total


def _push_one(address: str, number: int, turn: int) -> int:
    content = (f"{number} {turn} {address} ".encode() + os.urandom(64)) * (BLOB // 64)
    push(address, f"bench/r{number}", content[:BLOB])
    return BLOB


def measure(addresses: dict[str, str], turns: int, times: int) -> list[Row]:
    """Megabytes a second become seconds for 1 GB, so that less is better, as in every other row."""
    pulls = Row(f"registry: {CLIENTS} clients pull blobs, time for 1 GB", "s", goal=1.0)
    pushes = Row(f"registry: {CLIENTS} clients push blobs, time for 1 GB", "s", goal=0.5)
    content = os.urandom(BLOB)
    with ProcessPoolExecutor(CLIENTS) as pool:
        digests = {name: push(address, "bench/shared", content) for name, address in addresses.items()}
        for turn in range(turns + 1):
            for name, address in addresses.items():
                for row, work in (
                    (pulls, [(pull, address, "bench/shared", digests[name], times)] * CLIENTS),
                    (pushes, [(_push_one, address, number, turn) for number in range(CLIENTS)]),
                ):
                    begun = time.perf_counter()
                    total = sum(job.result() for job in [pool.submit(*each) for each in work])  # type: ignore[arg-type]
                    seconds = time.perf_counter() - begun
                    if turn:  # the first one warms
                        row.add(name, seconds / total * 1e9)
    return [pulls, pushes]


def measured(*, quick: bool) -> list[Row]:
    """Both registries, started and ended here."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-registry-")))
        addresses = {OURS: stack.enter_context(ours(folder / "ours"))}
        if shutil.which("docker-registry"):
            addresses[PEER] = stack.enter_context(peer(folder / "peer"))
        else:
            print("bench: without docker-registry: it is not installed")
        return measure(addresses, *((2, 2) if quick else (6, 6)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.registry_server", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=Path(".cache/bench-registry-server.json"))
    options = parser.parse_args()
    rows = measured(quick=options.quick)
    print(f"\nours, and docker-registry in the columns of dockerd; medians\n\n{table(rows)}\n")
    write_json(rows, options.json, {})
    return 0


if __name__ == "__main__":
    sys.exit(main())
