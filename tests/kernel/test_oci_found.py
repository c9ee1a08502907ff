"""What the test suites of other OCI runtimes found amiss in ours, stated anew; runc passes the same where it has it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from dockyard.runtime import cgroups
from tests.support.leaks import CGROUPS
from tests.support.oci import Bundle, OciRuntime

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def without(bundle: Bundle, kind: str) -> dict[str, Any]:
    """`linux` of the bundle, with the host's namespace of this kind."""
    linux: dict[str, Any] = bundle.config["linux"]
    linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != kind]
    linux["sysctl"] = {}
    return linux


def test_sysctls_of_the_host_cannot_be_set(runtime: OciRuntime, bundle: Bundle) -> None:
    value = Path("/proc/sys/kernel/msgmax").read_text()
    linux = without(bundle, "ipc")
    for name in ("kernel.msgmax", "vm.max_map_count", "net/../kernel/msgmax"):
        linux["sysctl"] = {name: "1234"}
        assert runtime.run(bundle.sh("true"), check=False).returncode != 0, name
    assert Path("/proc/sys/kernel/msgmax").read_text() == value


def test_a_hook_without_env_has_that_of_the_runtime(runtime: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    tell = {"path": "/bin/sh", "args": ["sh", "-c", f"echo $SAID:$PATH >> {tmp_path}/told"]}
    bundle.config["hooks"] = {"createRuntime": [tell, {**tell, "env": ["SAID=no"]}]}
    runtime.run(bundle.sh("true"), env={"SAID": "yes", "PATH": "/usr/sbin:/usr/bin:/bin"})
    first, second = (tmp_path / "told").read_text().splitlines()
    assert first == "yes:/usr/sbin:/usr/bin:/bin" and second.startswith("no:")


def test_poststart_is_told_of_what_was_started(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    """However soon it ended. runc 1.1 runs this hook before the program."""
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"sleep 0.3; cat > {tmp_path}/told"]}
    bundle.config["hooks"] = {"poststart": [hook]}
    ours.run(bundle.sh("true"))
    state = json.loads((tmp_path / "told").read_text())
    assert state["status"] == "running" and state["pid"] > 1


@pytest.mark.parametrize("kind, seen", [("shared", "shared:"), ("unbindable", "unbindable"), ("private", "-")])
def test_the_propagation_of_the_root_itself(ours: OciRuntime, bundle: Bundle, kind: str, seen: str) -> None:
    """config-linux.md, "Rootfs Mount Propagation". runc 1.1 leaves the root mount private."""
    bundle.config["linux"]["rootfsPropagation"] = kind
    fields = ours.run(bundle.sh("grep -m1 ' / / \\| /[^ ]* / ' /proc/self/mountinfo")).stdout.split()
    assert fields[4] == "/" and fields[6].startswith(seen), fields


def test_a_slave_root_sees_what_the_host_mounts(runtime: OciRuntime, bundle: Bundle) -> None:
    subprocess.run(["mount", "--bind", "--make-shared", bundle.root, bundle.root], check=True)
    below = bundle.root / "below"
    below.mkdir()
    try:
        bundle.config["linux"]["rootfsPropagation"] = "rslave"
        identity = runtime.started(bundle.sh("sleep 1000"))
        subprocess.run(["mount", "-t", "tmpfs", "x", below], check=True)
        (below / "file").touch()
        assert runtime.exec(identity, "ls", "/below").stdout == "file\n"
        runtime("delete", "--force", identity)
    finally:
        subprocess.run(["umount", "-R", bundle.root], check=True)


def test_sockets_to_listen_at_are_handed_on(runtime: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    """sd_listen_fds(3): those that are for the runtime go to the container's first process, whose pid is 1."""
    (tmp_path / "file").write_text("text\n")
    text = "echo $LISTEN_FDS $LISTEN_PID; cat <&3"
    identity, directory = runtime.new_id(), bundle.sh(text).write()
    exports = f"exec 3<{tmp_path}/file; export LISTEN_FDS=1 LISTEN_PID=$$; exec "
    command = " ".join([*(f"'{word}'" for word in runtime.command), "run", "--bundle", str(directory), identity])
    done = subprocess.run(["sh", "-c", exports + command], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "1 1\ntext\n", done
    others = subprocess.run(
        ["sh", "-c", exports.replace("$$", "1") + command], capture_output=True, text=True, timeout=30, check=False
    )
    assert "text" not in others.stdout, "they are for somebody else"


def test_a_strict_filter_does_not_hide_the_program(runtime: OciRuntime, bundle: Bundle) -> None:
    """One that is older than faccessat2(2) and answers EPERM."""
    for call in bundle.config["linux"]["seccomp"]["syscalls"]:
        call["names"] = [name for name in call["names"] if name != "faccessat2"]
    bundle.config["linux"]["seccomp"] |= {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1}
    for new_privileges in (True, False):
        bundle.config["process"]["noNewPrivileges"] = not new_privileges
        assert runtime.run(bundle.sh("echo runs")).stdout == "runs\n"


def test_a_frozen_control_group_is_refused(ours: OciRuntime, bundle: Bundle) -> None:
    """Nobody could start or end what would be frozen at birth. runc 1.1 only warns, and waits."""
    identity = ours.new_id()
    v1 = cgroups.version() == 1
    group = CGROUPS / ("freezer" if v1 else "") / ours.parent / identity
    state = group / ("freezer.state" if v1 else "cgroup.freeze")
    group.mkdir(parents=True)
    state.write_text("FROZEN" if v1 else "1")
    bundle.config["linux"]["cgroupsPath"] = f"/{ours.parent}/{identity}"
    try:
        began = time.monotonic()
        done = ours("run", "--bundle", str(bundle.sh("true").write()), identity, check=False)
        assert done.returncode == 1 and "container's cgroup unexpectedly frozen" in done.stderr
        assert time.monotonic() - began < 10 and group.exists()
        others = [path for path in CGROUPS.glob(f"*/{ours.parent}/{identity}") if path != group]
        assert not others, "nothing half-made"
    finally:
        group.rmdir()


@pytest.mark.parametrize("link", ["../run/not/here", "/run/not/here", "other"])
def test_a_bind_over_a_link_that_leads_nowhere_yet(
    runtime: OciRuntime, bundle: Bundle, tmp_path: Path, link: str
) -> None:
    """It is made where the link leads, inside the root: as /etc/resolv.conf is in many images."""
    (tmp_path / "file").write_text("text\n")
    (bundle.root / "etc" / "other").symlink_to("../../../../../run/again")
    (bundle.root / "etc" / "link").symlink_to(link)
    bundle.config["mounts"].append({"destination": "/etc/link", "source": str(tmp_path / "file"), "options": ["bind"]})
    assert runtime.run(bundle.sh("cat /etc/link")).stdout == "text\n"
    assert (bundle.root / "run" / ("again" if link == "other" else "not/here")).is_file()


def test_a_link_to_itself_is_no_place_for_a_mount(runtime: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    (bundle.root / "etc" / "loop").symlink_to("loop")
    bundle.config["mounts"].append({"destination": "/etc/loop", "source": str(tmp_path), "options": ["bind"]})
    done = runtime.run(bundle.sh("true"), check=False)
    assert done.returncode != 0 and "too many" in done.stderr.lower()


def test_devices_where_nothing_is_mounted_at_dev(runtime: OciRuntime, bundle: Bundle) -> None:
    """config-linux.md, "Default Devices": they are there in any case."""
    bundle.config["mounts"] = [each for each in bundle.config["mounts"] if not each["destination"].startswith("/dev")]
    bundle.config["linux"]["devices"] = [{"path": "/dev/made", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600}]
    out = runtime.run(bundle.sh("stat -c '%n %t:%T' /dev/null /dev/full /dev/made; readlink /dev/stdin")).stdout
    assert out.split("\n")[:4] == ["/dev/null 1:3", "/dev/full 1:7", "/dev/made 1:5", "/proc/self/fd/0"]


def test_an_exec_that_does_not_get_to_its_program_ends_with_255(runtime: OciRuntime, bundle: Bundle) -> None:
    identity = runtime.started(bundle.sh("sleep 1000"))
    assert runtime("exec", identity, "false", check=False).returncode == 1
    assert runtime("exec", "--pid-file", "/no/such/file", identity, "true", check=False).returncode == 255
    assert runtime("exec", f"{identity}x", "true", check=False).returncode == 255


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_adds_a_mount_below_root_path(runtime: OciRuntime, bundle: Bundle, tmp_path: Path, name: str) -> None:
    """As those for GPUs do: they enter the mount namespace and mount below root.path; createContainer starts there."""
    (tmp_path / "file").write_text("text\n")
    (bundle.root / "tmp" / "here").touch()
    enter = "" if name == "createContainer" else "nsenter -t $(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/') -m "
    target = "tmp/here" if name == "createContainer" else f"{bundle.root}/tmp/here"
    script = f"exec {enter}mount --bind {tmp_path}/file {target}"
    bundle.config["hooks"] = {name: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    assert runtime.run(bundle.sh("cat /tmp/here")).stdout == "text\n"


def test_a_read_only_dev(runtime: OciRuntime, bundle: Bundle) -> None:
    """It has its nodes and mounts all the same."""
    for each in bundle.config["mounts"]:
        if each["destination"] == "/dev":
            each["options"].append("ro")
    out = runtime.run(bundle.sh("ls /dev/pts/ptmx; echo x > /dev/null; touch /dev/shm/x && mknod /dev/x p || echo ro"))
    assert out.stdout == "/dev/pts/ptmx\nro\n"


def test_containers_of_one_name_below_two_roots(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    """Neither is in the other's control group. runc 1.1 puts both into one."""
    identity = ours.new_id()
    bundle.config["linux"].pop("cgroupsPath", None)
    directory = str(bundle.sh("sleep 1000").write())
    roots = [("--root", str(tmp_path / name)) for name in ("one", "two")]
    try:
        for root in roots:
            ours.silently(*root, "run", "--detach", "--bundle", directory, identity)
    finally:
        for root in roots:
            ours(*root, "delete", "--force", identity)


def test_what_ends_a_start_early_is_told(ours: OciRuntime, bundle: Bundle) -> None:
    """Also where the first process ends before it has read what it was sent (a connection reset comes first)."""
    (bundle.root / "proc").rmdir()
    (bundle.root / "proc").symlink_to("/elsewhere")
    for _ in range(5):
        done = ours.run(bundle.sh("true"), check=False)
        assert done.returncode == 1 and "mounting the root file system: " in done.stderr and "proc" in done.stderr


def test_no_memory_limit_any_more(runtime: OciRuntime, bundle: Bundle) -> None:
    """Nor one with swap, which could not stay below. Options may come behind the ID."""
    bundle.config["linux"]["resources"]["memory"] = {"limit": 64 << 20, "swap": 64 << 20}
    identity = runtime.started(bundle.sh("sleep 1000"))
    runtime("update", identity, "--memory", "-1")
    v1 = cgroups.version() == 1
    group = CGROUPS / ("memory" if v1 else "") / runtime.parent / identity
    value = (group / ("memory.limit_in_bytes" if v1 else "memory.max")).read_text().strip()
    assert value == "max" or int(value) > 1 << 60


@pytest.mark.skipif(cgroups.version() == 2, reason="a v2 cpuset has what its parent has")
def test_a_parent_whose_cpuset_is_empty(runtime: OciRuntime, bundle: Bundle) -> None:
    """mkdir makes one: no process can be in it or below until it has CPUs and nodes."""
    parent = CGROUPS / "cpuset" / runtime.parent / "pod"
    parent.mkdir(parents=True)
    identity = runtime.new_id()
    bundle.config["linux"]["cgroupsPath"] = f"/{runtime.parent}/pod/{identity}"
    try:
        runtime("run", "--bundle", str(bundle.sh("true").write()), identity)
        runtime("delete", "--force", identity, check=False)
    finally:
        for directory in CGROUPS.glob(f"*/{runtime.parent}/pod"):
            directory.rmdir()


@pytest.mark.skipif(cgroups.version() == 2, reason="v2 has quota and period in one file")
def test_a_shorter_period_below_a_parents_quota(runtime: OciRuntime, bundle: Bundle) -> None:
    """It makes the old quota a larger part than the parent has, until the new one is written."""
    bundle.config["linux"]["resources"]["cpu"] = {"quota": 30000, "period": 100000}
    identity = runtime.started(bundle.sh("sleep 1000"))
    parent = CGROUPS / "cpu" / runtime.parent
    (parent / "cpu.cfs_quota_us").write_text("50000")
    refused = runtime("update", "--cpu-quota", "60000", identity, check=False)
    assert refused.returncode == 1 and "nvalid argument" in refused.stderr and "Errno" not in refused.stderr
    runtime("update", "--cpu-period", "10000", "--cpu-quota", "3000", identity)
    assert (parent / identity / "cpu.cfs_period_us").read_text() == "10000\n"
