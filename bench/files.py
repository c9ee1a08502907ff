"""Files of containers: copied out and in, committed, forked.

Owns: what one run of each is. Does not own: how often (`__main__`).
"""

from __future__ import annotations

import io
import os
import tarfile
import time

from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

FILES, BYTES = 2000, 100_000_000
_TAR = {"Content-Type": "application/x-tar"}


def tree() -> bytes:
    """About 100 MB in 2,000 files, as a tar."""
    noise = os.urandom(1 << 17)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(FILES):
            entry = tarfile.TarInfo(f"tree/d{number % 50}/f{number}")
            entry.size = BYTES // FILES
            tar.addfile(entry, io.BytesIO(noise[: entry.size]))
    return out.getvalue()


def put(api: Connection, container: str, data: bytes, path: str = "/tmp") -> float:
    begun = time.perf_counter()
    answer = api.request("PUT", f"/containers/{container}/archive", query={"path": path}, raw=data, headers=_TAR)
    seconds = time.perf_counter() - begun
    steps.expect(answer, 200)
    return seconds


def get(api: Connection, container: str, path: str, least: int) -> float:
    begun = time.perf_counter()
    answer = api.request("GET", f"/containers/{container}/archive", query={"path": path})
    seconds = time.perf_counter() - begun
    if len(steps.expect(answer, 200).body) < least:
        raise AssertionError(f"a tar of {len(answer.body)} bytes")
    return seconds


def commit(api: Connection, container: str) -> float:
    """Commit and forget the image; only the commit is timed."""
    begun = time.perf_counter()
    answer = steps.expect(api.post("/commit", None, container=container), 201)
    seconds = time.perf_counter() - begun
    steps.expect(api.delete(f"/images/{answer.json()['Id']}", force=True), 200)
    return seconds


def fork(engine: Engine, api: Connection, container: str) -> float:
    """A container with the files of another: `fork`, and where there is none, commit and create."""
    image = ""
    begun = time.perf_counter()
    if engine.name == "dockyardd":
        made = steps.expect(api.post(f"/containers/{container}/fork"), 201).json()["Id"]
    else:
        image = steps.expect(api.post("/commit", None, container=container), 201).json()["Id"]
        body = {"Image": image, "Cmd": ["sleep", "100000"]}
        made = steps.expect(api.post("/containers/create", body), 201).json()["Id"]
    seconds = time.perf_counter() - begun
    steps.expect(api.delete(f"/containers/{made}", v=True), 204)
    if image:
        steps.expect(api.delete(f"/images/{image}", force=True), 200)
    return seconds
