"""kill -9 of dockyardd: containers run on, their logs go on, ports stay; the next daemon finds them and what happened.

Each test has a daemon of its own, since it kills it.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.test_network import fetch, published, web
from tests.support import busybox, leaks, steps
from tests.support.engines import Dockyardd, Engine, docker_cli, why_no_dockyardd
from tests.support.flagged import load_images
from tests.support.rawhttp import demultiplex
from tests.support.terminal import Terminal


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Iterator[Dockyardd]:
    """A daemon of the test's own; at its end nothing of it is on the machine."""
    if request.config.getoption("--engine") == "dockerd":
        pytest.skip("only dockerd is asked")
    missing = why_no_dockyardd()
    if missing:
        pytest.skip(missing)
    with Dockyardd() as running:
        load_images(running)
        yield running
        if not running.alive:
            running.start()
        ids = frozenset(seen_ids(running))
        running.remove_containers()
        running.stop()
        ground = leaks.Ground(str(running.root), None, ids)
        left = leaks.settle(lambda: leaks.snapshot(ground).left(leaks.Snapshot()))
    assert not left, "left behind:\n" + "\n".join(left)


def seen_ids(engine: Engine) -> list[str]:
    with engine.api() as api:
        return [row["Id"] for row in api.get("/containers/json", all=True).json()]


def revive(engine: Engine) -> None:
    """kill -9, then a new daemon on the same ground."""
    engine.kill()
    engine.start()


def test_twenty_containers_survive(daemon: Dockyardd) -> None:
    script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"
    with daemon.api() as api:
        running = {steps.started(api, "sh", "-c", script): 0 for _ in range(19)}
        server = web(api, published(18100))
        pids = {name: steps.inspect(api, name)["State"]["Pid"] for name in [*running, server]}
        started = {name: steps.inspect(api, name)["State"]["StartedAt"] for name in running}
    assert fetch(daemon, 18100) == busybox.PAGE
    daemon.kill()
    assert all(Path(f"/proc/{pid}").exists() for pid in pids.values())
    assert fetch(daemon, 18100) == busybox.PAGE
    time.sleep(0.5)
    daemon.start()
    with daemon.api() as api:
        rows = api.get("/containers/json").json()
        assert {row["Id"] for row in rows} == set(pids)
        for name in running:
            state = steps.inspect(api, name)["State"]
            assert (state["Pid"], state["StartedAt"], state["Running"]) == (pids[name], started[name], True)
            numbers = [int(line) for line in steps.logs(api, name)[0].split()]
            assert numbers == list(range(len(numbers))) and len(numbers) > 8
        assert fetch(daemon, 18100) == busybox.PAGE
        one = next(iter(running))
        assert steps.exec_sh(api, one, "echo inside") == (0, "inside\n")
        before = len(steps.logs(api, one)[0])
        steps.eventually(lambda: len(steps.logs(api, one)[0]) > before)
        assert api.post(f"/containers/{one}/stop", None, t=0).status == 204
        assert steps.inspect(api, one)["State"]["ExitCode"] == 137


def test_those_that_ended_meanwhile(daemon: Dockyardd) -> None:
    with daemon.api() as api:
        quick = steps.started(api, "sh", "-c", "sleep 0.6; echo last words; exit 42")
        gone = steps.started(api, "sh", "-c", "sleep 0.6", host={"AutoRemove": True})
        killed = steps.started(api, "sleep", "1000")
        pid = steps.inspect(api, killed)["State"]["Pid"]
    daemon.kill()
    os.kill(pid, signal.SIGKILL)
    died = time.time()
    time.sleep(1.2)
    daemon.start()
    with daemon.api() as api:
        state = steps.inspect(api, quick)["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 42)
        assert abs(stamp(state["FinishedAt"]) - died) < 1.0
        assert steps.logs(api, quick)[0] == "last words\n"
        state = steps.inspect(api, killed)["State"]
        assert (state["ExitCode"], abs(stamp(state["FinishedAt"]) - died) < 0.5) == (137, True)
        steps.eventually(lambda: api.get(f"/containers/{gone}/json").status == 404)
        assert steps.wait(api, quick) == 42


def stamp(text: str) -> float:
    whole, _, fraction = text.rstrip("Z").partition(".")
    return time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) - time.timezone + float(f"0.{fraction or 0}")


def test_terminals_and_input_come_back(daemon: Dockyardd) -> None:
    with daemon.api() as api:
        shell = steps.started(api, "sh", Tty=True, OpenStdin=True)
        cat = steps.started(api, "cat", OpenStdin=True)
    revive(daemon)
    with Terminal([docker_cli(), "attach", shell], daemon.cli_environment(), 30, 100) as tty:
        tty.type(b"echo a$((1+1))b; stty size\n")
        tty.expect(rb"a2b\r\n30 100")
        tty.type(b"exit 3\n")
        assert tty.finish() == 3
    with daemon.api() as api, daemon.api() as own:
        with own.hijack(f"/containers/{cat}/attach", None, {"stream": 1, "stdin": 1, "stdout": 1}) as stream:
            stream.send(b"again\n")
            assert b"again\n" in stream.read_until(b"again\n")
        assert steps.inspect(api, shell)["State"]["ExitCode"] == 3


def test_paused_stays_paused(daemon: Dockyardd) -> None:
    with daemon.api() as api:
        name = steps.started(api, "sleep", "1000")
        api.post(f"/containers/{name}/pause")
    revive(daemon)
    with daemon.api() as api:
        assert steps.inspect(api, name)["State"]["Status"] == "paused"
        assert api.post(f"/containers/{name}/unpause").status == 204
        assert steps.exec_sh(api, name, "echo up") == (0, "up\n")


def test_addresses_and_ports_are_not_given_twice(daemon: Dockyardd) -> None:
    with daemon.api() as api:
        first = [web(api, published(18110 + number)) for number in range(3)]
    revive(daemon)
    with daemon.api() as api:
        more = [steps.started(api, "sleep", "1000") for _ in range(5)]
        networks = [steps.inspect(api, name)["NetworkSettings"]["Networks"]["bridge"] for name in [*first, *more]]
        assert len({network["IPAddress"] for network in networks}) == 8
        refused = steps.create(api, "true", host=published(18110), ExposedPorts={"80/tcp": {}})
        assert "port is already allocated" in api.post(f"/containers/{refused}/start").message
        steps.remove(api, first[0])
        steps.start(api, refused)


def test_killed_at_any_moment_under_load(daemon: Dockyardd) -> None:
    """kill -9 while containers are made, started and removed: the next daemon serves, and nothing stays behind."""
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            try:
                with daemon.api(10) as api:
                    while not stop.is_set():
                        steps.remove(api, steps.started(api, "true"))
            except (OSError, AssertionError, ValueError):
                time.sleep(0.01)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for moment in range(6):
            time.sleep(0.15 + moment * 0.037)
            revive(daemon)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    with daemon.api() as api:
        for row in api.get("/containers/json", all=True).json():
            steps.remove(api, row["Id"])
        assert steps.run(api, "echo", "served") == (0, "served\n", "")
    known = frozenset(seen_ids(daemon))
    with daemon.api() as api:
        made = {name.name for name in (daemon.data_root / "containers").iterdir()} - known
    assert made == set(), "directories of containers that nobody knows"
    left = leaks.settle(lambda: leaks.links(daemon.netns_path) - {daemon.bridge})
    assert not left, "links of containers that nobody knows"


def test_monitor_lost(daemon: Dockyardd) -> None:
    with daemon.api() as api:
        names = [steps.started(api, "sleep", "1000", name=f"lost{number}") for number in range(2)]
        pids = [steps.inspect(api, name)["State"]["Pid"] for name in names]
        kill_parent(pids[0])
        steps.eventually(lambda: not steps.inspect(api, names[0])["State"]["Running"])
        check_lost(steps.inspect(api, names[0])["State"])
        assert not running(pids[0])
    daemon.kill()
    kill_parent(pids[1])
    steps.eventually(lambda: not running(pids[1]))
    daemon.start()
    with daemon.api() as api:
        check_lost(steps.inspect(api, names[1])["State"])
        steps.start(api, names[1])
        assert steps.exec_sh(api, names[1], "echo alive") == (0, "alive\n")


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_parent(pid: int) -> None:
    """SIGKILL to the monitor: the parent of the container's first process."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent > 1
    os.kill(parent, signal.SIGKILL)


def check_lost(state: dict[str, object]) -> None:
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)
    assert "monitor lost" in str(state["Error"])


def test_a_second_daemon_on_the_same_root_is_refused(daemon: Dockyardd) -> None:
    import subprocess

    other = [word.replace(str(daemon.socket_path), f"{daemon.root}/s2") for word in daemon.command()]
    done = subprocess.run(other, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0 and str(daemon.data_root) in done.stderr and "Traceback" not in done.stderr
    assert daemon.answers()


def test_restart_by_signal_keeps_containers(daemon: Dockyardd) -> None:
    with daemon.api() as api:
        name = steps.started(api, "sleep", "1000")
        pid = steps.inspect(api, name)["State"]["Pid"]
    daemon.stop()
    assert Path(f"/proc/{pid}").exists()
    daemon.start()
    with daemon.api() as api:
        assert steps.inspect(api, name)["State"]["Pid"] == pid


def test_logs_are_followed_over_a_restart(daemon: Dockyardd) -> None:
    with daemon.api() as api:
        name = steps.started(api, "sh", "-c", "i=0; while [ $i -lt 30 ]; do echo $i; i=$((i+1)); sleep 0.05; done")
    revive(daemon)
    with daemon.api() as api:
        body = b"".join(api.stream("GET", f"/containers/{name}/logs?stdout=1&follow=1"))
    assert demultiplex(body)[0].split() == [str(number).encode() for number in range(30)]


def test_killed_then_the_host_restarts(daemon: Dockyardd) -> None:
    """No process and no exec root is left: policies bring back what they promise, those that others need first; a
    lease's container goes, a health check begins anew."""
    with daemon.api() as api:
        always = {"RestartPolicy": {"Name": "always"}}
        check = {"Test": ["CMD", "true"], "Interval": 200_000_000}
        base = steps.started(api, "sleep", "1000", host=always, Healthcheck=check)
        joined = {"NetworkMode": f"container:{base}", "RestartPolicy": {"Name": "on-failure"}}
        app = steps.started(api, "sleep", "1000", host=joined)
        plain = steps.started(api, "sleep", "1000")
        down = steps.started(api, "sleep", "1000", host={"RestartPolicy": {"Name": "unless-stopped"}})
        steps.expect(api.post(f"/containers/{down}/stop", None, t=0), 204)
        lease = steps.expect(api.post("/leases", {"TTL": "1s"}), 201).json()["Id"]
        leased = steps.started(api, "sleep", "1000", host=always, Labels={"dockyard.lease": lease})
        steps.eventually(lambda: steps.inspect(api, base)["State"]["Health"]["Status"] == "healthy")
        pids = [steps.inspect(api, each)["State"]["Pid"] for each in (base, app, plain, leased)]
    daemon.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    leaks.settle(lambda: [str(pid) for pid in pids if Path(f"/proc/{pid}").exists()])
    time.sleep(0.3)  # the monitors have done their work
    shutil.rmtree(daemon.exec_root)
    daemon.start()
    with daemon.api() as api:
        back = (base, app)
        steps.eventually(lambda: all(steps.inspect(api, each)["State"]["Status"] == "running" for each in back))
        pids = [steps.inspect(api, each)["State"]["Pid"] for each in back]
        assert len({os.readlink(f"/proc/{pid}/ns/net") for pid in pids}) == 1
        assert [steps.inspect(api, each)["State"]["ExitCode"] for each in (plain, down)] == [255, 137]
        steps.eventually(lambda: steps.inspect(api, base)["State"]["Health"]["Status"] == "healthy")
        steps.eventually(lambda: api.get(f"/containers/{leased}/json").status == 404)
