"""docker-py's own integration tests, as they come with its sources, against our engine.

The last source distribution that carries them is 5.0.3. It is looked for in `.cache/` and fetched by pip otherwise; the
library itself is the one installed here. The images that the tests pull come from a registry on loopback, which the
daemon takes for a mirror of Docker Hub. docs/docker-py.md lists what is left out, and why, out of `support.docker_py`.

The tests wait more than they work: they are dealt out to daemons of their own, at the same time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import busybox, debian_registry
from tests.support.debian_registry import DebianRegistry
from tests.support.docker_py import LEFT_OUT, PASSING, RUNS, VERSION
from tests.support.engines import Dockyardd, Engine, PeerDocker, why_no_dockyardd
from tests.support.flagged import load_images

CACHE = Path(__file__).parents[2] / ".cache"
PORT = 5044
PASSWD = busybox.PASSWD + b"postgres:x:70:70::/var/lib/postgresql:/bin/sh\n"  # alpine has it, a test asks for it
# Some read a container's log the moment its start is answered, without waiting for its output: so often do they get
# another chance.
AGAIN = 3
ALPINE = ("alpine:latest", "alpine:3.10")


def sources() -> Path:
    """The source distribution. Skips where it cannot be had."""
    name = f"docker-{VERSION}.tar.gz"
    if (CACHE / name).exists():
        return CACHE / name
    CACHE.mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "docker"]
    try:
        done = subprocess.run(
            [*pip, "-d", str(CACHE), f"docker=={VERSION}"], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("pip download takes more than a minute")
    if not (CACHE / name).exists():
        pytest.skip(f"docker-py {VERSION} cannot be fetched: {done.stderr.strip()[-200:]}")
    return CACHE / name


def unpack(directory: Path) -> Path:
    """A place to run the tests in: beside the library's sources, which must not be imported."""
    with tarfile.open(sources()) as archive:
        wanted = [member for member in archive.getmembers() if f"docker-{VERSION}/tests/" in member.name]
        archive.extractall(directory, wanted, filter="data")
    work = directory / "work"
    shutil.move(directory / f"docker-{VERSION}" / "tests", work / "tests")
    stub = '"""helpers.py imports it for tests of ssh, which are not run."""\n\n\nclass Channel:\n    pass\n'
    (work / "paramiko.py").write_text(stub)
    return work


def fill(engine: Engine) -> None:
    """The images that the tests take for granted, here and on the mirror."""
    load_images(engine)
    layers = [busybox.rootfs_tar(), busybox.layer_tar({"etc/passwd": PASSWD, "var/opt/there": b""})]
    hello = [busybox.layer_tar({"hello": b"no program\n"})]
    for names, made, settings in (
        (list(ALPINE), layers, {"Cmd": ["/bin/sh"]}),
        (["hello-world:latest"], hello, {"Cmd": ["/hello"]}),
    ):
        engine.docker("load", "-q", input=busybox.docker_archive(names, made, settings))
    engine.docker("tag", "bb", "busybox:latest")
    for name in (*ALPINE, "busybox:latest", "hello-world:latest"):
        there = f"127.0.0.1:{PORT}/library/{name}"
        engine.docker("tag", name, there)
        engine.docker("push", "-q", there)
        engine.docker("rmi", there)


def run(engine: Engine, work: Path, name: str, options: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-o", "addopts=", "-o", f"cache_dir=cache-{name}"]
    elsewhere = [test for other in RUNS if other != name for test in RUNS[other] if "::" in test]
    command += [f"--deselect=tests/integration/{test}" for test in (*LEFT_OUT, *elsewhere)]
    command += ["--timeout=60", "-rA", *options]
    files = [f"tests/integration/{file}" for file in RUNS[name]]
    environment = {**engine.cli_environment(), "PYTHONPATH": str(work), "DOCKER_TEST_API_VERSION": "1.41"}
    return subprocess.run(
        ["nsenter", f"--net={engine.netns_path}", *command, *files], cwd=work, env=environment, capture_output=True,
        text=True, timeout=280, check=False,
    )  # fmt: skip


def on_a_daemon(name: str, work: Path, engine: Engine) -> tuple[set[str], str]:
    """Which tests of one run passed, and what was said of those that did not."""
    with DebianRegistry(work / f"mirror-{name}", engine.netns_path, PORT), engine:
        fill(engine)
        done = run(engine, work, name, [])
        passed = found(done.stdout)
        for _ in range(AGAIN):
            if done.returncode == 1:
                done = run(engine, work, name, ["--last-failed"])
                passed |= found(done.stdout)
    return passed, done.stdout[-6000:] + done.stderr[-500:] if done.returncode else ""


def found(text: str) -> set[str]:
    return set(re.findall(r"^PASSED tests/integration/(\S+)", text, re.MULTILINE))


def mirrored(kind: type[Engine] = Dockyardd) -> Engine:
    """An engine, not yet started, that takes the registry for a mirror of Docker Hub."""
    settings = json.dumps({"registry-mirrors": [f"http://127.0.0.1:{PORT}"]})

    class Peer(PeerDocker):
        def command(self) -> list[str]:
            command = super().command()
            (self.root / "daemon.json").write_text(settings)
            return command

    if kind is PeerDocker:
        return Peer()
    engine = Dockyardd()
    engine.config_file.write_text(settings)
    return engine


@pytest.mark.timeout(280)
def test_the_tests_of_docker_py(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """`DOCKYARD_TEST_DOCKER_PY=dockerd` asks Debian's dockerd the same, by hand: to see what fails there, too."""
    if request.config.getoption("--engine") == "dockerd":
        pytest.skip("for our engine only")
    for reason in (why_no_dockyardd(), debian_registry.why_not()):
        if reason:
            pytest.skip(reason)
    kind = PeerDocker if os.environ.get("DOCKYARD_TEST_DOCKER_PY") == "dockerd" else Dockyardd
    work = unpack(tmp_path)
    with ThreadPoolExecutor(len(RUNS)) as pool:
        runs = [pool.submit(on_a_daemon, name, work, mirrored(kind)) for name in RUNS]
        results = [each.result() for each in runs]
    failures = [said for _, said in results if said]
    assert not failures, "\n".join(failures)
    assert len(set().union(*(passed for passed, _ in results))) >= PASSING
