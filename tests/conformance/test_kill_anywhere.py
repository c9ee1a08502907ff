"""kill -9 of dockyardd thirty times, at random moments of everything that happens to containers, and of its own start.

After each restart the machine stands still and is compared with what the daemon says: what is said to run answers,
what is not said to run has no process, nothing lies on disk that belongs to nobody, nothing is missing that is needed.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.test_live_restore import daemon  # noqa: F401 - the fixture
from tests.support import leaks, steps
from tests.support.engines import Dockyardd, EngineFailed
from tests.support.rawhttp import Connection

KILLS = 30  # a third of them while the daemon starts
WORKERS = 4
LONGEST = 0.3  # seconds of work between a restart and the next kill


class Load:
    """Threads that make, start, exec, stop and remove containers; they can be made to stand still."""

    def __init__(self, engine: Dockyardd) -> None:
        self._engine = engine
        self._go = threading.Event()
        self._over = threading.Event()
        self._busy = threading.Semaphore(WORKERS)
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(WORKERS)]
        self.finished = 0  # rounds

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._go.set()
        for thread in self._threads:
            thread.join(30)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work goes on inside; the daemon must be dead when this ends, or the workers do not notice it."""
        self._go.set()
        yield
        self._go.clear()
        for _ in range(WORKERS):
            assert self._busy.acquire(timeout=20), "a request hangs after its daemon has been killed"
        self._busy.release(WORKERS)

    def _work(self, number: int) -> None:
        chance = random.Random(number)
        while not self._over.is_set():
            self._go.wait()
            with self._busy:
                try:
                    with self._engine.api(15) as api:
                        while self._go.is_set() and not self._over.is_set():
                            one_round(api, chance)
                            self.finished += 1
                except (OSError, AssertionError, ValueError):
                    pass
            self._over.wait(0.005)


def one_round(api: Connection, chance: random.Random) -> None:
    """The life of a container; now and then it is cut short and the container stays as it is."""
    host: dict[str, Any] = {"NetworkMode": chance.choice(["bridge", "none"])}
    if chance.random() < 0.2:
        host["AutoRemove"] = True
    volumes = {"/data": {}} if chance.random() < 0.5 else None
    command = chance.choice(["exec sleep 1000", "exit 3", "trap 'exit 0' TERM; while :; do sleep 0.05; done"])
    name = steps.create(api, "sh", "-c", command, host=host, Volumes=volumes)
    if chance.random() < 0.05:
        return
    steps.start(api, name)
    if chance.random() < 0.4:
        steps.exec_sh(api, name, "echo inside")
    if chance.random() < 0.1:
        api.post(f"/containers/{name}/pause")
    if chance.random() < 0.1:
        return
    if chance.random() < 0.5:
        api.post(f"/containers/{name}/stop", None, t=0)
    api.delete(f"/containers/{name}", force=True, v=True)


@pytest.mark.timeout(150)
def test_killed_at_random_moments(daemon: Dockyardd) -> None:  # noqa: F811
    chance = random.Random(20)
    gone: set[str] = set()
    with Load(daemon) as load:
        for number in range(KILLS * 2 // 3):
            with load.working():
                threading.Event().wait(chance.uniform(0.02, LONGEST))
                daemon.kill()
            if number % 2:
                start_and_kill(daemon, chance.uniform(0.1, 0.6))
            daemon.start()
            with daemon.api() as api:
                check(daemon, api, gone)
                thin_out(api, chance, gone, keep=0 if number % 10 == 9 else 6)
    assert load.finished > KILLS, "hardly anything happened between the kills"
    daemon.remove_containers()
    with daemon.api() as api:
        assert listed(api) == {}
        check(daemon, api, gone)
        assert steps.run(api, "echo", "served") == (0, "served\n", "")
    left = leaks.settle(lambda: leaks.links(daemon.netns_path) - {daemon.bridge})
    assert not left, "links of containers that nobody knows"


def start_and_kill(daemon: Dockyardd, seconds: float) -> None:  # noqa: F811
    """A start that gets so far and no further."""
    timer = threading.Timer(seconds, lambda: daemon.process and daemon.process.kill())
    timer.start()
    with suppress(EngineFailed):
        daemon.start()
    timer.join()
    daemon.kill()


def listed(api: Connection) -> dict[str, str]:
    """ID -> state of every container."""
    return {row["Id"]: row["State"] for row in api.get("/containers/json", all=True).json()}


def check(daemon: Dockyardd, api: Connection, gone: set[str]) -> None:  # noqa: F811
    """Everything listed is true, and there is nothing else. `gone`: containers of earlier; grows with what is there."""
    wrong = leaks.settle(lambda: differences(daemon, api, gone), 5)
    assert not wrong, "after the restart:\n" + "\n".join(wrong)
    for name, state in listed(api).items():
        if state == "running":
            assert answers(api, name), f"{name} is listed as running and runs nothing: {steps.inspect(api, name)}"


def answers(api: Connection, name: str) -> bool:
    """Whether a program can be run in it; a container that ends by itself may have done so meanwhile."""
    try:
        return steps.exec_sh(api, name, "echo inside") == (0, "inside\n")
    except AssertionError:
        return bool(steps.inspect(api, name)["State"]["Status"] != "running")


def differences(daemon: Dockyardd, api: Connection, gone: set[str]) -> list[str]:  # noqa: F811
    known = listed(api)
    gone.update(known)
    data = daemon.data_root
    found = [*stale(data / "containers", known, "files"), *stale(daemon.exec_root / "containers", known, "a state")]
    found += stale(data / "snapshots" / "overlay" / "c", {name[:26]: "" for name in known}, "a writable layer")
    volumes = set[str]()
    for name, state in known.items():
        details = api.get(f"/containers/{name}/json")
        if details.status != 200:
            return [f"{name} went away"]  # `--rm`: look again
        body = details.json()
        volumes |= {mount["Name"] for mount in body["Mounts"] if mount["Type"] == "volume"}
        found += lacking(data, daemon.exec_root, body)
        alive = runs(body["State"]["Pid"])
        if alive != (state in ("running", "paused")):
            found.append(f"{name} is listed as {state}, process {body['State']['Pid']}: {alive}")
    found += stale(data / "volumes", dict.fromkeys(volumes, ""), "a volume")
    found += strangers(known, gone)
    return found


def stale(directory: Path, known: dict[str, str], what: str) -> list[str]:
    """What lies in a directory and belongs to no container."""
    there = set(os.listdir(directory)) if directory.exists() else set()
    return [f"{what} of no container: {directory / name}" for name in there - set(known)]


def lacking(data: Path, run: Path, body: dict[str, Any]) -> list[str]:
    """What a listed container needs and has not."""
    name = body["Id"]
    needed = [data / "containers" / name, data / "snapshots" / "overlay" / "c" / name[:26] / "fs"]
    needed += [Path(mount["Source"]) for mount in body["Mounts"]]
    if body["State"]["Running"]:
        needed.append(run / "containers" / name / "monitor.sock")
    return [f"{name} lacks {path}" for path in needed if not path.exists()]


def runs(pid: int) -> bool:
    try:
        return pid > 0 and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def strangers(known: dict[str, str], gone: set[str]) -> list[str]:
    """Control groups of containers that do not run: with or without a process, nobody will take them away."""
    idle = {name for name in gone if known.get(name) not in ("running", "paused")}
    return [f"a control group of what does not run: {path}" for path in leaks.cgroups(lambda name: name in idle)]


def thin_out(api: Connection, chance: random.Random, gone: set[str], keep: int) -> None:
    """Start and remove some of what the kills have left, so that both are tried on it."""
    names = list(listed(api))
    chance.shuffle(names)
    for name in names[:2]:
        assert api.post(f"/containers/{name}/start").status in (204, 304, 404, 409)
    for name in names[keep:]:
        assert api.delete(f"/containers/{name}", force=True, v=True).status in (204, 404, 409)
        gone.add(name)
