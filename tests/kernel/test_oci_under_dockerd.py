"""`dockyard-runtime` in runc's place under Debian's dockerd and containerd: callers that we did not write."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.engines import PeerDocker, why_no_peer
from tests.support.flagged import load_images

pytestmark = pytest.mark.skipif(bool(why_no_peer()), reason=f"dockerd: {why_no_peer()}")

Docker = Callable[..., "subprocess.CompletedProcess[bytes]"]


class DockerOnOurRuntime(PeerDocker):
    """dockerd whose default runtime is ours."""

    def command(self) -> list[str]:
        ours = Path(sys.executable).with_name("dockyard-runtime")
        return [*super().command(), "--add-runtime", f"ours={ours}", "--default-runtime", "ours"]


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    if not shutil.which("docker") or not Path(sys.executable).with_name("dockyard-runtime").exists():
        pytest.skip("the docker CLI or the installed dockyard-runtime is missing")
    with DockerOnOurRuntime() as engine:
        load_images(engine)

        def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
            done = engine.docker(*arguments, check=False)
            assert done.returncode == code, f"{arguments}: {done.returncode}: {done.stderr.decode()}"
            return done

        yield run


def test_run_on_the_bridge(docker: Docker) -> None:
    """dockerd configures the network in a prestart hook."""
    shown = docker("run", "--rm", "bb", "sh", "-c", "ip addr show eth0; ip route; exit 3", code=3).stdout
    assert b"10.231.8." in shown and b"default via" in shown


def test_default_security(docker: Docker) -> None:
    shown = docker("run", "--rm", "bb", "grep", "-E", "^(Cap|Seccomp:)", "/proc/self/status").stdout.split()
    found = dict(zip(shown[::2], shown[1::2], strict=True))
    assert found[b"CapInh:"] == b"0000000000000000"
    assert found[b"CapBnd:"] == found[b"CapEff:"] == b"00000000a80425fb"
    assert found[b"Seccomp:"] == b"2"


def test_life_of_a_container(docker: Docker) -> None:
    docker("run", "-d", "--name", "life", "bb", "sleep", "1000")
    assert docker("exec", "life", "cat", "/proc/1/cmdline").stdout == b"sleep\x001000\x00"
    assert docker(
        "exec", "-u", "dock", "-w", "/tmp", "-e", "A=b", "life", "sh", "-c", "id -u; pwd; echo $A"
    ).stdout == (b"1000\n/tmp\nb\n")
    docker("exec", "life", "sh", "-c", "exit 9", code=9)
    docker("pause", "life")
    assert docker("inspect", "-f", "{{.State.Status}}", "life").stdout == b"paused\n"
    docker("unpause", "life")
    assert b"sleep 1000" in docker("top", "life").stdout
    docker("kill", "life")
    assert docker("wait", "life").stdout == b"137\n"
    docker("start", "life")
    docker("rm", "-f", "life")


def test_terminal(docker: Docker) -> None:
    assert docker("run", "--rm", "-t", "bb", "tty").stdout == b"/dev/pts/0\r\n"


def test_limits_are_seen_inside(docker: Docker) -> None:
    script = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true"
    assert docker("run", "--rm", "--pids-limit", "20", "bb", "sh", "-c", script).stdout == b"20\n"


def test_mounts(docker: Docker, tmp_path: Path) -> None:
    script = "touch /x/a /q 2>&1; touch /t/a && echo made"
    shown = docker("run", "--rm", "-v", f"{tmp_path}:/x:ro", "--read-only", "--tmpfs", "/t", "bb", "sh", "-c", script)
    assert shown.stdout.count(b"Read-only file system") == 2
    assert shown.stdout.endswith(b"made\n")


def test_a_missing_command(docker: Docker) -> None:
    failed = docker("run", "--rm", "bb", "nonesuch", code=127)
    assert b'exec: "nonesuch": executable file not found in $PATH' in failed.stderr
