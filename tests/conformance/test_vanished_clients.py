"""Clients that go away without a word: nothing of theirs stays in the daemon (S51), and what Docker tells of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import leaks, steps
from tests.support.engines import Dockyardd, Engine, docker_cli
from tests.support.rawhttp import Connection
from tests.support.terminal import Terminal

CLIENTS = int(os.environ.get("DOCKYARD_TEST_CLIENTS", "1000"))  # 10000 takes a minute or two
WAVE = 500 if CLIENTS <= 1000 else 1000  # at once
PLACES = {
    "attach": "/containers/{}/attach?stream=1&stdin=1&stdout=1&stderr=1",
    "logs": "/containers/{}/logs?stdout=1&follow=1",
    "events": "/events",
    "wait": "/containers/{}/wait?condition=next-exit",
    "websocket": "/containers/{}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1",
}


def held(engine: Engine, monitor: int) -> dict[str, int]:
    """What the daemon, and the helper of the container, hold."""
    with engine.api() as api:
        info = api.get("/info").json()
        listeners = info["NEventsListener"]
        tasks = info["NGoroutines"]
    return {
        "tasks": tasks,
        "event listeners": listeners,
        "descriptors": leaks.open_files(engine.pid),
        "threads": len(list(Path(f"/proc/{engine.pid}/task").iterdir())),
        "descriptors of the monitor": leaks.open_files(monitor),
        "children of the monitor": len(leaks.children(monitor)),
    }


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def vanish(engine: Engine, api: Connection, name: str, clients: int) -> None:
    """That many clients begin something endless, are there at the same time, and are gone: some have read a little."""
    kinds: list[Callable[[Connection], None]] = [
        lambda own: begin(own, "POST", PLACES["attach"].format(name)),
        lambda own: begin(own, "GET", PLACES["logs"].format(name)),
        lambda own: begin(own, "GET", PLACES["events"]),
        lambda own: begin(own, "POST", PLACES["wait"].format(name)),
        lambda own: begin(own, "GET", PLACES["websocket"].format(name)),
        lambda own: begin_exec(own, name),
    ]
    there: list[Connection] = []
    try:
        for number in range(clients):
            own = engine.api()
            there.append(own)
            kinds[number % len(kinds)](own)
        for number, own in enumerate(there):
            if number % 3:
                assert own._sock is not None
                own._sock.recv(100)
    finally:
        for own in there:
            own.close()


def begin(own: Connection, method: str, where: str) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"} if "attach" in where else {}
    if "/ws" in where:
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
        upgrade |= {**key, "Upgrade": "websocket"}
    own.send_head(method, where, None, upgrade, None)


def begin_exec(own: Connection, name: str) -> None:
    body = {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True}
    process = steps.expect(own.post(f"/containers/{name}/exec", body), 201).json()["Id"]
    own.send_head(
        "POST",
        f"/exec/{process}/start",
        {"Detach": False, "Tty": False},
        {"Connection": "Upgrade", "Upgrade": "tcp"},
        None,
    )


def told(engine: Engine, since: float) -> list[str]:
    """What the engine has told of containers since then."""
    with engine.api() as api:
        query: dict[str, Any] = {"since": f"{since:.6f}", "until": f"{time.time():.6f}"}
        return [event["Action"] for event in api.get("/events", **query).lines() if event["Type"] == "container"]


def test_the_cli_detaches_without_an_event(engine: Engine, api: Connection) -> None:
    """The CLI knows the keys itself and hangs up: the engine tells nothing, in Docker too."""
    since = time.time()
    with Terminal([docker_cli(), "run", "-it", "--name", "left", "bb", "cat"], engine.cli_environment()) as tty:
        tty.type(b"x\n")
        tty.expect(b"x\r\nx\r\n")
        tty.type(b"\x10\x11")
        assert tty.finish() == 0
    assert steps.inspect(api, "left")["State"]["Running"]
    time.sleep(0.3)
    assert set(told(engine, since)) == {"create", "attach", "start", "resize"}


def test_keys_that_the_engine_sees_are_an_event(engine: Engine, api: Connection) -> None:
    name = steps.started(api, "cat", Tty=True, OpenStdin=True)
    since = time.time()
    with engine.api() as own, own.hijack(f"/containers/{name}/attach", None, {"stream": 1, "stdin": 1}) as stream:
        time.sleep(0.2)
        stream.send(b"\x10\x11")
        steps.eventually(lambda: "detach" in told(engine, since))
    since = time.time()
    with engine.api() as own, own.hijack(f"/containers/{name}/attach", None, {"stream": 1, "stdin": 1}):
        time.sleep(0.2)
    time.sleep(0.3)
    assert told(engine, since) == ["attach"]


@pytest.mark.dockyardd_only("it looks into the daemon")
def test_s51_clients_that_vanish_leave_nothing(engine: Dockyardd, api: Connection) -> None:
    talker = steps.started(api, "sh", "-c", "while :; do echo line; sleep 0.02; done", OpenStdin=True)
    monitor = parent(steps.inspect(api, talker)["State"]["Pid"])
    vanish(engine, api, talker, 12)  # what is made once and kept: threads of a pool, inotify
    steps.eventually(lambda: leaks.children(monitor), lambda found: len(found) <= 3)
    before = held(engine, monitor)
    for begun in range(0, CLIENTS, WAVE):
        vanish(engine, api, talker, min(WAVE, CLIENTS - begun))

    def left() -> dict[str, int]:
        now = held(engine, monitor)
        # A pool of threads may still grow to its size; the talker sleeps in a child of its own.
        spare = {"threads": 4, "children of the monitor": 1, "descriptors": 3, "tasks": 2}
        return {what: number for what, number in now.items() if number > before[what] + spare.get(what, 0)}

    steps.eventually(left, lambda found: not found, seconds=30)
    assert steps.exec_sh(api, talker, "echo alive") == (0, "alive\n")
    assert "Traceback" not in engine.log_tail(400)
