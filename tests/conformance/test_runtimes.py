"""Containers that another OCI runtime makes for dockyardd: what works with ours works with runc and crun.

What Docker's own engine does with runc is what the other conformance tests compare with; here are those of its parts
that depend on who made the container.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.engine.runtimes import known
from tests.conformance.test_network import fetch, published
from tests.support import busybox, leaks, steps
from tests.support.engines import Dockyardd, Engine, docker_cli, why_no_dockyardd
from tests.support.flagged import load_images
from tests.support.rawhttp import Connection
from tests.support.terminal import Terminal

pytestmark = pytest.mark.dockyardd_only("its runtimes")
MIB = 1 << 20
INSTALLED = sorted(set(known({})) - {"dockyard"})


@pytest.fixture(params=["runc", "crun"])
def name(request: pytest.FixtureRequest) -> str:
    if request.param not in INSTALLED:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def test_streams_and_exit_codes(engine: Engine, name: str) -> None:
    with_it = ("run", "--rm", "--runtime", name)
    done = engine.docker(*with_it, "-i", "bb", "sh", "-c", "cat; echo err >&2; exit 7", input=b"in", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in", b"err\n")
    assert engine.docker(*with_it, "bb", "sh", "-c", "kill -9 $$; sleep 1", check=False).returncode in (0, 137)
    for program, code in (("/none", 127), ("none", 127), ("/etc", 126)):
        failed = engine.docker(*with_it, "bb", program, check=False)
        assert failed.returncode == code, failed.stderr
    with Terminal([docker_cli(), *with_it, "-it", "bb", "sh"], engine.cli_environment(), rows=33) as terminal:
        terminal.expect(b"/ #")
        terminal.type(b"stty size; tty; exit 5\n")
        terminal.expect(b"33 80")
        terminal.expect(b"/dev/pts/0")
        assert terminal.finish() == 5


def test_life(engine: Engine, api: Connection, name: str) -> None:
    """exec, its user and terminal, pause, kill, stop, restart, logs, what ends with the container."""
    program = "trap 'echo stopping; exit 3' TERM; echo begun; while :; do sleep 0.1; done"
    container = steps.started(api, "sh", "-c", program, host={"Runtime": name}, Domainname="dom", User="7:8")
    steps.eventually(lambda: steps.logs(api, container)[0] == "begun\n")
    assert steps.inspect(api, container)["HostConfig"]["Runtime"] == name
    script = "id -u; echo $A; cat /proc/sys/kernel/domainname; grep -c . /proc/1/cmdline; exit 4"
    assert steps.exec_sh(api, container, script, Env=["A=b"], User="0") == (4, "0\nb\ndom\n1\n")
    assert steps.exec_sh(api, container, "id -u; id -g; grep CapEff /proc/self/status")[1].split()[:2] == ["7", "8"]
    assert engine.docker("exec", container, "none", check=False).returncode == 127
    assert engine.docker("exec", "-t", container, "tty").stdout.startswith(b"/dev/pts/")
    pid = steps.inspect(api, container)["State"]["Pid"]
    steps.expect(api.post(f"/containers/{container}/pause"), 204)
    assert Path(f"/proc/{pid}/wchan").exists()
    steps.expect(api.post(f"/containers/{container}/unpause"), 204)
    steps.expect(api.post(f"/containers/{container}/kill", signal="WINCH"), 204)
    rows = api.get(f"/containers/{container}/top").json()["Processes"]
    assert any(row[-1].startswith("sh -c") for row in rows), rows  # in the order of numbers, which begin anew
    steps.expect(api.post(f"/containers/{container}/restart", t=5), 204)
    steps.eventually(lambda: steps.logs(api, container)[0].endswith("stopping\nbegun\n"))  # it minds TERM from here
    steps.expect(api.post(f"/containers/{container}/stop", t=5), 204)
    assert steps.inspect(api, container)["State"]["ExitCode"] == 3
    steps.eventually(lambda: steps.logs(api, container)[0] == "begun\nstopping\n" * 2)


def test_a_port_and_limits(engine: Engine, api: Connection, name: str) -> None:
    host = {**published(18230), "Memory": 32 * MIB, "MemorySwap": 32 * MIB, "Runtime": name, "PidsLimit": 50}
    server = steps.started(api, "httpd", "-f", "-h", "/www", host=host, ExposedPorts={"80/tcp": {}})
    assert fetch(engine, 18230) == busybox.PAGE
    changed = {"Memory": 48 * MIB, "MemorySwap": 48 * MIB}
    steps.expect(api.post(f"/containers/{server}/update", changed), 200)
    stats = api.get(f"/containers/{server}/stats", stream=False).json()
    assert stats["memory_stats"]["limit"] == 48 * MIB and stats["pids_stats"]["limit"] == 50
    assert stats["networks"]["eth0"]["rx_bytes"] > 0 and stats["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    hungry = steps.started(api, "sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M", host={**host, "PortBindings": {}})
    assert steps.wait(api, hungry) == 137
    assert steps.inspect(api, hungry)["State"]["OOMKilled"] is True


def test_mounts_that_only_our_engine_makes(engine: Engine, api: Connection, name: str, tmp_path: Path) -> None:
    """A part of a volume, an image's files, files given to the user, mapped owners; nothing of it on the host."""
    engine.docker("volume", "create", "rtv")
    engine.docker("run", "--rm", "-v", "rtv:/v", "bb", "sh", "-c", "mkdir -p /v/a/b; echo deep > /v/a/b/f")
    tmp_path.chmod(0o711)
    (given := tmp_path / "given").mkdir()
    (owned := tmp_path / "owned").mkdir()
    os.chown(owned, 1234, 1234)
    mounts = [
        {"Type": "volume", "Source": "rtv", "Target": "/part", "VolumeOptions": {"Subpath": "a/b"}},
        {"Type": "image", "Source": "bb", "Target": "/image"},
    ]
    binds = [f"{given}:/given:U", f"{owned}:/owned:idmap"]
    script = "cat /part/f; ls -d /image/bin; stat -c %u /given /owned; touch /owned/n; touch /image/x || echo ro"
    host = {"Runtime": name, "Mounts": mounts, "Binds": binds}
    code, out, err = steps.run(api, "sh", "-c", script, host=host, User="7")
    assert (code, out) == (0, "deep\n/image/bin\n7\n7\nro\n"), err
    assert (owned / "n").stat().st_uid == 1234
    assert str(engine.exec_root) not in Path("/proc/self/mountinfo").read_text()
    steps.remove(api, steps.create(api, "true"))
    engine.remove_containers()
    engine.docker("volume", "rm", "rtv")


def test_security(engine: Engine, name: str) -> None:
    """Default filter, capabilities and hidden paths are those of our own runtime."""
    script = "grep -E '^(Cap...|Seccomp|NoNewPrivs):' /proc/self/status; cat /proc/kcore | head -c 1; ls /sys/firmware"
    found = {
        runtime: engine.docker("run", "--rm", "--runtime", runtime, "--user", user, "bb", "sh", "-c", script).stdout
        for runtime, user in ((name, "0:0"), ("dockyard", "0:0"))
    }
    assert found[name] == found["dockyard"]
    command = ("run", "--rm", "--runtime", name, "--user", "5", "bb", "grep", "CapEff", "/proc/self/status")
    assert engine.docker(*command).stdout.split()[1] == b"0" * 16
    null = os.stat("/dev/null")
    command = ("run", "--rm", "--runtime", name, "--user", "5", "bb", "stat", "-Lc", "%d:%i", "/proc/self/fd/0")
    assert engine.docker(*command).stdout.decode().strip() != f"{null.st_dev}:{null.st_ino}"
    assert os.stat("/dev/null").st_uid == null.st_uid
    unnamed = engine.docker("run", "--rm", "--runtime", name, "--init", "bb", "true", check=False)
    assert b"--init works with the runtime dockyard only" in unnamed.stderr


def runs(pid: int) -> bool:
    """Also not as a zombie: whoever adopts it here may take its time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Iterator[Dockyardd]:
    if request.config.getoption("--engine") == "dockerd":
        pytest.skip("only dockerd is asked")
    missing = why_no_dockyardd() or (None if INSTALLED else "neither runc nor crun is installed")
    if missing:
        pytest.skip(missing)
    running = Dockyardd()
    extra = {"path": known({})[INSTALLED[-1]].path, "runtimeArgs": ["--debug"]}
    running.config_file.write_text(json.dumps({"runtimes": {"x": extra}, "default-runtime": "x"}))
    with running:
        load_images(running)
        yield running
        running.remove_containers()
        running.stop()
        left = leaks.settle(lambda: leaks.snapshot(leaks.Ground(str(running.root), None)).left(leaks.Snapshot()))
    assert not left, "left behind:\n" + "\n".join(left)


def test_a_configured_default_runtime_over_lost_daemons_and_monitors(daemon: Dockyardd) -> None:
    with daemon.api() as api:
        info = api.get("/info").json()
        assert info["DefaultRuntime"] == "x" and info["Runtimes"]["x"]["runtimeArgs"] == ["--debug"]
        running, other, third = (steps.started(api, "sleep", "1000") for _ in range(3))
        states = {one: steps.inspect(api, one)["State"]["Pid"] for one in (running, other, third)}
        assert steps.inspect(api, running)["HostConfig"]["Runtime"] == "x"
    monitors = {one: json.loads((daemon.exec_root / "containers" / one / "state.json").read_text()) for one in states}
    os.kill(monitors[other]["monitor"], signal.SIGKILL)
    with daemon.api() as api:
        steps.eventually(lambda: not steps.inspect(api, other)["State"]["Running"])
        assert steps.inspect(api, other)["State"]["Error"] == "monitor lost"
    assert not runs(states[other])
    daemon.kill()
    os.kill(monitors[third]["monitor"], signal.SIGKILL)  # nobody there to see it
    time.sleep(0.3)
    assert runs(states[running])
    daemon.start()
    with daemon.api() as api:
        steps.eventually(lambda: not steps.inspect(api, third)["State"]["Running"])
        assert not runs(states[third])
        assert steps.exec_sh(api, running, "echo there") == (0, "there\n")
        for one in (other, third):
            steps.start(api, one)
        steps.expect(api.post(f"/containers/{running}/kill"), 204)
        assert steps.wait(api, running) == 137
