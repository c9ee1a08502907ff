"""The systemd cgroup driver with a real systemd (in the virtual machine: `python -m tools.vm --systemd`)."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.runtime import cgroups
from dockyard.runtime.cgroups import systemd
from tests.support import steps
from tests.support.engines import Dockyardd
from tests.support.flagged import load_images
from tests.support.oci import OURS

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        not systemd.available() or cgroups.version() != 2, reason="needs systemd as PID 1 and cgroup v2"
    ),
]
TREE = Path("/sys/fs/cgroup")
LIMITS = ["--memory=64m", "--memory-swap=96m", "--cpus=0.5", "--pids-limit=50", "--cpu-shares=512", "--cpuset-cpus=0"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Dockyardd]:
    with Dockyardd() as made:
        load_images(made)
        yield made


@pytest.fixture(autouse=True)
def nothing_left(engine: Dockyardd) -> Iterator[None]:
    yield
    if engine.alive:
        engine.remove_containers()
    steps.eventually(lambda: not scopes())


def scopes() -> list[str]:
    """The scopes of containers that systemd knows, and the groups that are there."""
    listed = systemctl("list-units", "--all", "--plain", "--no-legend", "dockyard-*.scope").split("\n")
    return [line.split()[0] for line in listed if line] + [str(path) for path in TREE.rglob("dockyard-*.scope")]


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=True, timeout=60).stdout


def shown(unit: str, *names: str) -> dict[str, str]:
    lines = systemctl("show", unit, *(f"--property={name}" for name in names)).splitlines()
    return dict(line.split("=", 1) for line in lines)


def group_of(engine: Dockyardd, container: str) -> Path:
    pid = engine.out("inspect", "-f", "{{.State.Pid}}", container)
    return TREE / Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")


def test_a_container_lives_in_a_scope_whose_limits_stay(engine: Dockyardd) -> None:
    assert engine.out("info", "-f", "{{.CgroupDriver}} {{.CgroupVersion}}") == "systemd 2"
    container = engine.out("run", "-d", "--name", "one", *LIMITS, "bb", "sleep", "1000")
    unit, group = f"dockyard-{container}.scope", group_of(engine, "one")
    assert group == TREE / "system.slice" / unit
    assert shown(unit, "Slice", "Delegate", "ActiveState", "MemoryMax", "MemorySwapMax", "TasksMax") == {
        "Slice": "system.slice",
        "Delegate": "yes",
        "ActiveState": "active",
        "MemoryMax": str(64 << 20),
        "MemorySwapMax": str(32 << 20),
        "TasksMax": "50",
    }
    files = {"memory.max": str(64 << 20), "cpu.max": "50000 100000", "pids.max": "50", "cpuset.cpus": "0"}
    systemctl("daemon-reload")
    assert {name: (group / name).read_text().strip() for name in files} == files

    engine.docker("update", "--memory=80m", "--memory-swap=80m", "--pids-limit=60", "--cpus=0.7", "one")
    files |= {"memory.max": str(80 << 20), "memory.swap.max": "0", "pids.max": "60", "cpu.max": "70000 100000"}
    assert {name: (group / name).read_text().strip() for name in files} == files
    systemctl("daemon-reload")
    assert {name: (group / name).read_text().strip() for name in files} == files
    assert shown(unit, "MemoryMax", "TasksMax") == {"MemoryMax": str(80 << 20), "TasksMax": "60"}

    assert engine.out("exec", "one", "cat", "/proc/self/cgroup") == "0::/"
    denied = engine.docker("exec", "one", "sh", "-c", "mknod /d b 7 0 && cat /d", check=False)
    assert denied.returncode, "device rules hold after a reload"
    engine.docker("pause", "one")
    engine.docker("unpause", "one")
    assert "sleep 1000" in engine.out("top", "one")
    with engine.api() as api:
        stats = api.get("/containers/one/stats", stream=False, **{"one-shot": True}).json()
    assert stats["memory_stats"]["limit"] == 80 << 20 and stats["pids_stats"]["limit"] == 60
    engine.docker("rm", "-f", "one")
    assert not scopes()


def test_a_parent_is_a_slice(engine: Dockyardd) -> None:
    failed = engine.docker("run", "--rm", "--cgroup-parent=/mine", "bb", "true", check=False)
    assert b'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"' in failed.stderr
    container = engine.out("run", "-d", "--cgroup-parent=mine-own.slice", "bb", "sleep", "1000")
    assert group_of(engine, container) == TREE / "mine.slice/mine-own.slice" / f"dockyard-{container}.scope"


def test_restarts_failures_and_kills_from_outside(engine: Dockyardd) -> None:
    with engine.api() as api:
        container = steps.sleeper(api)
        for _ in range(2):
            steps.expect(api.post(f"/containers/{container}/restart", t=0), 204)
        pid = steps.inspect(api, container)["State"]["Pid"]
        steps.eventually(lambda: steps.catches(pid, signal.SIGTERM))
        systemctl("stop", f"dockyard-{container}.scope")
        assert steps.wait(api, container) == 0
        steps.start(api, container)
        systemctl("kill", "--signal=KILL", f"dockyard-{container}.scope")
        assert steps.wait(api, container) == 137
    failed = engine.docker("run", "bb", "nosuch", check=False)
    assert failed.returncode == 127
    steps.eventually(lambda: not scopes())


def test_out_of_memory_is_told(engine: Dockyardd) -> None:
    eat = "head -c 100000000 /dev/zero | tail"
    for name in ("eater1", "eater2"):
        engine.docker("run", "--name", name, "--memory=16m", "--memory-swap=16m", "bb", "sh", "-c", eat, check=False)
        assert engine.out("inspect", "-f", "{{.State.OOMKilled}}", name) == "true"
        engine.docker(
            "run", "--name", f"{name}-exec", "-m16m", "--memory-swap=16m", "bb", "tail", "/dev/zero", check=False
        )
        assert engine.out("inspect", "-f", "{{.State.OOMKilled}}", f"{name}-exec") == "true"


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_other_runtimes(engine: Dockyardd, runtime: str) -> None:
    """A container's whole life: limits, exec, health, update, stats, pause, kill, restart, running out of memory."""
    words = ["--runtime", runtime, "--memory=64m", "--memory-swap=64m", "--pids-limit=50", "--health-cmd=test -e /tmp"]
    container = engine.out(
        "run", "-d", *words, "--health-interval=1s", "bb", "sh", "-c", "trap 'exit 3' TERM; sleep 1000 & wait"
    )
    group = group_of(engine, container)
    assert group == TREE / "system.slice" / f"dockyard-{container}.scope"
    assert (group / "memory.max").read_text().strip() == str(64 << 20)
    done = engine.docker("exec", container, "sh", "-c", "cat /proc/self/cgroup; exit 7", check=False)
    assert done.returncode == 7 and done.stdout.startswith(b"0::/"), done
    steps.eventually(
        lambda: engine.out("inspect", "-f", "{{.State.Health.Status}}", container) == "healthy", seconds=60
    )

    engine.docker("update", "--memory=80m", "--memory-swap=80m", "--pids-limit=60", "--cpus=0.7", container)
    files = {"memory.max": str(80 << 20), "pids.max": "60", "cpu.max": "70000 100000"}
    assert {name: (group / name).read_text().strip() for name in files} == files
    systemctl("daemon-reload")
    assert {name: (group / name).read_text().strip() for name in files} == files
    denied = engine.docker("exec", container, "sh", "-c", "mknod /d b 7 0 && cat /d", check=False)
    assert denied.returncode, "device rules hold"
    with engine.api() as api:
        stats = api.get(f"/containers/{container}/stats", stream=False, **{"one-shot": True}).json()
    assert stats["memory_stats"]["limit"] == 80 << 20 and stats["pids_stats"]["limit"] == 60
    assert stats["cpu_stats"]["cpu_usage"]["total_usage"] > 0

    engine.docker("pause", container)
    assert "frozen 1" in (group / "cgroup.events").read_text()
    engine.docker("unpause", container)
    assert "frozen 0" in (group / "cgroup.events").read_text()
    engine.docker("stop", "-t", "20", container)
    assert engine.out("inspect", "-f", "{{.State.ExitCode}}", container) == "3"
    engine.docker("start", container)
    engine.docker("kill", container)
    assert engine.out("wait", container) == "137"
    eat = [*words[:2], "--memory=16m", "--memory-swap=16m", "--name", f"hungry-{runtime}"]
    engine.docker("run", *eat, "bb", "tail", "/dev/zero", check=False)
    assert engine.out("inspect", "-f", "{{.State.OOMKilled}}", f"hungry-{runtime}") == "true"
    engine.remove_containers()
    steps.eventually(lambda: not scopes())


def test_by_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where systemd's own socket is not to be had."""
    monkeypatch.setattr(systemd, "PRIVATE", "/nonexistent")
    with subprocess.Popen(["sleep", "1000"]) as process:
        scope = systemd.Scope(":dockyard:by-bus", str(TREE))
        try:
            assert scope.adopt(process.pid, {"memory": {"limit": 32 << 20}})
            assert scope.pids() == [process.pid]
            assert (TREE / cgroups.location(scope.path) / "memory.max").read_text().strip() == str(32 << 20)
        finally:
            process.kill()
    scope.remove()
    assert not scopes()


def test_the_oci_command(tmp_path: Path) -> None:
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    subprocess.run(["cp", "/bin/busybox", tmp_path / "rootfs/bin/sh"], check=True)
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/sh", "-c", "sleep 1000"],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}], "cgroupsPath": "system.slice:dockyard:oci"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [*OURS, "--root", str(tmp_path / "state")]
    refused = subprocess.run([*command, "create", "-b", tmp_path, "o"], check=False, capture_output=True, timeout=60)
    assert b"needs --systemd-cgroup" in refused.stderr
    create = [*command, "--systemd-cgroup", "create", "-b", str(tmp_path), "o"]
    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run(create, check=False, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60)
    assert done.returncode == 0, (tmp_path / "out").read_text()
    try:
        pid = json.loads(subprocess.run([*command, "state", "o"], check=True, capture_output=True, timeout=60).stdout)[
            "pid"
        ]
        where = Path(f"/proc/{pid}/cgroup").read_text().strip()
        assert where == "0::/system.slice/dockyard-oci.scope"
    finally:
        subprocess.run([*command, "delete", "-f", "o"], check=True, timeout=60)
    assert not scopes()


def test_a_daemon_with_another_driver_takes_over(engine: Dockyardd) -> None:
    container = engine.out("run", "-d", "bb", "sleep", "1000")
    group = group_of(engine, container)
    engine.kill()
    engine.config_file.write_text(json.dumps({"exec-opts": ["native.cgroupdriver=cgroupfs"]}))
    engine.start()
    assert engine.out("info", "-f", "{{.CgroupDriver}}") == "cgroupfs"
    engine.docker("update", "--pids-limit=33", container)
    assert (group / "pids.max").read_text().strip() == "33"
    assert shown(group.name, "TasksMax") == {"TasksMax": "33"}
    engine.docker("restart", "-t0", container)
    assert group_of(engine, container) == TREE / "dockyard" / container
