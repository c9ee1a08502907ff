"""Engines to talk to: dockyardd (ours) and Debian's dockerd (the peer), each on private ground.

Owns: starting, stopping, killing and cleaning up after one engine; ways to reach it (raw HTTP, the docker CLI,
docker-py, a TCP connection inside its network namespace). Does not own: what is asked of it, nor the look at what it
leaves behind (`leaks`).

Each engine gets a directory of its own with a short name (a unix socket's path ends at 108 bytes), a network namespace
of its own unless told otherwise, its own bridge and address range.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support import netns
from tests.support.rawhttp import Connection, Response, unix_dialer

if TYPE_CHECKING:
    import docker

SLOW = 10 if os.environ.get("DOCKYARD_TEST_VM") else 1  # how much longer things may take
START_SECONDS = 30.0 * SLOW
STOP_SECONDS = 20.0 * SLOW


class EngineFailed(Exception):
    """An engine did not start or stop as it should; the message ends with the last lines of its log."""


class Engine:
    """One running engine. Use as a context manager, or call `start` and `close`."""

    name = ""
    bridge = ""
    subnet = ""
    gateway = ""

    def __init__(self, private_network: bool = True, parent: str | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="dyt-", dir=parent or "/tmp"))
        self.root.chmod(0o755)
        self.socket_path = self.root / "s"
        self.data_root, self.exec_root = self.root / "data", self.root / "x"
        self.log_path = self.root / "log"
        self.namespace = netns.NetNamespace() if private_network else None
        self.process: subprocess.Popen[bytes] | None = None
        self.token = self.root.name

    # -- life -----------------------------------------------------------------------------------------------------

    def command(self) -> list[str]:
        """The daemon's argument vector."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "DOCKYARD_"))}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, *flags: str) -> None:
        """Start the daemon and wait until it answers `_ping`. Raises EngineFailed."""
        prefix = ["nsenter", f"--net={self.namespace.path}"] if self.namespace else []
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *self.command(), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None:
                raise EngineFailed(f"{self.name} ended with {self.process.returncode}\n{self.log_tail()}")
            if time.monotonic() > end:
                raise EngineFailed(f"{self.name} does not answer after {START_SECONDS} s\n{self.log_tail()}")
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            with Connection(unix_dialer(str(self.socket_path), 5)) as connection:
                return connection.get("/_ping").status == 200
        except OSError:
            return False

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9 of the daemon alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM and wait. Raises EngineFailed when it has to be killed in the end."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise EngineFailed(f"{self.name} does not stop at SIGTERM\n{self.log_tail()}") from None

    def close(self) -> None:
        """Remove every container, stop the daemon, take its ground away. Never raises for an engine already dead."""
        try:
            if self.alive and self.answers():
                self.remove_containers()
        finally:
            self._end()

    def _end(self) -> None:
        try:
            self.stop()
        finally:
            if self.namespace:
                self.namespace.close()
            self.sweep()

    def sweep(self) -> None:
        """Whatever a failed engine left mounted under its root is unmounted, then the root is removed."""
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in sorted((p for p in points if p.startswith(f"{self.root}/")), reverse=True):
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def remove_containers(self) -> None:
        """Every container, by force."""
        with self.api() as api:
            for row in api.get("/containers/json", all=True).json():
                answer = api.delete(f"/containers/{row['Id']}", force=True, v=True)
                if answer.status not in (204, 404, 409):
                    raise EngineFailed(f"{self.name}: cannot remove {row['Names']}: {answer.status} {answer.message}")

    def remove_stores(self) -> None:
        """Every volume and the build cache, which outlive their containers. Nothing when the engine is not there."""
        if not self.answers():
            return
        self.remove_containers()
        with self.api() as api:
            for volume in api.get("/volumes").json()["Volumes"] or ():
                api.delete(f"/volumes/{volume['Name']}", force=True)
            api.post("/build/prune", None, all=True)

    def log_tail(self, lines: int = 40) -> str:
        try:
            text = self.log_path.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(text[-lines:])

    # -- ways in --------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"unix://{self.socket_path}"

    def api(self, timeout: float = 60.0 * SLOW) -> Connection:
        """A new raw HTTP connection."""
        return Connection(unix_dialer(str(self.socket_path), timeout))

    def request(self, method: str, path: str, body: Any = None, **query: Any) -> Response:
        """One request on a connection of its own."""
        with self.api() as api:
            return api.request(method, path, body, query)

    def client(self) -> docker.DockerClient:
        """docker-py, negotiated. Imported here: `make run` does without it."""
        import docker

        return docker.DockerClient(base_url=self.url, timeout=60, version="auto")

    def cli_environment(self) -> dict[str, str]:
        config = self.root / "cli"
        config.mkdir(exist_ok=True)
        return {**self.environment(), "DOCKER_HOST": self.url, "DOCKER_CONFIG": str(config), "TERM": "xterm"}

    def docker(
        self, *arguments: str, input: bytes | None = None, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[bytes]:
        """The docker CLI. Raises AssertionError with what it printed when `check` and it fails."""
        done = subprocess.run(
            [docker_cli(), *arguments],
            check=False,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            env=self.cli_environment(),
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"docker {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout.decode(errors='replace')}"
                f"{done.stderr.decode(errors='replace')}"
            )
        return done

    def out(self, *arguments: str, **more: Any) -> str:
        """The docker CLI's standard output, stripped."""
        return self.docker(*arguments, **more).stdout.decode().strip()

    def spawn(self, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
        """The docker CLI in the background, all three streams as pipes."""
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([docker_cli(), *arguments], env=self.cli_environment(), **(options | more))

    @property
    def netns_path(self) -> str | None:
        return self.namespace.path if self.namespace else None

    def connect(self, port: int, host: str = "127.0.0.1", timeout: float = 5.0) -> socket.socket:
        """A TCP connection made where the engine's host ports are."""
        return netns.connect(self.netns_path, host, port, timeout)

    def in_network(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in the engine's network namespace."""
        prefix: Sequence[str] = ["nsenter", f"--net={self.namespace.path}"] if self.namespace else []
        return subprocess.run([*prefix, *argv], capture_output=True, text=True, check=check, timeout=30)


class Dockyardd(Engine):
    """Ours. `private_network=False` runs it in our own network namespace, as users do."""

    name = "dockyardd"

    def __init__(
        self,
        private_network: bool = True,
        parent: str | None = None,
        bridge: str = "dyt0",
        subnet: str = "10.231.9.0/24",
    ) -> None:
        super().__init__(private_network, parent)
        self.bridge, self.subnet = bridge, subnet
        self.gateway = f"{subnet.rsplit('.', 1)[0]}.1"
        self.config_file = self.root / "daemon.json"
        self.config_file.write_text("{}\n")

    def command(self) -> list[str]:
        return [
            *dockyardd_command(),
            *("--host", self.url),
            *("--data-root", str(self.data_root)),
            *("--exec-root", str(self.exec_root)),
            *("--pidfile", str(self.root / "pid")),
            *("--config-file", str(self.config_file)),
            *("--bridge", self.bridge),
            *("--bip", f"{self.gateway}/{self.subnet.split('/')[1]}"),
            *("--cdi-spec-dir", str(self.root / "cdi"), "--cdi-spec-dir", str(self.root / "cdi-run")),
        ]


class PeerDocker(Engine):
    """Debian's dockerd, with a containerd that it starts itself."""

    name = "dockerd"
    bridge = "docker0"
    subnet = "10.231.8.0/24"
    gateway = "10.231.8.1"

    def command(self) -> list[str]:
        config = self.root / "daemon.json"
        config.write_text("{}\n")
        return [
            shutil.which("dockerd") or "/usr/sbin/dockerd",
            *("--host", self.url),
            *("--data-root", str(self.data_root)),
            *("--exec-root", str(self.exec_root)),
            *("--pidfile", str(self.root / "pid")),
            *("--config-file", str(config)),
            *("--bip", f"{self.gateway}/24"),
            *("--cgroup-parent", f"/{self.token}"),
            "--log-level=warn",
        ]

    def stop(self) -> None:
        super().stop()
        # dockerd leaves containerd behind when it was killed itself.
        pidfile = self.exec_root / "containerd" / "containerd.pid"
        if pidfile.exists():
            try:
                os.kill(int(pidfile.read_text()), signal.SIGTERM)
            except (ProcessLookupError, ValueError):
                pass

    def sweep(self) -> None:
        top = Path("/sys/fs/cgroup")
        for parent in (*top.glob(self.token), *top.glob(f"*/{self.token}")):
            try:
                parent.rmdir()
            except OSError:
                pass
        super().sweep()


def dockyardd_command() -> list[str]:
    """The installed `dockyardd` beside our interpreter."""
    script = Path(sys.executable).with_name("dockyardd")
    return [str(script)] if script.exists() else [sys.executable, "-m", "dockyard.daemon"]


def docker_cli() -> str:
    """The docker client to test with. Raises FileNotFoundError."""
    found = os.environ.get("DOCKYARD_TEST_DOCKER_CLI") or shutil.which("docker")
    if not found:
        raise FileNotFoundError("no docker CLI: apt-get install docker.io (or Docker's docker-ce-cli)")
    return found


def why_no_peer() -> str | None:
    """Why Debian's dockerd cannot be run here; None when it can."""
    if os.environ.get("DOCKYARD_TEST_PEER") == "0":
        return "switched off by DOCKYARD_TEST_PEER=0"
    if os.geteuid() != 0:
        return "not root"
    missing = [tool for tool in ("dockerd", "containerd", "runc", "iptables") if not shutil.which(tool)]
    return f"not installed: {', '.join(missing)} (apt-get install docker.io)" if missing else None


def why_no_dockyardd() -> str | None:
    """Why dockyardd cannot be run here; None when it can."""
    return None if os.geteuid() == 0 else "dockyardd needs root"
