"""Flags of the daemon that need a daemon of their own: address pools, masquerading, metrics, its OOM score; SIGHUP."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import netns, steps
from tests.support.engines import Dockyardd, Engine, PeerDocker, why_no_dockyardd, why_no_peer
from tests.support.flagged import load_images

METRICS = "127.0.0.1:9323"
FLAGS = [
    "--default-address-pool", "base=10.231.64.0/20,size=26", "--default-address-pool=base=10.231.80.0/24,size=28",
    "--ip-masq=false", "--metrics-addr", METRICS, "--oom-score-adjust=100", "--max-download-attempts=3",
]  # fmt: skip


def _without(command: list[str], *flags: str) -> list[str]:
    for flag in flags:
        at = command.index(flag)
        command = command[:at] + command[at + 2 :]
    return command


class Ours(Dockyardd):
    flags = FLAGS

    def command(self) -> list[str]:
        return [*_without(super().command(), "--bip"), *self.flags]


class Theirs(PeerDocker):
    flags = FLAGS

    def command(self) -> list[str]:
        flags = [flag for flag in self.flags if "max-download" not in flag]
        return [*_without(super().command(), "--bip"), *flags]  # its reload refuses a key that is a flag


@pytest.fixture(scope="module", params=["dockerd", "dockyardd"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.config.getoption("--engine") not in (request.param, "both"):
        pytest.skip(f"only {request.config.getoption('--engine')} is asked")
    missing = why_no_peer() if request.param == "dockerd" else why_no_dockyardd()
    if missing:
        pytest.skip(missing)
    with Theirs() if request.param == "dockerd" else Ours() as running:
        load_images(running)
        yield running


def families(engine: Engine) -> dict[str, Any]:
    """What is told, by name; the library's parser refuses what is no such text."""
    found = engine.in_network("curl", "-sSf", f"http://{METRICS}/metrics").stdout
    return {family.name: family for family in text_string_to_metric_families(found)}


def figure(engine: Engine, family: str, sample: str = "", **labels: str) -> float:
    wanted = {**labels}
    (value,) = [
        each.value
        for each in families(engine)[family].samples
        if each.name == (sample or family) and each.labels == wanted
    ]
    return float(value)


def test_the_default_network_gets_its_range_from_the_pools(daemon: Engine) -> None:
    (network,) = json.loads(daemon.out("network", "inspect", "bridge"))
    (pool,) = network["IPAM"]["Config"]
    assert pool["Subnet"] == "10.231.64.0/26"
    with daemon.api() as api:
        pools = api.get("/info").json()["DefaultAddressPools"]
    assert pools == [{"Base": "10.231.64.0/20", "Size": 26}, {"Base": "10.231.80.0/24", "Size": 28}]
    assert " 10.231.64.2/26 " in daemon.out("run", "--rm", "bb", "ip", "-4", "addr", "show", "eth0") + " "


def test_the_daemons_oom_score_is_not_the_containers(daemon: Engine) -> None:
    assert Path(f"/proc/{daemon.pid}/oom_score_adj").read_text() == "100\n"
    daemon.out("run", "-d", "--name", "scored", "bb", "sleep", "100")
    assert daemon.out("exec", "scored", "cat", "/proc/1/oom_score_adj", "/proc/self/oom_score_adj") == "0\n0"
    daemon.out("rm", "-f", "scored")


def test_metrics(daemon: Engine) -> None:
    before = {name: figure(daemon, *name) for name in [("engine_daemon_events", "engine_daemon_events_total")]}
    actions = "engine_daemon_container_actions_seconds"
    counts = {
        action: figure(daemon, actions, f"{actions}_count", action=action)
        for action in ("create", "start", "delete", "commit", "changes")
    }
    daemon.out(
        "run", "-d", "--name", "seen", "--health-cmd", "false", "--health-interval", "100ms", "bb", "sleep", "100"
    )
    daemon.out("create", "--name", "stopped", "bb")
    steps.eventually(lambda: figure(daemon, "engine_daemon_health_checks", "engine_daemon_health_checks_total") >= 1)
    failed = "engine_daemon_health_checks_failed"
    if daemon.name == "dockerd":  # counts those only that could not be run
        assert figure(daemon, failed, f"{failed}_total") == 0
    else:
        steps.eventually(lambda: figure(daemon, failed, f"{failed}_total") >= 1)
    states = "engine_daemon_container_states_containers"
    assert [figure(daemon, states, state=state) for state in ("running", "paused", "stopped")] == [1, 0, 1]
    daemon.out("pause", "seen")
    assert [figure(daemon, states, state=state) for state in ("running", "paused", "stopped")] == [0, 1, 1]
    daemon.out("unpause", "seen")
    daemon.out("diff", "seen")
    daemon.out("commit", "seen", "kept")
    daemon.out("rm", "-f", "seen", "stopped")
    for action, times in (("create", 2), ("start", 1), ("delete", 2), ("commit", 1), ("changes", 1)):
        assert figure(daemon, actions, f"{actions}_count", action=action) == counts[action] + times, action
    for name, value in before.items():
        assert figure(daemon, *name) > value
    daemon.out("info")
    functions = "engine_daemon_host_info_functions_seconds"
    assert figure(daemon, functions, f"{functions}_count", function="system_info") >= 1
    networks = "engine_daemon_network_actions_seconds"
    assert figure(daemon, networks, f"{networks}_count", action="allocate") >= 1
    (info,) = families(daemon)["engine_daemon_engine_info"].samples
    assert {"architecture", "commit", "daemon_id", "graphdriver", "kernel", "os", "os_type", "version"} < set(
        info.labels
    )
    assert figure(daemon, "engine_daemon_engine_cpus_cpus") == os.cpu_count()
    assert figure(daemon, "engine_daemon_engine_memory_bytes") > 1 << 28
    assert figure(daemon, "engine_daemon_events_subscribers_total") == 0
    assert figure(daemon, "process_open_fds") > 5
    assert abs(figure(daemon, "process_start_time_seconds") - time.time()) < 1000
    answer = daemon.in_network("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{METRICS}/other")
    assert answer.stdout == "404"


def test_sighup_reads_again_what_can_change(daemon: Engine) -> None:
    file = daemon.root / "daemon.json"
    events = daemon.spawn("events", "--filter", "type=daemon", "--format", "{{json .Actor.Attributes}}")
    steps.eventually(lambda: figure(daemon, "engine_daemon_events_subscribers_total"))
    settings = {"labels": ["a=b"], "max-concurrent-uploads": 2, "insecure-registries": ["r.example:5000"]}
    if daemon.name == "dockerd":
        settings["max-download-attempts"] = 3
    file.write_text(json.dumps(settings))
    os.kill(daemon.pid, signal.SIGHUP)
    assert events.stdout is not None
    told = json.loads(events.stdout.readline())
    events.kill()
    events.communicate()
    assert told["max-download-attempts"] == "3" and told["max-concurrent-uploads"] == "2"
    assert json.loads(told["labels"]) == ["a=b"]
    with daemon.api() as api:
        info = api.get("/info").json()
    assert info["Labels"] == ["a=b"] and "r.example:5000" in info["RegistryConfig"]["IndexConfigs"]
    file.write_text('{"max-concurrent-uploads": -1, "labels": ["c=d"]}')
    os.kill(daemon.pid, signal.SIGHUP)
    steps.eventually(lambda: "invalid max concurrent uploads: -1" in daemon.log_path.read_text())
    with daemon.api() as api:
        assert api.get("/info").json()["Labels"] == ["a=b"], "what cannot be changes nothing"
    file.write_text("{}")


def test_masquerading_is_left_out(daemon: Engine) -> None:
    """Somebody outside sees the container's own address; and the host's once it is on again. The last test."""
    outside = netns.NetNamespace()
    try:
        holder = outside.path.split("/")[2]
        daemon.in_network("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1", "netns", holder)
        daemon.in_network("ip", "addr", "add", "198.51.100.1/24", "dev", "out0")
        daemon.in_network("ip", "link", "set", "out0", "up")
        outside.run("ip", "addr", "add", "198.51.100.2/24", "dev", "out1")
        outside.run("ip", "link", "set", "out1", "up")
        outside.run("ip", "route", "add", "10.231.64.0/20", "via", "198.51.100.1")
        with netns.entered(outside.path):
            server = socket.create_server(("198.51.100.2", 8099))
        server.settimeout(20)
        (network,) = json.loads(daemon.out("network", "inspect", "bridge"))
        assert network["Options"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"
        assert caller(daemon, server).startswith("10.231.64.")
        daemon.stop()
        daemon.flags = [flag for flag in FLAGS if flag != "--ip-masq=false"]  # type: ignore[attr-defined]
        daemon.start()
        assert caller(daemon, server) == "198.51.100.1"
        server.close()
    finally:
        outside.close()


def caller(engine: Engine, server: socket.socket) -> str:
    """Whom a server sees that a container connects to."""
    client = engine.spawn("run", "--rm", "bb", "sh", "-c", "echo hi | nc 198.51.100.2 8099")
    connection, (address, _) = server.accept()
    connection.close()
    client.communicate(timeout=30)
    return str(address)
