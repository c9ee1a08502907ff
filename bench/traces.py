"""How long after the last answer everything of a container is really gone, and what an engine weighs.

Owns: `Traces` (looks for process, mounts, cgroup, links, rules), memory of processes. Does not own: the work.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from bench import work
from tests.support import leaks, steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection


class Traces:
    """What there is when nothing runs, and the places where a container of this engine shows."""

    def __init__(self, engine: Engine, api: Connection) -> None:
        self._engine = engine
        probe = steps.started(api, "sleep", "1000")
        pid = steps.inspect(api, probe)["State"]["Pid"]
        self._cgroups = sorted(
            {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if probe in line}
        )
        self._cgroups = [path.replace(probe, "{}") for path in self._cgroups]
        self._roots = [path for path in leaks.CGROUPS.iterdir() if path.is_dir()] + [leaks.CGROUPS]
        steps.remove(api, probe)
        time.sleep(0.5)
        self._base = self._count()
        self._rules = len(leaks.nft_elements(engine.netns_path))

    def _count(self) -> tuple[int, int]:
        pid = (self._engine.netns_path or "/proc/self/ns/net").split("/")[2]
        with open("/proc/self/mountinfo") as mounts, open(f"/proc/{pid}/net/dev") as devices:
            return len(mounts.readlines()), len(devices.readlines())

    def _cgroup_there(self, identifier: str) -> bool:
        return any(os.path.exists(f"{root}{path.format(identifier)}") for root in self._roots for path in self._cgroups)

    def seconds_until_gone(self, identifier: str, pid: int) -> float:
        """Polled without a pause; the firewall's rules are looked at last (a program of its own: ~5 ms)."""
        begun = time.perf_counter()
        while time.perf_counter() - begun < 10:
            now = self._count()
            if not (
                os.path.exists(f"/proc/{pid}")
                or now > self._base
                or now[0] > self._base[0]
                or now[1] > self._base[1]
                or self._cgroup_there(identifier)
            ):
                seconds = time.perf_counter() - begun
                while len(leaks.nft_elements(self._engine.netns_path)) > self._rules:
                    seconds = time.perf_counter() - begun
                    if seconds > 10:
                        raise AssertionError(f"rules of {identifier} are still there after 10 s")
                return seconds
        raise AssertionError(f"something of {identifier} is still there after 10 s")


def gone_after(traces: Traces, api: Connection, settings: dict[str, Any]) -> float:
    """One run; the seconds from its last answer until all of it is gone."""
    body = {"Image": steps.IMAGE, "Cmd": ["sleep", "0.03"], **settings}
    identifier = steps.expect(api.post("/containers/create", body), 201).json()["Id"]
    steps.start(api, identifier)
    pid = int(steps.inspect(api, identifier)["State"]["Pid"])
    steps.wait(api, identifier)
    steps.expect(api.delete(f"/containers/{identifier}"), 204)
    return traces.seconds_until_gone(identifier, pid)


# -- memory ---------------------------------------------------------------------------------------------------------


def smaps(pid: int) -> dict[str, int]:
    """Sums of /proc/PID/smaps_rollup, in bytes."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) * 1024
    return found


def private(pid: int) -> int:
    sums = smaps(pid)
    return sums["Private_Clean"] + sums["Private_Dirty"]


def daemon_pss(engine: Engine) -> dict[str, int]:
    """Proportional memory of the daemon and everything it started, by process."""
    weights = {}
    for pid in (engine.pid, *sorted(leaks.children(engine.pid))):
        try:
            weights[leaks.describe(pid)[:70]] = smaps(pid)["Pss"]
        except (OSError, KeyError):
            continue
    return weights


class Peak:
    """The most memory (proportional, bytes) that an engine and all it started had while in `with`; looked at often."""

    def __init__(self, engine: Engine, interval: float = 0.02) -> None:
        self._engine = engine
        self._interval = interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak")
        self.bytes = 0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self._interval):
            self.bytes = max(self.bytes, sum(_pss(pid) for pid in everything_of(self._engine.pid)))


def everything_of(pid: int) -> list[int]:
    """The process, and all below it."""
    return [pid, *leaks.children(pid)]


def _pss(pid: int) -> int:
    try:
        return smaps(pid)["Pss"]
    except (OSError, KeyError):
        return 0  # it has ended


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def helper_memory(engine: Engine, lines: int = 100_000) -> int:
    """Private bytes of a running container's helper, after so many log lines, an attach and an exec."""
    with engine.api() as api:
        host = work.PORT["HostConfig"]
        identifier = steps.started(api, "sh", "-c", f"seq {lines}; sleep 1000", host=host, ExposedPorts={"80/tcp": {}})
        last = f"{lines}\n"
        steps.eventually(lambda: steps.logs(api, identifier, tail=1)[0] == last, seconds=60)
        with engine.api() as own:
            own.hijack(f"/containers/{identifier}/attach", None, {"stream": 1, "stdout": 1}).sock.close()
        work.execute(api, engine.api, identifier)
        time.sleep(0.5)
        helper = parent(int(steps.inspect(api, identifier)["State"]["Pid"]))
        weight = private(helper) + sum(private(pid) for pid in proxies(engine))
        steps.remove(api, identifier)
    return weight


def proxies(engine: Engine) -> list[int]:
    """dockerd's helpers for a published port."""
    done = subprocess.run(["pgrep", "-P", str(engine.pid), "docker-proxy"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in done.stdout.split()]
