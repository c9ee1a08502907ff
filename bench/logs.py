"""Logs that are timed: written by a container, read back, searched when they are big.

Owns: what one run is. Does not own: how often, in which order (`__main__`), what is made of the figures (`report`).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.support import steps
from tests.support.engines import Engine

LINES = 1_000_000
BIG = 1_000_000_000  # bytes
_TEXT = "x" * 4000
_FIRST = 1_700_000_000  # s since the epoch
ROOMY = {"HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": "json-file", "Config": {"max-size": "4g"}}}}


def written(engine: Engine) -> tuple[str, float]:
    """A container that prints `LINES` lines and ends; its id and the seconds from its start to its end."""
    with engine.api(300) as api:
        body = {"Image": steps.IMAGE, "Cmd": ["seq", "1", str(LINES)], **ROOMY}
        identifier = str(steps.expect(api.post("/containers/create", body), 201).json()["Id"])
        begun = time.perf_counter()
        steps.expect(api.post(f"/containers/{identifier}/start"), 204)
        steps.expect(api.post(f"/containers/{identifier}/wait"), 200)
        return identifier, time.perf_counter() - begun


def write(engine: Engine) -> float:
    identifier, seconds = written(engine)
    remove(engine, identifier)
    return seconds


def read(engine: Engine, identifier: str, query: str = "") -> float:
    """Seconds until the whole answer is here."""
    with engine.api(300) as api:
        begun = time.perf_counter()
        size = sum(map(len, api.stream("GET", f"/containers/{identifier}/logs?stdout=1&stderr=1{query}")))
        seconds = time.perf_counter() - begun
    if not query and size < LINES * 8:
        raise AssertionError(f"{size} bytes of log")
    return seconds


def big(engine: Engine) -> str:
    """A container with a log of 1 GB, a line each millisecond; its id."""
    with engine.api() as api:
        identifier = steps.started(api, "true", host=ROOMY["HostConfig"])
        steps.wait(api, identifier)
        path = Path(steps.inspect(api, identifier)["LogPath"])
    line = '{"log":"%s\\n","stream":"stdout","time":"%s.%09dZ"}\n'
    per_second = 1000
    with open(path, "w") as file:
        for number in range(BIG // (len(_TEXT) + 80)):
            seconds, rest = divmod(number, per_second)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(_FIRST + seconds))
            file.write(line % (_TEXT, stamp, rest * 1_000_000))
    if os.path.getsize(path) < BIG * 0.9:
        raise AssertionError("the log is too small")
    return identifier


def tail(engine: Engine, identifier: str) -> float:
    return read(engine, identifier, "&tail=10")


def since(engine: Engine, identifier: str) -> float:
    """The last second of some four minutes."""
    return read(engine, identifier, f"&since={_FIRST + BIG // (len(_TEXT) + 80) // 1000 - 1}")


def remove(engine: Engine, identifier: str) -> None:
    with engine.api(60) as api:
        steps.remove(api, identifier)
