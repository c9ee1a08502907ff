"""What a container uses: one reading, a stream of them, as the docker CLI and docker-py show it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

pytestmark = pytest.mark.vm

BUSY = "dd if=/dev/zero of=/dev/null bs=1M count=500; dd if=/dev/zero of=/dev/shm/x bs=1M count=24; sleep 1000"


@pytest.fixture
def container(api: Connection) -> str:
    return steps.started(api, "sh", "-c", "exec sleep 1000")


def test_one_reading_has_a_second_before_it(api: Connection, container: str) -> None:
    body: dict[str, Any] = api.get(f"/containers/{container}/stats", stream=False).json()
    assert body["id"] == container and body["name"].startswith("/")
    assert body["read"] > body["preread"] > "2000"
    now, before = body["cpu_stats"], body["precpu_stats"]
    assert now["system_cpu_usage"] > before["system_cpu_usage"] > 0
    assert now["cpu_usage"]["total_usage"] >= before["cpu_usage"]["total_usage"] > 0
    assert now["online_cpus"] >= 1
    assert body["pids_stats"]["current"] == 1
    memory = body["memory_stats"]
    assert 0 < memory["usage"] < memory["limit"] and memory["stats"]
    assert set(body["networks"]) == {"eth0"}
    assert {"rx_bytes", "tx_bytes", "rx_packets", "rx_dropped", "tx_errors"} <= set(body["networks"]["eth0"])


@pytest.mark.dockyardd_only("one-shot came with 20.10.? and waits there all the same")
def test_one_shot_does_not_wait(api: Connection, container: str) -> None:
    begun = time.monotonic()
    query = {"stream": "false", "one-shot": "true"}
    body = api.request("GET", f"/containers/{container}/stats", query=query).json()
    assert time.monotonic() - begun < 0.9
    assert body["preread"] == "0001-01-01T00:00:00Z" and body["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert body["cpu_stats"]["cpu_usage"]["total_usage"] > 0


def test_limits_and_use_are_told(api: Connection) -> None:
    host = {"Memory": 64 << 20, "PidsLimit": 33}
    container = steps.started(api, "sh", "-c", BUSY, host=host)

    def grown() -> bool:
        body = api.get(f"/containers/{container}/stats", stream=False).json()
        return bool(body["memory_stats"]["usage"] > 20 << 20)

    steps.eventually(grown)
    body = api.get(f"/containers/{container}/stats", stream=False).json()
    assert body["memory_stats"]["limit"] == 64 << 20
    assert body["pids_stats"]["limit"] == 33
    assert body["cpu_stats"]["cpu_usage"]["total_usage"] > 10_000_000


def test_a_container_that_does_not_run_uses_nothing(api: Connection) -> None:
    container = steps.create(api, "true")
    body = api.get(f"/containers/{container}/stats", stream=False).json()
    assert body["id"] == container
    assert body["cpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert not body["pids_stats"] and not body["memory_stats"]


def test_unknown_container(api: Connection) -> None:
    answer = api.get("/containers/nosuch/stats", stream=False)
    assert (answer.status, answer.message) == (404, "No such container: nosuch")


def test_a_stream_goes_on_until_the_container_is_removed(engine: Engine, container: str) -> None:
    client = engine.client()
    seen = []
    for reading in client.containers.get(container).stats(decode=True):
        seen.append(reading)
        if len(seen) == 2:
            engine.request("DELETE", f"/containers/{container}", force="true")
        assert len(seen) < 6, "it does not end"
    assert len(seen) >= 2
    assert seen[1]["precpu_stats"]["cpu_usage"]["total_usage"] == seen[0]["cpu_stats"]["cpu_usage"]["total_usage"]
    client.close()


def test_the_docker_cli_shows_it(engine: Engine, container: str) -> None:
    lines = engine.out("stats", "--no-stream").splitlines()
    assert " ".join(lines[0].split()) == "CONTAINER ID NAME CPU % MEM USAGE / LIMIT MEM % NET I/O BLOCK I/O PIDS"
    row = next(line for line in lines if line.startswith(container[:12]))
    assert re.search(r"\d\.\d\d% +[\d.]+[kKM]iB / [\d.]+GiB +\d\.\d\d%", row), row


@pytest.mark.dockyardd_only("our client")
def test_our_cli_shows_the_same(engine: Engine, container: str) -> None:
    def shown(*words: str) -> str:
        command = [str(Path(sys.executable).with_name("dockyard")), "stats", "--no-stream", *words]
        done = subprocess.run(command, env=engine.cli_environment(), capture_output=True, timeout=30, check=True)
        return done.stdout.decode()

    assert shown().splitlines()[0].split() == engine.out("stats", "--no-stream").splitlines()[0].split()
    row = json.loads(shown("--format", "json", container))
    assert row["ID"] == container[:12] and row["PIDs"] == "1"
    assert re.fullmatch(r"\d+\.\d\d%", row["CPUPerc"])
    assert re.fullmatch(r"[\d.]+[kKM]iB / [\d.]+GiB", row["MemUsage"])
