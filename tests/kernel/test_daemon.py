"""dockyardd as a program: start, refusals, signals, systemd, the end. Without a network: the host stays as it is."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.rawhttp import Connection

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
PROGRAM = [sys.executable, "-m", "dockyard.daemon"]


class Running:
    def __init__(self, root: Path, *flags: str, environment: dict[str, str] | None = None, host: str = "") -> None:
        self.socket = root / "api.sock"
        self.log = root / "log"
        (root / "daemon.json").touch()
        roots = ["--data-root", str(root / "data"), "--exec-root", str(root / "run"), "--pidfile", str(root / "pid")]
        self.command = [
            *PROGRAM, "-H", host or f"unix://{self.socket}", *roots, "--bridge", "none",
            "--config-file", str(root / "daemon.json"), *flags,
        ]  # fmt: skip
        self.environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **more: object) -> Running:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stderr=log, env=self.environment, **more)  # type: ignore[call-overload]
        self.wait_until(lambda: "serves on" in self.log.read_text())
        return self

    def fails(self) -> str:
        done = subprocess.run(self.command, env=self.environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1, done
        return done.stderr

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process is None or self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def get(self, path: str) -> object:
        connection = Connection(self._dial)
        return connection.get(path).json()

    def _dial(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.socket))
        return sock


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    if running.process is not None and running.process.poll() is None:
        running.end()


def test_start_serve_end(daemon: Running, tmp_path: Path) -> None:
    daemon.start()
    pid = daemon.process.pid if daemon.process else 0
    assert (tmp_path / "pid").read_text() == f"{pid}\n"
    version = daemon.get("/version")
    assert isinstance(version, dict) and version["ApiVersion"] == "1.50"
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1  # the zygote
    assert daemon.end() == 0
    assert not daemon.socket.exists() and not (tmp_path / "pid").exists()
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_one_daemon_for_a_data_root(daemon: Running, tmp_path: Path) -> None:
    daemon.start()
    assert daemon.process is not None
    (tmp_path / "other").mkdir()
    other = Running(tmp_path / "other")
    other.command[other.command.index("--data-root") + 1] = str(tmp_path / "data")
    assert str(daemon.process.pid) in other.fails()
    assert daemon.get("/version")


def test_a_killed_daemon_is_followed_by_another(daemon: Running) -> None:
    daemon.start()
    daemon.end(signal.SIGKILL)
    assert daemon.socket.exists()
    daemon.log.write_text("")
    daemon.start()
    assert daemon.get("/version")


def test_memory_when_idle(daemon: Running) -> None:
    """At most 60 MB of proportional memory, daemon and zygote together."""
    daemon.start()
    assert daemon.process is not None
    pid = daemon.process.pid
    daemon.get("/info")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = sum(
        int(line.split()[1])
        for process in (str(pid), *children)
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )
    assert total < 60_000, f"{total} kB"


def test_systemd_is_told(tmp_path: Path) -> None:
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    told.settimeout(20)
    running = Running(tmp_path, environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}).start()
    try:
        assert told.recv(100) == b"READY=1"
    finally:
        running.end()
    assert told.recv(100) == b"STOPPING=1"


def test_socket_activation(tmp_path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "api.sock"))
    listening.listen()
    running = Running(tmp_path, host="fd://", environment={"LISTEN_FDS": "1"})
    shell = f'exec env LISTEN_PID=$$ "$@" 3<&{listening.fileno()}'
    running.command = ["bash", "-c", shell, "x", *running.command]
    running.start(pass_fds=[listening.fileno()])
    try:
        assert running.get("/_ping".replace("_ping", "version"))
    finally:
        running.end()
    assert (tmp_path / "api.sock").exists()  # systemd's, not ours


def test_log_level_changes_at_sighup(daemon: Running, tmp_path: Path) -> None:
    daemon.start()
    daemon.get("/version")
    assert "level=debug" not in daemon.log.read_text()
    (tmp_path / "daemon.json").write_text(json.dumps({"debug": True}))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_until(lambda: "configuration read again" in daemon.log.read_text())
    daemon.get("/version")
    assert 'level=debug msg="GET /version"' in daemon.log.read_text()
    (tmp_path / "daemon.json").write_text("{")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_until(lambda: "configuration not read again" in daemon.log.read_text())


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["-H", "tcp://127.0.0.1:0"], "refusing to listen on tcp://127.0.0.1:0"),
        (["-H", "npipe://x"], "unable to parse host"),
        (["--storage-driver", "zfs"], "zfs"),
        (["--seccomp-profile", "/nowhere"], "/nowhere"),
        (["--group", "no-such-group"], "group no-such-group not found"),
        (["--metrics-addr", "192.0.2.1:9"], "cannot listen on tcp://192.0.2.1:9: Cannot assign requested address"),
        (["-s", "vfs", "--storage-opt", "overlay2.size=9m"], "unknown option overlay2.size for the storage driver vfs"),
    ],
)
def test_s46_refusals_say_why_and_leave_nothing(tmp_path: Path, flags: list[str], text: str) -> None:
    running = Running(tmp_path, *flags)
    stderr = running.fails()
    assert text in stderr and "Traceback" not in stderr
    assert not running.socket.exists()
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_validate(tmp_path: Path) -> None:
    running = Running(tmp_path, "--validate")
    done = subprocess.run(running.command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "configuration OK\n")
    (tmp_path / "daemon.json").write_text('{"nope": 1}')
    assert "don't match any configuration option: nope" in running.fails()


def test_it_takes_the_descriptors_that_it_may_have(daemon: Running) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    daemon.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard)))
    assert daemon.process is not None
    limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
    assert f"Max open files {hard} {hard} files" in " ".join(limits.split())
