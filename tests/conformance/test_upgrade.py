"""An upgrade of the package's files beneath a running daemon: it goes on as it was; the next start is the new one."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import dockyard
from tests.support import steps
from tests.support.engines import Dockyardd, why_no_dockyardd
from tests.support.flagged import load_images
from tests.support.logreceivers import DatagramReceiver
from tests.unit.registry.support import Registry

PORT = 5052


class Upgradable(Dockyardd):
    """Runs out of a copy of the package that the test may change."""

    @property
    def package(self) -> Path:
        return self.root / "lib" / "dockyard"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(self.root / "lib")}

    def install(self, version: str) -> None:
        shutil.rmtree(self.package, ignore_errors=True)
        shutil.copytree(Path(dockyard.__file__).parent, self.package, ignore=shutil.ignore_patterns("cli", "oci"))
        with (self.package / "__init__.py").open("a") as file:
            file.write(f'__version__ = "{version}"\n')

    def break_package(self) -> None:
        """Every module raises when it is imported."""
        for path in self.package.rglob("*.py"):
            path.write_text("raise ImportError('a module of another version')\n")
        for path in list(self.package.rglob("__pycache__")):
            shutil.rmtree(path)


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Iterator[Upgradable]:
    if request.config.getoption("--engine") == "dockerd":
        pytest.skip("only dockerd is asked")
    if missing := why_no_dockyardd():
        pytest.skip(missing)
    running = Upgradable()
    running.install("41.0")
    with running:
        load_images(running)
        yield running


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="dyu-"))
    yield path
    shutil.rmtree(path)


def children(pid: int, name: str) -> list[int]:
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if Path(f"/proc/{child}/comm").read_text().strip() == name]


def works(engine: Upgradable, receiver: DatagramReceiver, image: str, place: Path) -> None:
    """What imports in a monitor, a worker, a shipper and in the daemon itself."""
    assert engine.out("exec", "old", "echo", "hi") == "hi"
    assert engine.out("exec", "-t", "-u", "1:1", "old", "id", "-u") == "1"
    syslog = ["--log-driver", "syslog", "--log-opt", f"syslog-address=unixgram://{place}/log"]
    assert engine.out("run", "--rm", "--network", "none", *syslog, "bb", "echo", "said") == "said"
    assert receiver.take(1)[0].endswith(b": said\n")
    assert engine.out("run", "--rm", "-p", "0.0.0.0::80", "-p", "[::]::81", "bb", "echo", "net") == "net"
    assert engine.out("logs", "old") == "first"
    assert "old" in engine.out("stats", "--no-stream", "--format", "{{.Name}}")
    engine.out("cp", "old:/etc/passwd", str(place / "passwd"))
    engine.out("cp", str(place / "passwd"), "old:/tmp/passwd")
    assert "/tmp/passwd" in engine.out("diff", "old")
    dockerfile = f"FROM bb\nRUN echo {os.urandom(4).hex()} >/x\nCOPY --from=bb /etc/passwd /y\n"
    engine.docker("build", "-q", "-", input=dockerfile.encode())
    engine.out("pull", "-q", image)
    engine.out("push", "-q", image)
    engine.out("rmi", image)
    engine.docker("save", "-o", str(place / "saved"), "bb")
    engine.docker("load", "-i", str(place / "saved"))
    engine.out("run", "--rm", "-v", "/data", "--userns", "host", "--security-opt", "seccomp=unconfined", "bb", "true")
    engine.out("commit", "old", "kept")


def test_files_replaced_beneath_a_running_daemon(daemon: Upgradable, place: Path) -> None:
    settings = {"listen": [f"127.0.0.1:{PORT}"], "storage": {"filesystem": {"root": str(place / "blobs")}}}
    with Registry(place / "registry", settings, daemon.netns_path) as registry:
        receiver = DatagramReceiver(place / "log")
        image = f"{registry.address}/bb"
        daemon.out("tag", "bb", image)
        daemon.out("push", "-q", image)
        daemon.out("rmi", image)
        syslog = ["--log-driver", "syslog", "--log-opt", f"syslog-address=unixgram://{place}/log"]
        daemon.out("run", "-d", "--name", "old", *syslog, "bb", "sh", "-c", "echo first; exec sleep 1000")
        assert receiver.take(1)[0].endswith(b": first\n")
        shippers = {pid for pid in processes("dockyard-ship") if belongs(pid, daemon)}

        daemon.break_package()
        works(daemon, receiver, image, place)
        (zygote,) = children(daemon.pid, "dockyard-zygote")
        os.kill(zygote, signal.SIGKILL)
        works(daemon, receiver, image, place)
        with daemon.api() as api:
            assert api.get("/version").json()["Version"] == "41.0"
        assert "Traceback" not in daemon.log_path.read_text()
        assert {pid for pid in processes("dockyard-ship") if belongs(pid, daemon)} == shippers

        daemon.stop()
        daemon.install("42.0")
        daemon.start()
        with daemon.api() as api:
            assert api.get("/version").json()["Version"] == "42.0"
            assert steps.inspect(api, "old")["State"]["Running"]
        works(daemon, receiver, image, place)
        steps.eventually(
            lambda: not shippers & {pid for pid in processes("dockyard-ship") if belongs(pid, daemon)}, seconds=10
        )
        receiver.stop()


def processes(name: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == name:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def belongs(pid: int, engine: Upgradable) -> bool:
    """Whether a process has something of this engine's open."""
    try:
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False
    return any(link.startswith(str(engine.root)) for link in links)
