"""kill -9 of the daemon and of the registry during a hundred pulls and pushes; afterwards every image verifies."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import busybox
from tests.support.rawhttp import Connection, Response, unix_dialer
from tests.support.steps import eventually
from tests.unit.registry.support import Registry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

OPERATIONS, IMAGES, KILL_EVERY = 100, 6, 4


class Daemon:
    """A dockyardd on one data root that may be killed and started again. Spoken to without a client program, which
    would take more time than what is under test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        here = self.directory
        folders = ["--data-root", f"{here}/data", "--exec-root", f"{here}/exec", "--pidfile", f"{here}/pid"]
        program = str(Path(sys.executable).with_name("dockyardd"))
        with (here / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, *folders, "-H", f"unix://{here}/s", "--bridge", "none"], stdout=log, stderr=log
            )
        eventually(self._answers, seconds=30)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("GET", "/_ping").status == 200
        return False

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def ask(self, method: str, path: str, raw: bytes | None = None, **query: str) -> Response:
        with Connection(unix_dialer(f"{self.directory}/s")) as connection:
            return connection.request(method, path, None, query, {"X-Registry-Auth": "e30="}, raw)

    def out(self, method: str, path: str, raw: bytes | None = None, **query: str) -> Response:
        answer = self.ask(method, path, raw, **query)
        assert answer.status == 200, answer.message
        return answer

    def transfer(self, verb: str, name: str) -> None:
        """`pull` or `push`, to its end. AssertionError with what is told when it fails."""
        repository, _, tag = name.rpartition(":")
        if verb == "pull":
            answer = self.out("POST", "/images/create", fromImage=repository, tag=tag)
        else:
            answer = self.out("POST", f"/images/{repository}/push", tag=tag)
        told = answer.lines()
        assert told and not any("error" in line for line in told), told

    def remove(self, name: str) -> None:
        self.ask("DELETE", f"/images/{name}")

    def layers(self, name: str) -> list[str]:
        found: list[str] = self.out("GET", f"/images/{name}/json").json()["RootFS"]["Layers"]
        return found


def make_image(name: str, chance: random.Random) -> bytes:
    layers = [busybox.layer_tar({f"f{i}": chance.randbytes(chance.randrange(50_000, 900_000))}) for i in range(3)]
    return busybox.docker_archive([name], layers, {"Cmd": ["sh"]})


@pytest.mark.timeout(240)
def test_killed_at_random_moments_during_a_hundred_pulls_and_pushes(tmp_path: Path) -> None:
    chance = random.Random(11)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]  # the same one after every kill
    registry, daemon = Registry.on_files(tmp_path / "r", listen=[f"127.0.0.1:{port}"]), Daemon(tmp_path / "d")
    pool = ThreadPoolExecutor(1)
    registry.start()
    daemon.start()
    try:
        names = [f"{registry.address}/kill/i{number}:1" for number in range(IMAGES)]
        made = {}
        for name in names:
            daemon.out("POST", "/images/load", make_image(name, chance), quiet="1")
            made[name] = daemon.layers(name)
        pushed: set[str] = set()
        for number in range(OPERATIONS):
            name = chance.choice(names)
            pulling = name in pushed and chance.random() < 0.6
            if pulling:
                daemon.remove(name)
            verb = "pull" if pulling else "push"
            if number % KILL_EVERY == 0:
                client = pool.submit(daemon.transfer, verb, name)
                time.sleep(chance.uniform(0.005, 0.15))
                victim = chance.choice((registry, daemon))
                victim.kill()
                client.exception(60)
                victim.start()
            daemon.transfer(verb, name)  # what was broken off goes through now
            pushed |= set() if pulling else {name}
        for name in sorted(pushed):
            daemon.remove(name)
            daemon.transfer("pull", name)
            assert daemon.layers(name) == made[name]
            daemon.out("GET", f"/images/{name}/get")  # rebuilds every layer and compares its digest
        assert len(pushed) == IMAGES
        assert registry.run("check").returncode == 0
    finally:
        pool.shutdown()
        daemon.close()
        registry.kill()
