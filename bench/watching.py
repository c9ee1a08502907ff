"""What it costs to watch containers: one stream of `stats` for each.

Owns: starting them, holding the streams open, the processor time that the engine takes meanwhile. Does not own: what a
reading is.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

from bench.traces import everything_of
from tests.support import steps
from tests.support.engines import Engine

CONTAINERS = {"dockyardd": 100, "dockerd": 20}
SECONDS = 6.0
_TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(pids: list[int]) -> float:
    """User and system time that the processes have taken, in seconds; those that have ended count as none."""
    ticks = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(stat[11]) + int(stat[12])
    return ticks / _TICKS


def stats(engine: Engine) -> float:
    """Per cent of a processor that the engine's processes take for 100 watched containers that do nothing.

    dockerd is asked about fewer, and the figure scaled: it starts them slowly.
    """
    count = CONTAINERS[engine.name]
    with engine.api() as api:
        containers = [
            steps.started(api, "sleep", "100000", host={"NetworkMode": "none"}, NetworkDisabled=True)
            for _ in range(count)
        ]
        streams = [_open(engine, container) for container in containers]
        done = threading.Event()
        reader = threading.Thread(target=_drain, args=(streams, done))
        reader.start()
        time.sleep(2)
        pids = everything_of(engine.pid)
        before, begun = processor_seconds(pids), time.monotonic()
        time.sleep(SECONDS)
        share = (processor_seconds(pids) - before) / (time.monotonic() - begun)
        done.set()
        reader.join()
        for stream in streams:
            stream.close()
        for container in containers:
            steps.remove(api, container)
    return share * 100 * (100 / count)


def _open(engine: Engine, container: str) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(str(engine.socket_path))
    stream.sendall(f"GET /containers/{container}/stats?stream=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    stream.setblocking(False)
    return stream


def _drain(streams: list[socket.socket], done: threading.Event) -> None:
    while not done.wait(0.2):
        for stream in streams:
            try:
                while stream.recv(1 << 16):
                    pass
            except BlockingIOError:
                continue
