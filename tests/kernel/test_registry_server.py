"""The registry under real clients, several processes on one storage, and kills at random moments."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import busybox
from tests.unit.registry.conftest import make_bucket
from tests.unit.registry.support import Client, Registry, digest_of, image

SECONDS = 12.0


def skopeo(*arguments: str) -> str:
    program = shutil.which("skopeo")
    if program is None:
        pytest.skip("skopeo is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def archive(folder: Path) -> Path:
    path = folder / "image.tar"
    path.write_bytes(busybox.docker_archive(["bb:latest"], [busybox.rootfs_tar()], {"Cmd": ["sh"]}))
    return path


def test_skopeo_pushes_copies_inspects_and_pulls(tmp_path: Path) -> None:
    with Registry.on_files(tmp_path / "r") as registry:
        one, two = f"docker://{registry.address}/a/bb:1", f"docker://{registry.address}/b/bb:2"
        skopeo("copy", "--dest-tls-verify=false", f"docker-archive:{archive(tmp_path)}", one)
        skopeo("copy", "--src-tls-verify=false", "--dest-tls-verify=false", one, two)
        found = [json.loads(skopeo("inspect", "--tls-verify=false", each)) for each in (one, two)]
        assert found[0]["Digest"] == found[1]["Digest"] and found[0]["Layers"] == found[1]["Layers"]
        skopeo("copy", "--src-tls-verify=false", two, f"oci:{tmp_path / 'oci'}:x")
        assert json.loads(skopeo("list-tags", "--tls-verify=false", two.rsplit(":", 1)[0]))["Tags"] == ["2"]
        skopeo("delete", "--tls-verify=false", one)
        assert registry.run("check").stdout.startswith("1 tags, 1 manifests, 2 blobs: all verify")


def test_docker_pushes_searches_and_pulls_through_the_daemon(tmp_path: Path) -> None:
    program = shutil.which("docker")
    if program is None:
        pytest.skip("docker is not installed")
    host = f"unix://{tmp_path}/s"
    (tmp_path / "config").mkdir()
    environment = os.environ | {"DOCKER_HOST": host, "DOCKER_CONFIG": str(tmp_path / "config")}

    def docker(*arguments: str) -> str:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with Registry.on_files(tmp_path / "r") as registry, (tmp_path / "log").open("w") as log:
        folders = ["--data-root", f"{tmp_path}/data", "--exec-root", f"{tmp_path}/exec", "--pidfile", f"{tmp_path}/pid"]
        daemon = subprocess.Popen(
            [str(Path(sys.executable).with_name("dockyardd")), *folders, "-H", host, "--bridge", "none"],
            stdout=log,
            stderr=log,
        )
        try:
            eventually((tmp_path / "s").exists, 30)
            name = f"{registry.address}/a/bb:1"
            docker("load", "-i", str(archive(tmp_path)))
            docker("tag", "bb:latest", name)
            pushed = docker("push", name)
            docker("rmi", name, "bb:latest")
            assert "Downloaded newer image" in docker("pull", name)
            digest = docker("images", "--digests", "--format", "{{.Digest}}").strip()
            assert digest in pushed
            assert "a/bb" in docker("search", f"{registry.address}/bb")
        finally:
            daemon.terminate()
            daemon.wait(30)
        assert registry.run("check").returncode == 0


def test_between_docker_registry_and_ours_digests_stay(tmp_path: Path) -> None:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "peer.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/peer}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    peer = subprocess.Popen([program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: Client(f"127.0.0.1:{port}")("GET", "/v2/").status == 200)
        with Registry.on_files(tmp_path / "r") as registry:
            insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
            theirs, ours = f"docker://127.0.0.1:{port}/bb", f"docker://{registry.address}/bb"
            skopeo("copy", "--dest-tls-verify=false", f"docker-archive:{archive(tmp_path)}", f"{theirs}:1")
            skopeo("copy", *insecure, f"{theirs}:1", f"{ours}:1")
            skopeo("copy", *insecure, f"{ours}:1", f"{theirs}:2")
            digests = {
                json.loads(skopeo("inspect", "--tls-verify=false", each))["Digest"]
                for each in (f"{theirs}:1", f"{ours}:1", f"{theirs}:2")
            }
            assert len(digests) == 1
    finally:
        peer.terminate()
        peer.wait(10)


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Pusher:
    """Pushes small images that share layers, deletes some of its own, and knows what has to be there in the end."""

    def __init__(self, number: int, registries: list[Registry], layers: list[bytes]) -> None:
        self.client = [registry.client() for registry in registries]
        self.random = random.Random(number)
        self.repository = f"team/r{number % 2}"
        self.number, self.layers = number, layers
        self.expected: dict[str, str] = {}
        self.pushes = self.repeated = 0

    def run(self, until: float) -> None:
        while time.monotonic() < until:
            tag = f"t{self.number}-{self.random.randrange(4)}"
            if self.random.random() < 0.4 and tag in self.expected:
                self.delete(tag)
            else:
                self.push(tag)
        for each in self.client:
            each.close()

    def ask(self, *arguments: object, **more: str) -> object:
        return self.random.choice(self.client)(*arguments, **more)  # type: ignore[arg-type]

    def push(self, tag: str) -> None:
        chosen = self.random.sample(self.layers, 3)
        config = json.dumps({"os": "linux", "architecture": "amd64", "n": self.random.randrange(6)}).encode()
        raw = image(config, *chosen)
        for _ in range(5):
            for content in (config, *chosen):
                self.blob(content)
            answer = self.ask(
                "PUT",
                f"/v2/{self.repository}/manifests/{tag}",
                raw,
                Content_Type="application/vnd.oci.image.manifest.v1+json",
            )
            if answer.status == 201:  # type: ignore[attr-defined]
                self.expected[tag] = digest_of(raw)
                self.pushes += 1
                return
            # a client that is told that a blob is gone again pushes again: nothing is lost, nothing is wrong
            assert answer.codes[0] == "MANIFEST_BLOB_UNKNOWN", answer.body  # type: ignore[attr-defined]
            self.repeated += 1
        raise AssertionError("a push never came through")

    def blob(self, content: bytes) -> None:
        digest = digest_of(content)
        head = self.ask("HEAD", f"/v2/{self.repository}/blobs/{digest}")
        if head.status == 200:  # type: ignore[attr-defined]
            return
        other = "team/r1" if self.repository == "team/r0" else "team/r0"
        begun = self.ask("POST", f"/v2/{self.repository}/blobs/uploads/?mount={digest}&from={other}")
        if begun.status == 201:  # type: ignore[attr-defined]
            return
        location = begun.headers["location"]  # type: ignore[attr-defined]
        assert self.ask("PATCH", location, content).status == 202  # type: ignore[attr-defined]
        assert self.ask("PUT", f"{location}?digest={digest}").status == 201  # type: ignore[attr-defined]

    def delete(self, tag: str) -> None:
        """Its digest may be another pusher's image too, so only the tag; the collector takes the manifest."""
        answer = self.ask("DELETE", f"/v2/{self.repository}/manifests/{tag}")
        assert answer.status == 202, answer.body  # type: ignore[attr-defined]
        del self.expected[tag]


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """moto's server in a process of its own: the `storage` part of the settings."""
    pytest.importorskip("moto.server")
    pytest.importorskip("obstore")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (tmp_path / "moto.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
        )
    try:
        eventually(lambda: bool(socket.create_connection(("127.0.0.1", port), 1).close()) or True, 30)
        yield {"s3": make_bucket(f"http://127.0.0.1:{port}")}
    finally:
        server.terminate()
        server.wait(10)


@pytest.mark.parametrize("kind", ["files", "s3"])
def test_two_processes_on_one_storage_lose_nothing(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """Pushes, mounts, deletions through both, while both collect all the time, with ages of a second (of some on S3,
    where a push takes many requests to a slow server)."""
    slow = 1.0 if kind == "files" else 2.5
    ages = {"interval": 0.2 * slow, "grace": 2.0 * slow, "settle": 1.0 * slow, "upload_age": 60, "untagged": True}
    layers = [os.urandom(20_000) for _ in range(8)]
    storage = request.getfixturevalue("s3") if kind == "s3" else {"filesystem": {"root": str(tmp_path / "data")}}
    settings = {"storage": storage, "collection": ages}
    with Registry(tmp_path / "one", settings) as one, Registry(tmp_path / "two", settings) as two:
        pushers = [Pusher(number, [one, two], layers) for number in range(4)]
        until = time.monotonic() + (7.0 if kind == "files" else 9.0)
        with ThreadPoolExecutor(len(pushers)) as pool:
            for job in [pool.submit(each.run, until) for each in pushers]:
                job.result()
        client = one.client()
        for pusher in pushers:
            for tag, digest in pusher.expected.items():
                answer = client("GET", f"/v2/{pusher.repository}/manifests/{tag}")
                assert answer.status == 200 and digest_of(answer.body) == digest
        client.close()
        assert sum(each.pushes for each in pushers) > 20
        assert "failed" not in one.log.read_text() + two.log.read_text()
        checked = one.run("check")
        assert checked.returncode == 0, checked.stdout
        time.sleep(2.5 * slow)
        left = one.run("gc", "--untagged")
        assert left.returncode == 0, left.stderr
    checked = one.run("check")
    assert checked.returncode == 0, checked.stdout
    assert "collection: Report" in one.log.read_text() + two.log.read_text()


def test_killed_at_random_moments_every_tag_verifies(tmp_path: Path) -> None:
    registry = Registry.on_files(tmp_path / "r", collection={"interval": 0.3, "grace": 2.0, "settle": 1.0})
    chance = random.Random(5)
    taken: dict[str, str] = {}
    until = time.monotonic() + SECONDS
    kills = 0
    while time.monotonic() < until:
        registry.start()
        stop = threading.Event()

        def push(number: int, stop: threading.Event = stop) -> None:
            client = registry.client()
            while not stop.is_set():
                tag = f"t{number}-{os.urandom(2).hex()}"
                try:
                    taken[tag] = client.push("a/b", tag, os.urandom(200_000), b"shared")
                except (OSError, AssertionError, Exception):
                    break
            client.close()

        threads = [threading.Thread(target=push, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.1, 0.6))
        registry.kill()
        kills += 1
        stop.set()
        for thread in threads:
            thread.join()
    with registry:
        client = registry.client()
        for tag, digest in taken.items():
            assert client("HEAD", f"/v2/a/b/manifests/{tag}").headers["docker-content-digest"] == digest
        client.close()
    checked = registry.run("check")
    assert checked.returncode == 0, checked.stdout
    assert kills >= 4 and len(taken) > 10


def test_a_full_disk_refuses_and_works_on(tmp_path: Path) -> None:
    """ENOSPC in the middle of a blob: an error that says so, nothing left behind, and what fits is taken."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "registry-test", str(small)], check=True)
    try:
        storage = {"filesystem": {"root": str(small / "data")}}
        with Registry(tmp_path / "r", {"storage": storage}) as registry:
            client = registry.client()
            digest = client.push("a/b", "v1", b"x" * 1_000_000)
            content = os.urandom(20_000_000)
            location = client("POST", "/v2/a/b/blobs/uploads/").headers["location"]
            answer = client("PATCH", location, content)
            assert answer.status == 507 and "no space" in answer.json()["errors"][0]["message"]
            assert client("GET", location).codes == ["BLOB_UPLOAD_UNKNOWN"]
            client.push("a/b", "v2", b"y" * 1_000_000)
            assert client("HEAD", "/v2/a/b/manifests/v1").headers["docker-content-digest"] == digest
            client.close()
            assert registry.run("check").returncode == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_memory_does_not_grow_with_blobs(tmp_path: Path) -> None:
    """A blob of 400 MB in and out, four at a time."""
    size = 400_000_000
    path = tmp_path / "blob"
    block = os.urandom(1_000_000)
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
    digest = "sha256:" + subprocess.run(["sha256sum", str(path)], capture_output=True, text=True).stdout.split()[0]
    with Registry.on_files(tmp_path / "r") as registry:

        def push(number: int) -> None:
            client = registry.client()
            with path.open("rb") as file:
                answer = client("POST", f"/v2/r{number}/blobs/uploads/?digest={digest}", file, Content_Length=str(size))
            assert answer.status == 201, answer.body
            client.close()

        def pull(number: int) -> None:
            host, port = registry.address.split(":")
            with socket.create_connection((host, int(port))) as raw:
                raw.sendall(
                    f"GET /v2/r{number}/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
                )
                total = 0
                while data := raw.recv(1 << 20):
                    total += len(data)
            assert total > size

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(push, range(2)))
            list(pool.map(pull, [0, 0, 1, 1]))
        peak = next(
            int(line.split()[1])
            for line in Path(f"/proc/{registry.pid}/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        assert peak < 150_000, f"{peak} kB"
