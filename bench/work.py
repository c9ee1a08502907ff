"""The pieces of work that are timed: each does one thing over the raw API and returns its seconds.

Owns: what one run is. Does not own: how often, in which order (`__main__`), what is made of the figures (`report`).
"""

from __future__ import annotations

import concurrent.futures
import io
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from typing import Any

from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

NO_NETWORK: dict[str, Any] = {"HostConfig": {"NetworkMode": "none"}}
BRIDGE: dict[str, Any] = {}
PORT: dict[str, Any] = {
    "ExposedPorts": {"80/tcp": {}},
    "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "18200"}]}},
}
IMPORT_FILES, IMPORT_BYTES = 6768, 204_000_000


def run(api: Connection, settings: dict[str, Any]) -> float:
    """create, start, wait, remove of a container that runs `true`."""
    body = {"Image": steps.IMAGE, "Cmd": ["true"], **settings}
    begun = time.perf_counter()
    identifier = steps.expect(api.post("/containers/create", body), 201).json()["Id"]
    steps.expect(api.post(f"/containers/{identifier}/start"), 204)
    answer = steps.expect(api.post(f"/containers/{identifier}/wait"), 200)
    steps.expect(api.delete(f"/containers/{identifier}"), 204)
    seconds = time.perf_counter() - begun
    if answer.json()["StatusCode"] != 0:
        raise AssertionError(f"the container ended with {answer.json()}")
    return seconds


def execute(api: Connection, open_stream: Callable[[], Connection], container: str) -> float:
    """exec create, start with its output read to the end, inspect: `echo`."""
    body = {"Cmd": ["echo", "hello"], "AttachStdout": True, "AttachStderr": True}
    begun = time.perf_counter()
    process = steps.expect(api.post(f"/containers/{container}/exec", body), 201).json()["Id"]
    with open_stream() as own, own.hijack(f"/exec/{process}/start", {"Detach": False}) as stream:
        printed = stream.read_all()
    code = api.get(f"/exec/{process}/json").json()["ExitCode"]
    seconds = time.perf_counter() - begun
    if b"hello" not in printed or code not in (0, None):
        raise AssertionError(f"exec printed {printed!r} and ended with {code}")
    return seconds


def burst(engine: Engine, count: int = 40, at_once: int = 8) -> float:
    """`count` runs on the bridge, `at_once` at a time."""
    connections = [engine.api() for _ in range(at_once)]

    def share(number: int) -> None:
        for _ in range(count // at_once):
            run(connections[number], BRIDGE)

    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        begun = time.perf_counter()
        list(pool.map(share, range(at_once)))
        seconds = time.perf_counter() - begun
    for connection in connections:
        connection.close()
    return seconds


def pings(api: Connection, count: int = 200) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        api.get("/_ping")
    return time.perf_counter() - begun


def import_tar() -> bytes:
    """About 204 MB in 6,768 files of different sizes; incompressible, as layers' contents mostly are."""
    noise = os.urandom(1 << 20)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(IMPORT_FILES):
            entry = tarfile.TarInfo(f"d{number % 97}/e{number % 11}/f{number}")
            entry.size = IMPORT_BYTES // IMPORT_FILES * (1 + number % 3) // 2
            entry.mode, entry.mtime = 0o644, 1_700_000_000
            tar.addfile(entry, io.BytesIO(noise[: entry.size]))
    return out.getvalue()


def import_image(engine: Engine, data: bytes) -> float:
    """Import and forget a tar; only the import is timed."""
    with engine.api(300) as api:
        begun = time.perf_counter()
        answer = api.request("POST", "/images/create", query={"fromSrc": "-", "repo": "imported"}, raw=data)
        seconds = time.perf_counter() - begun
        if "status" not in steps.expect(answer, 200).lines()[-1]:
            raise AssertionError(answer.body)
        steps.expect(api.delete("/images/imported", force=True), 200)
    return seconds


def load_image(engine: Engine, archive: bytes, name: str) -> float:
    """Load an archive and forget its image; only the load is timed."""
    with engine.api(300) as api:
        begun = time.perf_counter()
        answer = api.request("POST", "/images/load", raw=archive)
        seconds = time.perf_counter() - begun
        if b"Loaded image" not in steps.expect(answer, 200).body:
            raise AssertionError(answer.body)
        steps.expect(api.delete(f"/images/{name}", force=True), 200)
    return seconds


def save_image(engine: Engine, archive: bytes, name: str) -> float:
    """Load an archive, save its image, forget it; only the save is timed."""
    with engine.api(300) as api:
        steps.expect(api.request("POST", "/images/load", raw=archive), 200)
        begun = time.perf_counter()
        saved = steps.expect(api.get(f"/images/{name}/get"), 200).body
        seconds = time.perf_counter() - begun
        if len(saved) < 100_000_000:
            raise AssertionError(f"an archive of {len(saved)} bytes")
        steps.expect(api.delete(f"/images/{name}", force=True), 200)
    return seconds


def client_version(engine: Engine, program: str) -> float:
    """`PROGRAM version` as a user runs it."""
    begun = time.perf_counter()
    subprocess.run([program, "version"], env=engine.cli_environment(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun
