"""Newer parts of the OCI command that need no container: resctrl groups, lists of CPUs, limits by version."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import mounts, scheduling
from dockyard.linux.abi import MOUNT_ATTR_ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME
from dockyard.runtime.cgroups import v1, v2
from dockyard.runtime.oci import resctrl, rootless
from dockyard.runtime.oci.errors import OciError


@pytest.mark.parametrize(
    ("text", "numbers"), [("", []), ("3", [3]), ("0-2, 7", [0, 1, 2, 7]), (" 1 - 2 ,4,", [1, 2, 4])]
)
def test_lists_of_cpus_and_nodes(text: str, numbers: list[int]) -> None:
    assert scheduling.parse_list(text) == numbers


@pytest.mark.parametrize("text", ["a", "3-1", "-1", "1-", "0-99999999999"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError):
        scheduling.parse_list(text)


def test_of_recursive_options_the_last_counts() -> None:
    options = mounts.Options(["rnoatime", "rstrictatime", "rro", "rrw"])
    assert options.set_recursive == MOUNT_ATTR_STRICTATIME and options.clear_recursive & MOUNT_ATTR_ATIME
    assert mounts.Options(["rnoatime"]).set_recursive == MOUNT_ATTR_NOATIME
    assert mounts.Options(["ratime"]).clear_recursive == MOUNT_ATTR_ATIME


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Like a resctrl file system: groups have files that are there."""
    group(tmp_path)
    return tmp_path


def group(path: Path) -> None:
    path.mkdir(exist_ok=True)
    (path / "mon_groups").mkdir()
    (path / "tasks").touch()
    (path / "schemata").write_text("    L3:0=ff;1=0f\n    MB:0=100;1=100\n")


def write(path: str, text: str) -> None:
    """As the kernel takes it: a group that is made has its files at once."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a") as file:
        file.write(text if text.endswith("\n") else f"{text}\n")


@pytest.fixture(autouse=True)
def writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resctrl, "write", write)


def test_a_group_of_the_containers_own(top: Path) -> None:
    wanted = {"memBwSchema": "MB:0=20", "l3CacheSchema": "L3:0=f", "schemata": ["L2:0=1"]}
    state = resctrl.make(str(top), "one", wanted)
    assert (top / "one/schemata").read_text() == "L3:0=f\nMB:0=20\nL2:0=1\n", "in the order of the specification"
    assert (top / "one/tasks").read_text() == f"{os.getpid()}\n"
    assert state["made"] == [str(top / "one")]
    resctrl.update(state, {"l3CacheSchema": "L3:0=3"})
    assert (top / "one/schemata").read_text().endswith("L3:0=3\n")
    for name in ("schemata", "tasks"):
        (top / "one" / name).unlink()  # the kernel lets go of them
    resctrl.remove(state)
    assert not (top / "one").exists()
    with pytest.raises(OciError, match="is there already"):
        (top / "two").mkdir()
        resctrl.make(str(top), "two", {})


def test_a_class_of_service_that_is_there(top: Path) -> None:
    group(top / "gold")
    state = resctrl.make(
        str(top), "one", {"closID": "gold", "l3CacheSchema": "L3:1=f;0=0ff", "enableMonitoring": False}
    )
    assert state["made"] == [] and (top / "gold/tasks").read_text()
    assert "L3:0=ff" in (top / "gold/schemata").read_text(), "nothing was written"
    with pytest.raises(OciError, match="is not what the class of service"):
        resctrl.make(str(top), "one", {"closID": "gold", "schemata": ["L3:0=1"]})
    with pytest.raises(OciError, match=r"linux\.intelRdt\.closID: .*no such class of service"):
        resctrl.make(str(top), "one", {"closID": "none"})


def test_monitoring_has_a_group_of_its_own_that_goes(top: Path) -> None:
    state = resctrl.make(str(top), "one", {"closID": "/", "enableMonitoring": True})
    monitor = top / "mon_groups/one"
    assert state["made"] == [str(monitor)] and (monitor / "tasks").read_text() == f"{os.getpid()}\n"
    resctrl.join(state)
    assert (monitor / "tasks").read_text() == f"{os.getpid()}\n" * 2
    (monitor / "tasks").unlink()
    resctrl.remove(state)
    assert not monitor.exists()


def test_where_resctrl_is_mounted(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "36 35 0:4 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n37 36 0:5 / /sys/fs/resctrl rw - resctrl resctrl rw\n"
    )
    assert resctrl.mount_point(str(table)) == "/sys/fs/resctrl"
    table.write_text("36 35 0:4 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n")
    with pytest.raises(OciError, match="this host has no resctrl"):
        resctrl.mount_point(str(table))


def test_huge_pages_and_weights() -> None:
    limits: dict[str, Any] = {"hugepageLimits": [{"pageSize": "2MB", "limit": 5}], "unified": {"memory.high": "7"}}
    assert v1.settings(limits) == [("hugetlb", "hugetlb.2MB.limit_in_bytes", "5")]
    assert v2.settings(limits) == [("hugetlb.2MB.max", "5"), ("memory.high", "7")]


def test_what_v2_holds_is_reserved_too_and_checked_before_an_update(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for name in ("hugetlb.2MB.max", "hugetlb.2MB.rsvd.max", "memory.max"):
        (tmp_path / "c" / name).touch()
    (tmp_path / "c/memory.current").write_text("1000\n")
    cgroup = v2.CgroupV2("c", str(tmp_path))
    cgroup.update({"hugepageLimits": [{"pageSize": "2MB", "limit": 5}]})
    assert (tmp_path / "c/hugetlb.2MB.rsvd.max").read_text() == "5"
    with pytest.raises(OSError, match="memory limit 999 is below what cgroup c uses: 1000"):
        cgroup.update({"memory": {"limit": 999, "checkBeforeUpdate": True}})
    cgroup.update({"memory": {"limit": 999}})
    assert (tmp_path / "c/memory.max").read_text() == "999"


def test_s10_a_read_only_sys_without_root_is_so_all_the_way_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootless, "_usable_group", lambda path, needed: "")
    entry = {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro"]}
    config: dict[str, Any] = {"linux": {"namespaces": [{"type": "user"}], "uidMappings": [1]}, "mounts": [entry]}
    rootless.settle(config, "x", entered=True)
    assert "rro" in entry["options"]
    assert config["linux"] == {"namespaces": [], "cgroupsPath": ""}


def test_limits_of_block_devices_and_of_real_time() -> None:
    device = {"major": 8, "minor": 0}
    rates = {
        f"throttle{way}{unit}Device": [{**device, "rate": 7}] for way in ("Read", "Write") for unit in ("Bps", "IOPS")
    }
    block = {"blockIO": {"weight": 500, "weightDevice": [{**device, "weight": 10}], **rates}}
    assert v1.settings(block) == [
        ("blkio", "blkio.weight", "500"),
        ("blkio", "blkio.weight_device", "8:0 10"),
        *(
            ("blkio", f"blkio.throttle.{name}_device", "8:0 7")
            for name in ("read_bps", "write_bps", "read_iops", "write_iops")
        ),
    ]
    assert v2.settings(block) == [
        ("io.weight", "default 4950"),
        ("io.weight", "8:0 1"),
        *(("io.max", f"8:0 {name}=7") for name in ("rbps", "wbps", "riops", "wiops")),
    ]
    real_time = {"cpu": {"realtimePeriod": 1000, "realtimeRuntime": 500}}
    assert v1.settings(real_time) == [("cpu", "cpu.rt_period_us", "1000"), ("cpu", "cpu.rt_runtime_us", "500")]
