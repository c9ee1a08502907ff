"""Fields of the newer versions of the OCI runtime specification: network devices, memory policy, affinity, limits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux.seccomp import supported_flags
from dockyard.runtime.cgroups import version
from tests.support.leaks import CGROUPS
from tests.support.oci import OURS, Bundle, OciRuntime

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_the_process_and_its_surroundings(ours: OciRuntime, bundle: Bundle) -> None:
    config = bundle.config
    config["process"] |= {
        "cwd": "/var", "env": ["A=b c", "PATH=/bin"], "oomScoreAdj": 77,
        "user": {"uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o027},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        "scheduler": {"policy": "SCHED_BATCH", "nice": 3}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
    }  # fmt: skip
    config |= {"hostname": "named", "domainname": "example.org", "root": {"path": "rootfs", "readonly": True}}
    config["linux"] |= {
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "maskedPaths": ["/etc/group"],
        "readonlyPaths": ["/dev/shm"],
        "devices": [
            {"type": "c", "path": "/dev/mine", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 8, "gid": 9},
            {"type": "p", "path": "/dev/pipe"},
        ],
    }
    del config["linux"]["seccomp"]
    script = """
        pwd; echo "$A"; umask; ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_forward
        cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname; id -u; id -g; id -G
        cut -d' ' -f19,41 /proc/self/stat; stat -c '%a %u:%g %t:%T %F' /dev/mine; stat -c %F /dev/pipe
        wc -c < /etc/group; touch /x 2>/dev/null || echo refused; touch /dev/shm/x 2>/dev/null || echo refused
    """
    found = ours.run(bundle.sh(script)).stdout.splitlines()
    assert found == [
        "/var", "b c", "0027", "100", "200", "77", "1", "named", "example.org", "5", "6", "6 7", "3 3",
        "640 8:9 1:3 character special file", "fifo", "0", "refused", "refused",
    ]  # fmt: skip


def test_capabilities_that_nobody_knows_are_told_and_left_out(ours: OciRuntime, bundle: Bundle) -> None:
    bundle.config["process"]["capabilities"]["bounding"].append("CAP_OF_TOMORROW")
    done = ours.run(bundle.sh("echo ran"))
    assert done.stdout == "ran\n"
    assert "warning: process.capabilities.bounding: 'CAP_OF_TOMORROW' is unknown" in done.stderr


def files(runtime: OciRuntime, identity: str, name: str) -> list[Path]:
    """Files of a container's control group, in whichever hierarchy."""
    return [
        *CGROUPS.glob(f"*/{runtime.parent}/{identity}/{name}"),
        *CGROUPS.glob(f"{runtime.parent}/{identity}/{name}"),
    ]


def test_limits_are_in_the_files_of_the_control_group(ours: OciRuntime, bundle: Bundle) -> None:
    page, cpu = 1 << 20, str(min(os.sched_getaffinity(0)))
    bundle.config["linux"]["resources"] |= {
        "memory": {"limit": 64 * page, "swap": 96 * page, "reservation": 32 * page},
        "cpu": {"shares": 512, "quota": 20000, "period": 50000, "burst": 1000, "cpus": cpu, "mems": "0"},
        "pids": {"limit": 33},
    }
    wanted = {
        "memory.max": str(64 * page), "memory.swap.max": str(32 * page), "memory.low": str(32 * page),
        "cpu.weight": "20", "cpu.max": "20000 50000", "cpu.max.burst": "1000", "cpuset.cpus": cpu, "cpuset.mems": "0",
    }  # fmt: skip
    if version() == 1:
        bundle.config["linux"]["resources"]["memory"] |= {
            "swappiness": 7,
            "disableOOMKiller": True,
            "kernelTCP": 8 * page,
        }
        wanted = {
            "memory.limit_in_bytes": str(64 * page), "memory.memsw.limit_in_bytes": str(96 * page),
            "memory.soft_limit_in_bytes": str(32 * page), "memory.swappiness": "7",
            "memory.kmem.tcp.limit_in_bytes": str(8 * page), "cpu.shares": "512", "cpu.cfs_quota_us": "20000",
            "cpu.cfs_period_us": "50000", "cpu.cfs_burst_us": "1000", "cpuset.cpus": cpu, "cpuset.mems": "0",
        }  # fmt: skip
    identity = ours.started(bundle.sh("sleep 1000"))
    wanted["pids.max"] = "33"
    found = {name: [path.read_text().strip() for path in files(ours, identity, name)] for name in wanted}
    assert found == {name: [value] for name, value in wanted.items()}
    killer = [path.read_text() for path in files(ours, identity, "memory.oom_control")]
    assert all("oom_kill_disable 1" in text for text in killer)


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[OciRuntime]:
    """dockyard-runtime in a network namespace with two devices that may be given away."""
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        script = """
            ip link add one type veth peer name two
            ip link set one mtu 1400 address 02:00:00:00:00:07 up
            ip addr add 10.9.8.7/24 brd + dev one
            ip addr add fd00::7/64 dev one nodad
            ip addr add 10.1.1.1/32 scope link dev one
        """
        runtime = OciRuntime([*inside, *OURS], tmp_path / "state")
        try:
            subprocess.run([*inside, "sh", "-ec", script], check=True)
            yield runtime
        finally:
            runtime.close()
            holder.kill()


def links(runtime: OciRuntime) -> set[str]:
    words = [*runtime.command[:2], "ip", "-o", "link"]
    lines = subprocess.check_output(words, text=True).splitlines()
    return {line.split()[1].strip(":").partition("@")[0] for line in lines}


def test_network_devices_of_the_host(apart: OciRuntime, bundle: Bundle) -> None:
    bundle.config["linux"]["netDevices"] = {"one": {"name": "eth7"}, "two": {"name": "net%d"}}
    done = apart.run(
        bundle.sh("cd /sys/class/net; for d in eth7 net0; do cat $d/mtu $d/address; done; ip addr show eth7")
    )
    words = done.stdout.split()
    assert words[:3] == ["1400", "02:00:00:00:00:07", "1500"]
    assert "10.9.8.7/24" in words and "10.9.8.255" in words and "fd00::7/64" in words and "10.1.1.1/32" not in words
    assert "UP" in done.stdout
    assert links(apart) == {"lo"}, "virtual devices end with their namespace"


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ({"one": {"name": "x"}, "none": {}}, "linux.netDevices.none: no such network device"),
        (
            {"one": {"name": "x"}, "two": {"name": "x"}},
            "linux.netDevices.two: cannot be moved into the container as x: file",
        ),
        ({"one": {"name": "lo"}}, "cannot be moved into the container as lo: file exists"),
        ({"one": {"name": "a/b"}}, "linux.netDevices.one.name: 'a/b' is not a name"),
        ({"one": {"name": "sixteen-letters-"}}, "linux.netDevices.one.name"),
    ],
)
def test_network_devices_stay_where_one_cannot_be_moved(
    apart: OciRuntime, bundle: Bundle, devices: dict[str, Any], message: str
) -> None:
    bundle.config["linux"]["netDevices"] = devices
    done = apart.run(bundle, check=False)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert links(apart) == {"lo", "one", "two"}
    shown = subprocess.check_output([*apart.command[:2], "ip", "addr", "show", "one"], text=True)
    assert "10.9.8.7/24" in shown and ",UP" in shown


def test_network_devices_need_a_namespace(ours: OciRuntime, bundle: Bundle) -> None:
    namespaces = bundle.config["linux"]["namespaces"]
    bundle.config["linux"] |= {"netDevices": {"x": {}}, "namespaces": [n for n in namespaces if n["type"] != "network"]}
    assert "linux.netDevices: needs a network namespace" in ours.run(bundle, check=False).stderr


def test_memory_policy_of_containers_and_execs(ours: OciRuntime, bundle: Bundle) -> None:
    if not Path("/proc/self/numa_maps").exists():
        pytest.skip("the kernel has no NUMA")
    bundle.config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    bundle.config["linux"].pop("seccomp", None)
    read = "head -1 /proc/self/numa_maps"
    identity = ours.started(bundle.sh(f"{read} > /found; sleep 1000"))
    assert "bind=static:0" in ours.exec(identity, "sh", "-c", read).stdout
    assert "bind=static:0" in (bundle.root / "found").read_text()
    bundle.config["linux"]["memoryPolicy"] = {"mode": "MPOL_DEFAULT", "nodes": "0"}
    done = ours.run(bundle.sh("true"), check=False)
    assert done.returncode == 1 and "set_mempolicy" in done.stderr


def test_affinity_of_execs(ours: OciRuntime, bundle: Bundle) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    bundle.config["process"]["execCPUAffinity"] = {"initial": str(cpus[0]), "final": str(cpus[-1])}
    read = "sed -n 's/^Cpus_allowed_list:.//p' /proc/self/status"
    identity = ours.started(bundle.sh(f"{read} > /found; sleep 1000"))
    assert ours.exec(identity, "sh", "-c", read).stdout.strip() == str(cpus[-1])
    assert (bundle.root / "found").read_text().strip() != str(cpus[-1]) or len(cpus) == 1, "not of the first process"
    process = {**bundle.config["process"], "args": ["true"], "execCPUAffinity": {"initial": "1000"}}
    done = ours.exec_process(identity, process, check=False)
    assert done.returncode == 255 and "sched_setaffinity(1000)" in done.stderr


def test_huge_pages_in_use_and_reserved(ours: OciRuntime, bundle: Bundle) -> None:
    sizes = [path.name.removeprefix("hugepages-") for path in Path("/sys/kernel/mm/hugepages").glob("*-2048kB")]
    if not sizes or not list(CGROUPS.glob("hugetlb/hugetlb.2MB.limit_in_bytes")) + list(
        CGROUPS.glob("cgroup.controllers")
    ):
        pytest.skip("no control group of huge pages")
    bundle.config["linux"]["resources"]["hugepageLimits"] = [{"pageSize": "2MB", "limit": 4 << 20}]
    identity = ours.started(bundle.sh("sleep 1000"))
    found = [*files(ours, identity, "hugetlb.2MB.*limit_in_bytes"), *files(ours, identity, "hugetlb.2MB.*max")]
    found = [path for path in found if "usage" not in path.name]
    assert found and all(path.read_text().strip() == str(4 << 20) for path in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["linux"].update(memoryPolicy={"mode": "X"}), "linux.memoryPolicy.mode: 'X' is unknown"),
        (
            lambda c: c["linux"].update(memoryPolicy={"mode": "MPOL_BIND", "nodes": "a"}),
            "linux.memoryPolicy.nodes: 'a' is",
        ),
        (
            lambda c: c["linux"].update(memoryPolicy={"mode": "MPOL_BIND", "flags": ["X"]}),
            "linux.memoryPolicy.flags: 'X'",
        ),
        (lambda c: c["process"].update(execCPUAffinity={"final": "3-1"}), "process.execCPUAffinity.final: '3-1' is no"),
        (lambda c: c["process"].update(commandLine="x"), "process.commandLine: not supported on Linux"),
        (lambda c: c.update(windows={"x": 1}), "windows: not supported on Linux"),
        (
            lambda c: c["linux"].update(personality={"domain": "LINUX", "flags": ["X"]}),
            "personality.flags: none is supported",
        ),
        (lambda c: c["linux"].update(intelRdt={"enableCMT": True}), "linux.intelRdt.enableCMT: not supported"),
        (lambda c: c["linux"].update(intelRdt={"closID": "a/b"}), "linux.intelRdt.closID: 'a/b' is no name"),
        (
            lambda c: c["linux"].update(intelRdt={"memBwSchema": "L3:0=1"}),
            "linux.intelRdt.memBwSchema: must begin with MB:",
        ),
        (
            lambda c: c["linux"]["resources"].update(
                blockIO={"weightDevice": [{"major": 1, "minor": 1, "leafWeight": 5}]}
            ),
            "blockIO.weightDevice[0].leafWeight: the kernel has no such limit any more",
        ),
    ],
)
def test_what_is_refused_by_name(ours: OciRuntime, bundle: Bundle, change: Any, message: str) -> None:
    change(bundle.config)
    done = ours.run(bundle, check=False)
    assert done.returncode == 1 and message in done.stderr, done.stderr


def test_intel_rdt_without_resctrl(ours: OciRuntime, bundle: Bundle) -> None:
    if " resctrl " in Path("/proc/self/mountinfo").read_text():
        pytest.skip("this host has resctrl")
    bundle.config["linux"]["intelRdt"] = {"closID": "x"}
    assert "linux.intelRdt: this host has no resctrl file system" in ours.run(bundle, check=False).stderr


@pytest.mark.parametrize("command", ["checkpoint", "restore"])
def test_checkpoints_are_no_part_of_the_specification(ours: OciRuntime, command: str) -> None:
    done = ours(command, "x", check=False)
    assert (
        done.returncode == 1 and f"{command}: not supported: the OCI runtime specification has neither" in done.stderr
    )


def test_root_of_the_host_is_not_without_root(ours: OciRuntime, bundle: Bundle) -> None:
    ours.command.append("--rootless=true")
    done = ours.run(bundle, check=False)
    ours.command.pop()
    assert done.returncode == 1 and "--rootless: this is root of the host" in done.stderr


def test_features_name_what_is_done(ours: OciRuntime) -> None:
    import json

    found = json.loads(ours("features").stdout)
    assert (found["ociVersionMin"], found["ociVersionMax"]) == ("1.0.0", "1.3.0")
    assert found["linux"]["seccomp"]["supportedFlags"] == sorted(supported_flags())
    assert "SCMP_ACT_NOTIFY" in found["linux"]["seccomp"]["actions"]
    assert {"rnoatime", "idmap", "symfollow", "tmpcopyup"} <= set(found["mountOptions"])
    assert sys.platform == "linux" and found["linux"]["netDevices"] == {"enabled": True}
