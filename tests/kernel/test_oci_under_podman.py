"""podman runs containers with `--runtime dockyard-runtime`: Debian's podman and conmon, on a private root."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import busybox
from tests.support.leaks import CGROUPS
from tests.support.steps import eventually
from tests.support.terminal import Terminal

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not shutil.which("podman") or not shutil.which("conmon"), reason="podman is not installed"),
]


PARENT = "libpod_parent"  # of the control groups that podman asks for


class Podman:
    """podman with everything of its own below `directory`."""

    def __init__(self, directory: Path) -> None:
        runtime = directory / "dockyard-runtime"
        runtime.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path[:] = {sys.path!r}\n"
            "from dockyard.runtime.oci import main\nmain()\n"
        )
        runtime.chmod(0o755)
        self.command = [
            "podman", "--root", str(directory / "root"), "--runroot", str(directory / "run"),
            "--tmpdir", str(directory / "tmp"), "--cgroup-manager=cgroupfs", "--events-backend=file",
            "--storage-driver=vfs", "--runtime", str(runtime),
        ]  # fmt: skip

    def __call__(self, *words: str, check: bool = True, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run([*self.command, *words], input=given, capture_output=True, check=False, timeout=60)
        if check:
            assert done.returncode == 0, (words, done.stderr)
        return done

    def out(self, *words: str) -> str:
        return self(*words).stdout.decode().strip()


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    directory = tmp_path_factory.mktemp("podman")
    others = list(CGROUPS.glob(f"*/{PARENT}")) + list(CGROUPS.glob(PARENT))
    found = Podman(directory)
    (directory / "bb.tar").write_bytes(busybox.rootfs_tar())
    found("import", str(directory / "bb.tar"), "bb:latest")
    yield found
    found("rm", "--all", "--force", "--time", "0", check=False)
    for mount in (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()):
        if mount.startswith(str(directory)):
            subprocess.run(["umount", mount], check=False)
    shutil.rmtree(directory, ignore_errors=True)
    if not others:
        for top in (*CGROUPS.glob(f"*/{PARENT}"), *CGROUPS.glob(PARENT)):
            for group, _, _ in os.walk(top, topdown=False):
                os.rmdir(group)


def test_run(podman: Podman) -> None:
    done = podman("run", "--rm", "--network=none", "-i", "bb", "sh", "-c", "cat; exit 5", given=b"in", check=False)
    assert (done.returncode, done.stdout) == (5, b"in"), done.stderr
    assert podman.out("run", "--rm", "--network=host", "bb", "readlink", "/proc/self/ns/net") == os.readlink(
        "/proc/self/ns/net"
    )
    script = "id -u; grep -c -x 'Seccomp:.2' /proc/self/status; grep CapEff /proc/self/status; stat -c %a /tmp/t"
    options = ("--user", "7", "--read-only", "--tmpfs", "/tmp/t:mode=711", "--memory", "64m", "--network=none")
    assert podman.out("run", "--rm", *options, "bb", "sh", "-c", script).split() == [
        "7",
        "1",
        "CapEff:",
        "0" * 16,
        "711",
    ]
    assert podman("run", "--rm", "--network=none", "bb", "none", check=False).returncode == 127


def test_life(podman: Podman) -> None:
    program = "trap 'echo stopping; exit 3' TERM; echo begun; while :; do sleep 0.1; done"
    podman("run", "-d", "--name", "c", "--network=none", "--pids-limit", "50", "bb", "sh", "-c", program)
    assert podman("exec", "c", "sh", "-c", "exit 4", check=False).returncode == 4
    assert (
        podman.out("exec", "--user", "5", "--env", "A=b", "--workdir", "/etc", "c", "sh", "-c", "id -u; echo $A; pwd")
        == "5\nb\n/etc"
    )
    assert podman("exec", "c", "none", check=False).returncode == 127
    podman("pause", "c")
    assert podman.out("inspect", "-f", "{{.State.Status}}", "c") == "paused"
    podman("unpause", "c")
    podman("update", "--memory", "96m", "c", check=False)  # podman 4.3 has it, 4.2 has not
    assert "sh -c" in podman.out("top", "c", "args")
    podman("stop", "--time", "5", "c")
    assert podman.out("inspect", "-f", "{{.State.ExitCode}}", "c") == "3"
    assert podman.out("logs", "c") == "begun\nstopping"
    podman("start", "c")
    podman("kill", "--signal", "KILL", "c")
    eventually(lambda: podman.out("inspect", "-f", "{{.State.ExitCode}}", "c") == "137")
    identity = podman.out("inspect", "-f", "{{.Id}}", "c")
    podman("rm", "c")
    assert not list(CGROUPS.glob(f"*/{PARENT}/*{identity}*"))


def test_terminals(podman: Podman) -> None:
    words = [*podman.command, "run", "-it", "--rm", "--name", "t", "--network=none", "bb", "sh"]
    with Terminal(words, dict(os.environ), rows=33) as terminal:
        terminal.expect(b"/ #")
        terminal.type(b"tty; stty size\n")
        terminal.expect(b"/dev/pts/0")
        terminal.expect(b"33 80")
        with Terminal([*podman.command, "exec", "-it", "t", "sh"], dict(os.environ)) as second:
            second.expect(b"/ #")
            second.type(b"tty; exit\n")
            second.expect(b"/dev/pts/1")
        terminal.type(b"exit 5\n")
        assert terminal.finish() == 5


def test_a_user_namespace(podman: Podman) -> None:
    mapping = ("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
    script = "id -u; cat /proc/self/uid_map; touch /new; stat -c %u /new"
    found = podman.out("run", "--rm", "--network=none", *mapping, "bb", "sh", "-c", script)
    assert found.split() == ["0", "0", "100000", "65536", "0"]


def test_a_pod_and_a_health_check(podman: Podman) -> None:
    own = ("--infra-image", "bb", "--infra-command", "/bin/sleep 1000", "--network=none", "--share", "net,ipc,uts,pid")
    podman("pod", "create", "--name", "p", "--hostname", "shared", *own)
    podman("run", "-d", "--pod", "p", "--name", "a", "bb", "sh", "-c", "hostname > /dev/shm/from-a; exec sleep 1000")
    check = ("--health-cmd", "test -e /well", "--health-interval", "disable", "--health-retries", "1")
    podman("run", "-d", "--pod", "p", "--name", "b", *check, "bb", "sleep", "1000")
    eventually(lambda: podman("exec", "b", "cat", "/dev/shm/from-a", check=False).stdout == b"shared\n")
    assert len(podman.out("exec", "b", "pidof", "sleep").split()) == 3
    assert podman("healthcheck", "run", "b", check=False).returncode == 1
    podman("exec", "b", "touch", "/well")
    podman("healthcheck", "run", "b")
    assert podman.out("inspect", "-f", "{{.State.Health.Status}}", "b") == "healthy"
    podman("pod", "pause", "p")
    assert podman.out("pod", "ps", "--format", "{{.Status}}") == "Paused"
    podman("pod", "unpause", "p")
    podman("pod", "rm", "--force", "--time", "0", "p")


@pytest.mark.skipif(not shutil.which("catatonit"), reason="podman makes a pod's first container of catatonit")
def test_a_pod_of_kubernetes(podman: Podman, tmp_path: Path) -> None:
    container = {"name": "c", "image": "localhost/bb:latest", "command": ["sleep", "1000"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "k"}, "spec": {"containers": [container]}}
    (tmp_path / "pod.yaml").write_text(json.dumps(pod))  # which YAML is
    podman("play", "kube", "--network=none", str(tmp_path / "pod.yaml"))
    assert podman.out("exec", "k-c", "hostname") == "k"
    assert "sleep" in podman.out("generate", "kube", "k")
    podman("play", "kube", "--down", str(tmp_path / "pod.yaml"))
    assert podman.out("ps", "--all", "--quiet", "--filter", "pod=k") == ""


def test_a_container_that_says_when_it_is_ready(
    podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asked:
        asked.bind(str(tmp_path / "asked"))
        asked.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "asked"))
        options = ("--network=none", "--sdnotify=container", "--name", "ready")
        podman("run", "-d", *options, "bb", "sh", "-c", "echo $NOTIFY_SOCKET; exec sleep 1000")
        assert asked.recv(4096).startswith(b"MAINPID=")
        place = podman.out("logs", "ready")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as program:
            program.sendto(b"READY=1", f"/proc/{podman.out('inspect', '-f', '{{.State.Pid}}', 'ready')}/root{place}")
        assert asked.recv(4096) == b"READY=1"
    podman("rm", "--force", "--time", "0", "ready")
