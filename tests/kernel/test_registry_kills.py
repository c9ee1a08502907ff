"""kill -9 of the daemon and of the registry during a hundred pulls and pushes; afterwards every image verifies."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import busybox
from tests.support.steps import eventually
from tests.unit.registry.support import Registry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

OPERATIONS, IMAGES, KILL_EVERY = 100, 6, 4


class Daemon:
    """A dockyardd on one data root that may be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._environment = os.environ | {
            "DOCKER_HOST": f"unix://{directory}/s",
            "DOCKER_CONFIG": str(directory / "config"),
        }
        (directory / "config").mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        here = self.directory
        folders = ["--data-root", f"{here}/data", "--exec-root", f"{here}/exec", "--pidfile", f"{here}/pid"]
        program = str(Path(sys.executable).with_name("dockyardd"))
        with (here / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, *folders, "-H", f"unix://{here}/s", "--bridge", "none"], stdout=log, stderr=log
            )
        eventually(lambda: self.docker("version").returncode == 0, seconds=30)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["docker", *arguments], env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def docker(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["docker", *arguments], env=self._environment, capture_output=True, timeout=60)

    def out(self, *arguments: str) -> bytes:
        done = self.docker(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def layers(self, name: str) -> list[str]:
        found: list[str] = json.loads(self.out("image", "inspect", name))[0]["RootFS"]["Layers"]
        return found


def make_image(folder: Path, name: str, chance: random.Random) -> Path:
    layers = [busybox.layer_tar({f"f{i}": chance.randbytes(chance.randrange(50_000, 900_000))}) for i in range(3)]
    path = folder / "image.tar"
    path.write_bytes(busybox.docker_archive([name], layers, {"Cmd": ["sh"]}))
    return path


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
@pytest.mark.timeout(240)
def test_killed_at_random_moments_during_a_hundred_pulls_and_pushes(tmp_path: Path) -> None:
    chance = random.Random(11)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]  # the same one after every kill
    registry, daemon = Registry.on_files(tmp_path / "r", listen=[f"127.0.0.1:{port}"]), Daemon(tmp_path / "d")
    registry.start()
    daemon.start()
    try:
        names = [f"{registry.address}/kill/i{number}:1" for number in range(IMAGES)]
        made = {}
        for name in names:
            daemon.out("load", "-i", str(make_image(tmp_path, name, chance)))
            made[name] = daemon.layers(name)
        pushed: set[str] = set()
        for number in range(OPERATIONS):
            name = chance.choice(names)
            pulling = name in pushed and chance.random() < 0.6
            if pulling:
                daemon.docker("rmi", name)
            command = ("pull" if pulling else "push", name)
            client = daemon.begin(*command)
            if number % KILL_EVERY == 0:
                time.sleep(chance.uniform(0.005, 0.15))
                victim = chance.choice((registry, daemon))
                victim.kill()
                client.wait(60)
                victim.start()
                daemon.out(*command)  # what was broken off goes through now
            else:
                assert client.wait(60) == 0, command
            pushed |= set() if pulling else {name}
        for name in sorted(pushed):
            daemon.docker("rmi", name)
            daemon.out("pull", name)
            assert daemon.layers(name) == made[name]
            daemon.out("save", name)  # rebuilds every layer and compares its digest
        assert len(pushed) == IMAGES
        assert registry.run("check").returncode == 0
    finally:
        daemon.close()
        registry.kill()
