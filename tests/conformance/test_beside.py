"""Beside another engine, and many of them: a foreign FORWARD policy of DROP, 200 containers, clients that vanish."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Iterator

import pytest

from tests.conformance.test_live_restore import seen_ids
from tests.conformance.test_network import address, fetch, published, web
from tests.support import busybox, leaks, netns, steps
from tests.support.engines import Dockyardd, Engine, why_no_dockyardd
from tests.support.flagged import load_images
from tests.support.rawhttp import Connection


@pytest.fixture(params=["0", "1"], ids=["bridge-nf-off", "bridge-nf-on"])
def beside_docker(request: pytest.FixtureRequest) -> Iterator[Dockyardd]:
    """A daemon in a network where the FORWARD policy is DROP, as dockerd leaves it."""
    if request.config.getoption("--engine") == "dockerd":
        pytest.skip("only dockerd is asked")
    missing = why_no_dockyardd()
    if missing:
        pytest.skip(missing)
    engine = Dockyardd()
    try:
        engine.in_network("iptables", "-P", "FORWARD", "DROP")
        engine.in_network("iptables", "-N", "DOCKER-USER")
        engine.in_network("iptables", "-A", "FORWARD", "-j", "DOCKER-USER")
        engine.in_network("sh", "-c", f"echo {request.param} > /proc/sys/net/bridge/bridge-nf-call-iptables || true")
        engine.start()
        load_images(engine)
        yield engine
    finally:
        engine.close()


def test_forward_policy_drop(beside_docker: Dockyardd) -> None:
    engine = beside_docker
    outside = netns.NetNamespace()
    try:
        pid = outside.path.split("/")[2]
        engine.in_network("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1", "netns", pid)
        engine.in_network("ip", "addr", "add", "192.0.2.1/24", "dev", "out0")
        engine.in_network("ip", "link", "set", "out0", "up")
        outside.run("ip", "addr", "add", "192.0.2.2/24", "dev", "out1")
        outside.run("ip", "link", "set", "out1", "up")
        with engine.api() as api:
            where = address(api, web(api, published(18120)))
            assert fetch(engine, 18120) == busybox.PAGE
            printed = steps.sh(api, f"wget -q -O - http://{where}/")
            assert printed.encode() == busybox.PAGE, "containers do not reach each other"
            with netns.connect(outside.path, "192.0.2.1", 18120) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert b"200 OK" in sock.recv(1000), "the published page is not reached from outside"
            with netns.entered(outside.path):
                import socket

                server = socket.create_server(("192.0.2.2", 9999))
            with server:
                server.settimeout(5)
                steps.started(api, "sh", "-c", "echo hi | nc -w 3 192.0.2.2 9999")
                accepted, _ = server.accept()
                accepted.close()
    finally:
        outside.close()
    rules = engine.in_network("iptables-save").stdout
    assert engine.bridge in rules, "the accepts are tagged with the bridge"
    engine.remove_containers()


def test_accepts_are_removed_at_the_end(beside_docker: Dockyardd) -> None:
    engine = beside_docker
    with engine.api() as api:
        steps.run(api, "true")
    engine.remove_containers()
    engine.stop()
    assert engine.bridge not in engine.in_network("iptables-save").stdout


def test_two_hundred_containers_leave_nothing(engine: Engine, api: Connection) -> None:
    """Mounts, cgroups, links, rules, processes, descriptors and files: as before."""
    if engine.name == "dockerd":
        pytest.skip("takes dockerd more than a minute")
    web(api, published(18121))  # whatever is made once for all containers is there now
    fetch(engine, 18121)
    engine.remove_containers()
    files_before = leaks.files(engine.exec_root)
    data_before = {name for name in leaks.files(engine.data_root) if "dockyard.db" not in name}
    fds_before = leaks.open_files(engine.pid)
    ids: list[str] = []

    def one(number: int) -> None:
        with engine.api() as own:
            host = published(20000 + number) if number % 2 else {"NetworkMode": ["none", "bridge"][number // 2 % 2]}
            identifier = steps.create(own, "sh", "-c", "echo $HOSTNAME", host=host, ExposedPorts={"80/tcp": {}})
            ids.append(identifier)
            steps.start(own, identifier)
            assert steps.wait(own, identifier) == 0
            assert steps.logs(own, identifier)[0].strip() == identifier[:12]
            steps.remove(own, identifier)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(200)))

    def left() -> list[str]:
        ground = leaks.Ground(str(engine.root), None, frozenset(ids))
        found = leaks.snapshot(ground).left(
            leaks.Snapshot({"process": leaks.processes_on(leaks.Ground(str(engine.root)))})
        )
        found = [line for line in found if not line.startswith(("mount: ", "process: ")) or any(i in line for i in ids)]
        found += [f"link: {name}" for name in leaks.links(engine.netns_path) - {engine.bridge}]
        found += [
            f"rule: {line}" for line in leaks.nft_elements(engine.netns_path) if ": 2" in line and " 2000" in line
        ]
        found += [f"run file: {name}" for name in leaks.files(engine.exec_root) - files_before]
        data = {name for name in leaks.files(engine.data_root) if "dockyard.db" not in name}
        found += [f"data file: {name}" for name in data - data_before]
        extra = leaks.open_files(engine.pid) - fds_before
        return found + ([f"descriptors: {extra} more"] if extra > 3 else [])

    remaining = leaks.settle(left, 10)
    assert not remaining, "\n".join(remaining[:40])


def test_s51_clients_that_vanish_leave_nothing(engine: Engine, api: Connection) -> None:
    if engine.name == "dockerd":
        pytest.skip("ours is what is asked")
    box = steps.started(api, "sh", "-c", "while :; do echo x; sleep 0.02; done")
    steps.eventually(lambda: steps.logs(api, box)[0])
    before = leaks.open_files(engine.pid)
    threads = len(os.listdir(f"/proc/{engine.pid}/task"))
    for number in range(100):
        with engine.api() as gone:
            if number % 4 == 0:
                gone.hijack(f"/containers/{box}/attach", None, {"stream": 1, "stdout": 1}).sock.close()
            elif number % 4 == 1:
                next(gone.stream("GET", f"/containers/{box}/logs?follow=1&stdout=1"))
            elif number % 4 == 2:
                gone.send_head("GET", "/events", None, None, None)
            else:
                process = gone.post(f"/containers/{box}/exec", {"Cmd": ["true"], "AttachStdout": True}).json()["Id"]
                gone.hijack(f"/exec/{process}/start", {"Detach": False}).sock.close()
    steps.eventually(lambda: leaks.open_files(engine.pid) <= before + 3)
    assert len(os.listdir(f"/proc/{engine.pid}/task")) <= threads + 4


def test_forty_at_once(engine: Engine) -> None:
    def one(number: int) -> str:
        with engine.api() as own:
            identifier = steps.started(own, "echo", str(number))
            assert steps.wait(own, identifier) == 0
            return steps.logs(own, identifier)[0].strip()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(40))) == [str(number) for number in range(40)]


def test_ids_are_unique_and_listed(engine: Engine, api: Connection) -> None:
    made = {steps.create(api, "true") for _ in range(30)}
    assert set(seen_ids(engine)) == made
