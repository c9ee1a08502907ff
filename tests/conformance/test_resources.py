"""Limits of containers: what the control groups say, on both versions; what is refused; what the kernel cannot hold."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection

pytestmark = pytest.mark.vm

CGROUP = Path("/sys/fs/cgroup")
UNIFIED = (CGROUP / "cgroup.controllers").exists()
MIB = 1 << 20


def group(pid: int, controller: str) -> Path:
    """The directory of a process's control group."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if UNIFIED or controller in names.split(","):
            return CGROUP / ("" if UNIFIED else controller) / path.lstrip("/")
    raise AssertionError(f"there is no controller {controller}")


def value(pid: int, v1: str, v2: str) -> str:
    """One control file, `controller/file` on v1."""
    controller, _, name = v1.partition("/")
    return (group(pid, controller) / (v2 if UNIFIED else name)).read_text().strip()


def pid_of(api: Connection, **host: Any) -> int:
    container = steps.started(api, "sleep", "1000", host=host)
    return int(steps.inspect(api, container)["State"]["Pid"])


def refused(api: Connection, **host: Any) -> str:
    answer = api.post("/containers/create", {"Image": steps.IMAGE, "HostConfig": host})
    assert answer.status == 400, (answer.status, answer.message)
    return answer.message


def test_limits_are_in_the_control_groups(api: Connection) -> None:
    pid = pid_of(
        api,
        Memory=64 * MIB, MemorySwap=96 * MIB, MemoryReservation=32 * MIB, CpuShares=512, CpuQuota=20000,
        CpuPeriod=50000, CpusetCpus="0", CpusetMems="0", PidsLimit=77,
    )  # fmt: skip
    assert value(pid, "memory/memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    assert value(pid, "memory/memory.memsw.limit_in_bytes", "memory.swap.max") == str((32 if UNIFIED else 96) * MIB)
    assert value(pid, "memory/memory.soft_limit_in_bytes", "memory.low") == str(32 * MIB)
    assert value(pid, "cpu/cpu.shares", "cpu.weight") == ("20" if UNIFIED else "512")
    assert value(pid, "cpu/cpu.cfs_quota_us", "cpu.max") == ("20000 50000" if UNIFIED else "20000")
    if not UNIFIED:
        assert value(pid, "cpu/cpu.cfs_period_us", "") == "50000"
    assert value(pid, "cpuset/cpuset.cpus", "cpuset.cpus") == "0"
    assert value(pid, "cpuset/cpuset.mems", "cpuset.mems") == "0"
    assert value(pid, "pids/pids.max", "pids.max") == "77"
    assert "Requested memory nodes are not available - requested 63" in refused(api, CpusetMems="63")


def test_half_a_processor_no_swap_no_limit_of_processes(api: Connection) -> None:
    pid = pid_of(api, NanoCpus=500_000_000, Memory=32 * MIB, MemorySwap=32 * MIB, PidsLimit=-1)
    assert value(pid, "cpu/cpu.cfs_quota_us", "cpu.max") == ("50000 100000" if UNIFIED else "50000")
    assert value(pid, "memory/memory.memsw.limit_in_bytes", "memory.swap.max") == ("0" if UNIFIED else str(32 * MIB))
    assert value(pid, "pids/pids.max", "pids.max") == "max"


def test_swap_is_as_much_as_memory_by_default(api: Connection) -> None:
    container = steps.started(api, "sleep", "1000", host={"Memory": 32 * MIB})
    shown = steps.inspect(api, container)
    assert shown["HostConfig"]["MemorySwap"] == 64 * MIB
    both = value(shown["State"]["Pid"], "memory/memory.memsw.limit_in_bytes", "memory.swap.max")
    assert both == str((32 if UNIFIED else 64) * MIB)


@pytest.mark.skipif(UNIFIED, reason="cgroup v2 has neither")
def test_swappiness_and_no_out_of_memory_killer(api: Connection) -> None:
    pid = pid_of(api, Memory=32 * MIB, MemorySwappiness=7, OomKillDisable=True)
    assert value(pid, "memory/memory.swappiness", "") == "7"
    assert "oom_kill_disable 1" in value(pid, "memory/memory.oom_control", "")


@pytest.mark.dockyardd_only("20.10 does not set it on a kernel of today")
@pytest.mark.skipif(UNIFIED, reason="cgroup v2 has no such limit")
def test_a_limit_of_the_buffers_of_tcp(api: Connection) -> None:
    pid = pid_of(api, KernelMemoryTCP=8 * MIB)
    assert value(pid, "memory/memory.kmem.tcp.limit_in_bytes", "") == str(8 * MIB)


@pytest.mark.skipif(not UNIFIED, reason="cgroup v1 has both")
def test_what_the_kernel_cannot_hold_is_told_and_dropped(api: Connection) -> None:
    host = {"Memory": 32 * MIB, "MemorySwappiness": 7, "OomKillDisable": True, "KernelMemoryTCP": MIB}
    answer = api.post("/containers/create", {"Image": steps.IMAGE, "Cmd": ["true"], "HostConfig": host}).json()
    assert "Your kernel does not support OomKillDisable. OomKillDisable discarded." in answer["Warnings"]
    assert any("swappiness discarded" in warning for warning in answer["Warnings"])
    assert any("kernel memory TCP limit" in warning for warning in answer["Warnings"])
    kept = steps.inspect(api, answer["Id"])["HostConfig"]
    assert kept["MemorySwappiness"] is None and not kept["OomKillDisable"]


def test_reads_and_writes_of_a_disk_are_throttled(api: Connection) -> None:
    disk = next((d for d in Path("/dev").iterdir() if d.name in ("vda", "sda", "nvme0n1", "xvda", "loop0")), None)
    if disk is None:
        pytest.skip("there is no disk")
    number = f"{os.major(disk.stat().st_rdev)}:{os.minor(disk.stat().st_rdev)}"
    limits = {"BlkioDeviceReadBps": 1048576, "BlkioDeviceWriteBps": 2097152, "BlkioDeviceReadIOps": 300,
              "BlkioDeviceWriteIOps": 400}  # fmt: skip
    pid = pid_of(api, **{name: [{"Path": str(disk), "Rate": rate}] for name, rate in limits.items()})
    if UNIFIED:
        assert value(pid, "", "io.max") == f"{number} rbps=1048576 wbps=2097152 riops=300 wiops=400"
        return
    assert value(pid, "blkio/blkio.throttle.read_bps_device", "") == f"{number} 1048576"
    assert value(pid, "blkio/blkio.throttle.write_bps_device", "") == f"{number} 2097152"
    assert value(pid, "blkio/blkio.throttle.read_iops_device", "") == f"{number} 300"
    assert value(pid, "blkio/blkio.throttle.write_iops_device", "") == f"{number} 400"


@pytest.mark.dockyardd_only("20.10 does not know the BFQ scheduler's file")
def test_the_weight_of_block_io_is_set_or_discarded_with_a_warning(api: Connection) -> None:
    body = {"Image": steps.IMAGE, "Cmd": ["sleep", "1000"], "HostConfig": {"BlkioWeight": 300}}
    answer = api.post("/containers/create", body).json()
    steps.start(api, answer["Id"])
    pid = steps.inspect(api, answer["Id"])["State"]["Pid"]
    directory = group(pid, "blkio")
    files = [directory / name for name in ("blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight")]
    found = next((file.read_text().split()[-1] for file in files if file.exists()), None)
    if found is None:
        assert any("Block I/O weight" in warning for warning in answer["Warnings"])
    else:
        assert found in ("300", "2930", "293") and not answer["Warnings"]


def test_a_process_that_takes_too_much_is_killed_and_it_is_told(engine: Engine, api: Connection) -> None:
    container = steps.create(
        api, "sh", "-c", "exec tail /dev/zero", host={"Memory": 16 * MIB, "MemorySwap": 16 * MIB}, name="hungry"
    )
    steps.start(api, container)
    assert steps.wait(api, container) == 137
    state = steps.eventually(
        lambda: steps.inspect(api, container)["State"], lambda state: state["OOMKilled"], seconds=5
    )
    assert state["OOMKilled"] is True and state["ExitCode"] == 137


def test_device_rules_and_devices(api: Connection, tmp_path: Path) -> None:
    node = tmp_path / "node"
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(240, 9))
    script = (
        "mknod /z c 240 7; head -c1 /z 2>&1 | grep -q 'No such device' && echo allowed;"  # it has no driver
        "mknod /k c 240 8; head -c1 /k 2>&1 | grep -q 'not permitted' && echo denied;"
        "head -c1 /dev/named 2>&1 | grep -q 'No such device' && echo read;"
        "(echo x > /dev/named) 2>&1 | grep -q 'not permitted' && echo not-written"
    )
    host = {
        "DeviceCgroupRules": ["c 240:7 rwm"],
        "Devices": [{"PathOnHost": str(node), "PathInContainer": "/dev/named", "CgroupPermissions": "r"}],
    }
    assert steps.run(api, "sh", "-c", script, host=host)[1].split() == ["allowed", "denied", "read", "not-written"]


def test_ulimits_shm_and_sysctls(api: Connection) -> None:
    script = "ulimit -n; ulimit -Hn; df -k /dev/shm | tail -1 | awk '{print $2}'; cat /proc/sys/kernel/shm_rmid_forced"
    host = {
        "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}], "ShmSize": 4 * MIB,
        "Sysctls": {"kernel.shm_rmid_forced": "1"},
    }  # fmt: skip
    assert steps.run(api, "sh", "-c", script, host=host)[1].split() == ["100", "200", "4096", "1"]


def test_the_first_to_be_killed(api: Connection) -> None:
    assert steps.run(api, "cat", "/proc/self/oom_score_adj", host={"OomScoreAdj": 500})[1].strip() == "500"


def test_a_parent_of_its_own(engine: Engine, api: Connection) -> None:
    parent = f"/dyt-parent-{os.getpid()}"
    container = steps.started(api, "sleep", "1000", host={"CgroupParent": parent})
    pid = steps.inspect(api, container)["State"]["Pid"]
    try:
        assert str(group(pid, "pids")).endswith(f"{parent}/{container}")
    finally:
        steps.remove(api, container)
        for directory in CGROUP.glob("**" + parent):
            steps.eventually(lambda directory=directory: not any(each.is_dir() for each in directory.iterdir()))
            directory.rmdir()


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ({"Memory": MIB}, "Minimum memory limit allowed is 6MB"),
        ({"Memory": 64 * MIB, "MemorySwap": 32 * MIB}, "Minimum memoryswap limit should be larger than memory limit"),
        ({"MemorySwap": 64 * MIB}, "You should always set the Memory limit when using Memoryswap limit"),
        ({"Memory": 32 * MIB, "MemoryReservation": 64 * MIB}, "can not be less than memory reservation limit"),
        ({"MemorySwappiness": 101}, "valid memory swappiness range is 0-100"),
        ({"NanoCpus": 1_000_000_000, "CpuQuota": 50000}, "Nano CPUs and CPU Quota cannot both be set"),
        ({"NanoCpus": 1_000_000_000, "CpuPeriod": 50000}, "Nano CPUs and CPU Period cannot both be set"),
        ({"NanoCpus": 10_000_000_000_000}, "ange of CPUs is from 0.01 to"),
        ({"CpuPeriod": 10}, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
        ({"CpuQuota": 10}, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        ({"CpusetCpus": "x"}, "Invalid value x for cpuset cpus"),
        ({"CpusetCpus": "900"}, "Requested CPUs are not available - requested 900, available: 0-"),
        ({"OomScoreAdj": 1001}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
        ({"BlkioDeviceReadBps": [{"Path": "/dev/nosuch", "Rate": 1}]}, "/dev/nosuch"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(api: Connection, host: dict[str, Any], said: str) -> None:
    body = {"Image": steps.IMAGE, "Cmd": ["true"], "HostConfig": host}
    answer = api.post("/containers/create", body)
    if answer.status == 201:  # some are found at the start
        answer = api.post(f"/containers/{answer.json()['Id']}/start")
    assert answer.status in (400, 500) and said in answer.message, (answer.status, answer.message)


# Changing them in place.


def test_update_of_what_runs(engine: Engine, api: Connection) -> None:
    container = steps.started(api, "sleep", "1000", host={"Memory": 32 * MIB})
    pid = steps.inspect(api, container)["State"]["Pid"]
    flags = "--memory 64m --memory-swap 128m --memory-reservation 16m --cpu-shares 256 --pids-limit 20 --cpuset-cpus 0"
    assert engine.out("update", *flags.split(), "--cpu-quota", "30000", container) == container
    assert value(pid, "memory/memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    assert value(pid, "memory/memory.memsw.limit_in_bytes", "memory.swap.max") == str((64 if UNIFIED else 128) * MIB)
    assert value(pid, "cpu/cpu.shares", "cpu.weight") == ("10" if UNIFIED else "256")
    assert value(pid, "pids/pids.max", "pids.max") == "20"
    assert value(pid, "cpu/cpu.cfs_quota_us", "cpu.max") == ("30000 100000" if UNIFIED else "30000")
    assert value(pid, "cpuset/cpuset.cpus", "cpuset.cpus") == "0"
    engine.docker("update", "--memory", "24m", "--memory-swap", "-1", container)
    assert value(pid, "memory/memory.limit_in_bytes", "memory.max") == str(24 * MIB)
    host = steps.inspect(api, container)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["CpuShares"], host["PidsLimit"]) == (24 * MIB, -1, 256, 20)
    for change, limit in (
        ({"PidsLimit": None}, 20),
        ({"PidsLimit": -1}, 0),
        ({"PidsLimit": 7}, 7),
        ({"PidsLimit": 0}, 0),
    ):
        steps.expect(api.post(f"/containers/{container}/update", change), 200)
        assert steps.inspect(api, container)["HostConfig"]["PidsLimit"] == limit, change
        assert value(pid, "pids/pids.max", "pids.max") == str(limit or "max")


def test_update_of_what_does_not_run_counts_at_its_start(api: Connection) -> None:
    container = steps.create(api, "sleep", "1000")
    answer = api.post(f"/containers/{container}/update", {"NanoCpus": 300_000_000, "PidsLimit": 31})
    assert (answer.status, answer.json()) == (200, {"Warnings": None}) or answer.json() == {"Warnings": []}
    steps.start(api, container)
    pid = steps.inspect(api, container)["State"]["Pid"]
    assert value(pid, "cpu/cpu.cfs_quota_us", "cpu.max") == ("30000 100000" if UNIFIED else "30000")
    assert value(pid, "pids/pids.max", "pids.max") == "31"


@pytest.mark.parametrize(
    ("before", "change", "said"),
    [
        ({"NanoCpus": 100_000_000}, {"CpuQuota": 5000}, "CPU Quota cannot be updated as NanoCPUs has already been set"),
        ({"CpuQuota": 5000}, {"NanoCpus": 100_000_000}, "cannot be updated as CPU Quota has already been set"),
        ({"Memory": 32 * MIB}, {"Memory": 256 * MIB}, "Memory limit should be smaller than already set memoryswap"),
        ({}, {"Memory": MIB}, "Minimum memory limit allowed is 6MB"),
        ({}, {"CpusetCpus": "900"}, "Requested CPUs are not available"),
    ],
)
def test_update_refuses(api: Connection, before: dict[str, Any], change: dict[str, Any], said: str) -> None:
    container = steps.started(api, "sleep", "1000", host=before)
    shown = steps.inspect(api, container)["HostConfig"]
    answer = api.post(f"/containers/{container}/update", change)
    assert answer.status in (400, 409, 500) and said in answer.message, (answer.status, answer.message)
    assert steps.inspect(api, container)["HostConfig"] == shown


@pytest.mark.dockyardd_only("Docker takes it without a word and changes nothing")
def test_update_of_what_cannot_be_changed_is_refused_by_name(api: Connection) -> None:
    container = steps.create(api, "true")
    answer = api.post(f"/containers/{container}/update", {"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 1}]})
    assert (answer.status, answer.message) == (400, "Ulimits cannot be changed in place")
