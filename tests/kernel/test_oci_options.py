"""Options of the OCI command that runc or crun has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dockyard.runtime import cgroups
from tests.support.leaks import CGROUPS
from tests.support.oci import SECONDS, Bundle, OciRuntime
from tests.support.steps import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

NAMED = "memory:" if cgroups.version() == 1 else ""
TREE = CGROUPS / "memory" if cgroups.version() == 1 else CGROUPS


def test_an_exec_in_a_part_of_the_containers_group(runtime: OciRuntime, bundle: Bundle) -> None:
    identity = runtime.started(bundle.sh("sleep 1000"))
    own = f"/{runtime.parent}/{identity}"
    (TREE / own[1:] / "sub/deep").mkdir(parents=True)
    for word, place in ((f"{NAMED}sub", f"{own}/sub"), (f"{NAMED}sub/deep", f"{own}/sub/deep"), ("/", own)):
        runtime.silently("exec", "--detach", "--cgroup", word, identity, "sleep", "1000")
        members = (TREE / place[1:] / "cgroup.procs").read_text().split()
        assert len(members) == (2 if place == own else 1)
    for word, said in (
        ("..", ".. is not a sub cgroup path"),
        (f"{NAMED}none", "none/cgroup.procs: no such file or directory"),
        ("what:sub", "unknown controller"),
    ):
        refused = runtime("exec", "--cgroup", word, identity, "true", check=False)
        assert refused.returncode == 255 and said in refused.stderr, refused.stderr
    runtime("delete", "--force", identity)
    assert not (TREE / own[1:]).exists()


@pytest.mark.skipif(cgroups.version() != 2, reason="a group of v1 takes processes beside parts")
def test_an_exec_where_the_group_takes_no_processes(runtime: OciRuntime, bundle: Bundle) -> None:
    """systemd in a container moves itself to a part of its group and gives the others their controllers."""
    identity = runtime.started(bundle.sh("sleep 1000"))
    group = CGROUPS / runtime.parent / identity
    (group / "init").mkdir()
    (group / "init/cgroup.procs").write_text(str(runtime.state(identity)["pid"]))
    (group / "cgroup.subtree_control").write_text("+memory")
    assert runtime.exec(identity, "cat", "/proc/self/cgroup").stdout == "0::/init\n"
    refused = runtime("exec", "--cgroup", "/", identity, "true", check=False)
    assert refused.returncode == 255 and "busy" in refused.stderr.lower()


def test_an_exec_in_a_paused_container(runtime: OciRuntime, bundle: Bundle) -> None:
    identity = runtime.started(bundle.sh("sleep 1000"))
    runtime("pause", identity)
    refused = runtime("exec", identity, "true", check=False)
    assert refused.returncode == 255 and "use --ignore-paused to override" in refused.stderr
    command = [*runtime.command, "exec", "--ignore-paused", identity, "echo", "there"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        runtime("resume", identity)
        assert waiting.communicate(timeout=SECONDS)[0] == b"there\n" and waiting.returncode == 0


def test_an_exec_whose_pid_cannot_be_told_does_not_run(ours: OciRuntime, bundle: Bundle) -> None:
    identity = ours.started(bundle.sh("sleep 1000"))
    refused = ours("exec", "--pid-file", "/none/pid", identity, "sleep", "1000", check=False)
    assert refused.returncode == 255 and "/none/pid" in refused.stderr
    eventually(lambda: len(ours("ps", identity, "-e").stdout.splitlines()) == 2)


def test_a_configuration_elsewhere_and_containers_by_pattern(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    ids = [ours.create(bundle.sh("sleep 1000")) for _ in range(2)]
    other = f"x{ours.new_id()}"
    bundle.config["linux"]["cgroupsPath"] = f"/{ours.parent}/{other}"
    (bundle.write() / "config.json").rename(tmp_path / "other.json")
    options = ("--no-subreaper", "--bundle", str(bundle.directory), "--config", str(tmp_path / "other.json"))
    ours.silently("--cgroup-manager", "cgroupfs", "create", *options, other)
    try:
        refused = ours("kill", "--regex", "(", check=False)
        assert refused.returncode == 1 and "'(' is no regular expression" in refused.stderr
        ours("delete", "--force", "--regex", f"^({'|'.join(ids)})$")
        assert ours("list", "--quiet").stdout.split() == [other]
    finally:
        ours("delete", "--force", other)
