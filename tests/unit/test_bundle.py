"""Bundles: container settings → OCI configuration."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dockyard.linux import capabilities
from dockyard.model.container import BindOptions, ContainerConfig, DeviceMapping, DeviceRequest, HostConfig, Ulimit
from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.model.mounts import MountPoint, parse_tmpfs
from dockyard.runtime.bundle import Bundle, BundleInput, BundleMount, Bundler, ExecInput, Host, from_mount_point
from dockyard.runtime.bundle.mounts import tmpfs_options
from dockyard.runtime.bundle.resources import oci_resources
from dockyard.runtime.bundle.security import DEFAULT_CAPABILITIES
from tests.support.oci_schema import check_config

HOST = Host(
    machine="x86_64",
    kernel=(6, 1),
    cgroup_version=2,
    capabilities=frozenset(capabilities.NAMES) - {"CAP_SYS_RESOURCE"},
    thermal_paths=("/sys/devices/system/cpu/cpu0/thermal_throttle",),
    net_sysctls={"net.ipv4.ip_unprivileged_port_start": "0"},
    apparmor=False,
    seccomp=os.uname().machine == "x86_64",
)


@pytest.fixture(scope="module")
def bundler() -> Bundler:
    return Bundler(HOST)


def spec(config: ContainerConfig | None = None, host: HostConfig | None = None, /, **more: Any) -> BundleInput:
    settings = {"id": "c" * 64, "name": "box", "args": ["sh"], "hostname": "box"} | more
    return BundleInput(config=config or ContainerConfig(), host=host or HostConfig(), **settings)


def make(config: ContainerConfig | None = None, host: HostConfig | None = None, /, **more: Any) -> Bundle:
    """A bundle; what is made must be valid, with and without our extensions."""
    bundle = Bundler(HOST).make(spec(config, host, **more))
    check_config(bundle.document())
    check_config(bundle.config)
    json.dumps(bundle.config)
    return bundle


def mount(bundle: Bundle, destination: str) -> dict[str, Any]:
    found = [entry for entry in bundle.config["mounts"] if entry["destination"] == destination]
    assert len(found) == 1, f"{destination}: {found}"
    return dict(found[0])


def destinations(bundle: Bundle) -> list[str]:
    return [entry["destination"] for entry in bundle.config["mounts"]]


def kinds(bundle: Bundle) -> set[str]:
    return {entry["type"] for entry in bundle.config["linux"]["namespaces"] if "path" not in entry}


# The process.


def test_default_process() -> None:
    process = make().config["process"]
    assert process["args"] == ["sh"]
    assert process["cwd"] == "/"
    assert process["env"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=box"]
    assert process["terminal"] is False
    assert process["noNewPrivileges"] is False
    assert process["oomScoreAdj"] == 0


def test_environment_replaces_in_place_and_removes() -> None:
    config = ContainerConfig(env=["A=1", "PATH=/bin", "A=2", "HOSTNAME", "NONE"], tty=True)
    assert make(config).config["process"]["env"] == ["PATH=/bin", "TERM=xterm", "A=2"]


def test_terminal_and_its_size() -> None:
    process = make(ContainerConfig(tty=True), HostConfig(console_size=[24, 80])).config["process"]
    assert process["terminal"] is True
    assert process["consoleSize"] == {"height": 24, "width": 80}
    assert "consoleSize" not in make(ContainerConfig(tty=True), HostConfig(console_size=[0, 0])).config["process"]
    assert "consoleSize" not in make(ContainerConfig(), HostConfig(console_size=[24, 80])).config["process"]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", {"uid": 0, "gid": 0, "username": ""}),
        ("app", {"uid": 0, "gid": 0, "username": "app"}),
        ("1000", {"uid": 0, "gid": 0, "username": "1000"}),
        ("1000:50", {"uid": 1000, "gid": 50, "additionalGids": [50], "username": "1000:50"}),
        ("1000:staff", {"uid": 0, "gid": 0, "username": "1000:staff"}),
        ("1:99999999999", {"uid": 0, "gid": 0, "username": "1:99999999999"}),
        ("²:1", {"uid": 0, "gid": 0, "username": "²:1"}),
    ],
)
def test_user(user: str, expected: dict[str, Any]) -> None:
    bundle = make(ContainerConfig(user=user))
    assert bundle.config["process"]["user"] == expected
    assert "username" not in bundle.document()["process"]["user"]


def test_group_add_makes_the_user_unsettled() -> None:
    user = make(ContainerConfig(user="1:2"), HostConfig(group_add=["wheel"])).config["process"]["user"]
    assert user == {"uid": 0, "gid": 0, "username": "1:2", "groupAdd": ["wheel"]}


def test_rlimits() -> None:
    limits = [Ulimit("nofile", 10, 20), Ulimit("core", 0, -1)]
    bundler = Bundler(HOST, default_ulimits=[Ulimit("nofile", 1, 2), Ulimit("nproc", 5, 5)])
    assert bundler.make(spec(ContainerConfig(), HostConfig(ulimits=limits))).config["process"]["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20},
        {"type": "RLIMIT_NPROC", "soft": 5, "hard": 5},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1},
    ]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (Ulimit("nothing", 1, 1), "invalid ulimit type: nothing"),
        (Ulimit("nofile", 3, 2), "ulimit soft limit must be less than or equal to hard limit: 3 > 2"),
    ],
)
def test_bad_rlimits(limit: Ulimit, message: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{message}$"):
        make(None, HostConfig(ulimits=[limit]))


# Capabilities.


def bounding(host: HostConfig) -> list[str]:
    return list(make(None, host).config["process"]["capabilities"]["bounding"])


def test_s12_default_capabilities_are_dockers_fourteen() -> None:
    assert len(DEFAULT_CAPABILITIES) == 14
    assert bounding(HostConfig()) == list(DEFAULT_CAPABILITIES)


@pytest.mark.parametrize("user", ["", "app", "5:5"])
@pytest.mark.parametrize("host", [HostConfig(), HostConfig(privileged=True), HostConfig(cap_add=["ALL"])])
def test_s11_nothing_is_ever_inheritable(user: str, host: HostConfig) -> None:
    caps = make(ContainerConfig(user=user), host).config["process"]["capabilities"]
    assert caps["inheritable"] == caps["ambient"] == []


def test_s11_exec_has_nothing_inheritable(bundler: Bundler) -> None:
    for privileged in (False, True):
        process = bundler.exec_process(spec(), ExecInput(["sh"], privileged=privileged))
        assert process["capabilities"]["inheritable"] == process["capabilities"]["ambient"] == []


def test_a_user_known_not_to_be_root_has_the_bounding_set_only() -> None:
    caps = make(ContainerConfig(user="7:7")).config["process"]["capabilities"]
    assert caps["bounding"] == list(DEFAULT_CAPABILITIES)
    assert caps["effective"] == caps["permitted"] == []


def test_cap_add_and_drop() -> None:
    assert bounding(HostConfig(cap_add=["net_admin", "CAP_CHOWN"])) == [*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"]
    assert bounding(HostConfig(cap_drop=["ALL"])) == []
    assert bounding(HostConfig(cap_drop=["all"], cap_add=["NET_RAW"])) == ["CAP_NET_RAW"]
    without = bounding(HostConfig(cap_add=["ALL"], cap_drop=["CAP_SYS_ADMIN"]))
    assert set(without) == HOST.capabilities - {"CAP_SYS_ADMIN"}
    assert set(bounding(HostConfig(privileged=True))) == HOST.capabilities
    assert set(bounding(HostConfig(cap_drop=["MKNOD", "net_raw"]))) == set(DEFAULT_CAPABILITIES) - {
        "CAP_MKNOD",
        "CAP_NET_RAW",
    }


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (HostConfig(cap_add=["X"]), 'invalid CapAdd: unknown capability: "CAP_X"'),
        (HostConfig(cap_drop=["CAP_Y"]), 'invalid CapDrop: unknown capability: "CAP_Y"'),
        (
            HostConfig(cap_add=["SYS_RESOURCE"]),
            "invalid CapAdd: capability not supported by your kernel or not available in the current environment: "
            '"CAP_SYS_RESOURCE"',
        ),
        (HostConfig(security_opt=["nonsense"]), 'invalid --security-opt 1: "nonsense"'),
        (HostConfig(security_opt=["a=b"]), 'invalid --security-opt 2: "a=b"'),
        (HostConfig(security_opt=["no-new-privileges=x"]), 'invalid --security-opt 2: "no-new-privileges=x"'),
        (HostConfig(security_opt=["seccomp={"]), "Decoding seccomp profile failed: "),
        (HostConfig(security_opt=['seccomp={"defaultAction":"NO"}']), "linux.seccomp.defaultAction"),
        (HostConfig(devices=[DeviceMapping("/dev/none-such", "/dev/x", "r")]), 'custom device "/dev/none-such"'),
        (HostConfig(device_cgroup_rules=["c 1 rw"]), "invalid device cgroup rule format: 'c 1 rw'"),
        (
            HostConfig(device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])]),
            'could not select device driver "" with capabilities: [[gpu]]',
        ),
    ],
)
def test_refusals_are_dockers(host: HostConfig, message: str) -> None:
    if "seccomp" in str(host.security_opt) and not HOST.seccomp:
        pytest.skip("filters are compiled for x86-64 here")
    with pytest.raises(InvalidArgument) as caught:
        make(None, host)
    assert message in str(caught.value)


# Security options, paths, seccomp.


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("no-new-privileges", True),
        ("no-new-privileges:true", True),
        ("no-new-privileges=1", True),
        ("no-new-privileges=false", False),
    ],
)
def test_s15_no_new_privileges(option: str, expected: bool) -> None:
    host = HostConfig(security_opt=[option])
    assert make(None, host).config["process"]["noNewPrivileges"] is expected
    assert Bundler(HOST).exec_process(spec(None, host), ExecInput(["sh"]))["noNewPrivileges"] is expected


def test_s13_masked_and_read_only_paths() -> None:
    linux = make().config["linux"]
    assert set(linux["maskedPaths"]) == {
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
        "/sys/devices/system/cpu/cpu0/thermal_throttle",
    }
    assert set(linux["readonlyPaths"]) == {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}


@pytest.mark.parametrize(
    "host",
    [
        HostConfig(privileged=True),
        HostConfig(security_opt=["systempaths=unconfined"]),
        HostConfig(masked_paths=[], readonly_paths=[]),
    ],
)
def test_system_paths_can_be_opened(host: HostConfig) -> None:
    linux = make(None, host).config["linux"]
    assert linux["maskedPaths"] == linux["readonlyPaths"] == []


@pytest.mark.skipif(not HOST.seccomp, reason="filters are compiled for x86-64 here")
class TestSeccomp:
    def test_who_has_which_filter(self) -> None:
        plain = make()
        assert plain.seccomp
        assert "seccomp" not in plain.config["linux"]
        assert plain.document()["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
        assert plain.config["process"]["seccompFlags"] == 4
        for host in (HostConfig(privileged=True), HostConfig(security_opt=["seccomp=unconfined"])):
            open_one = make(None, host)
            assert open_one.seccomp is None
            assert "seccompFlags" not in open_one.config["process"]
        assert make(None, HostConfig(security_opt=["seccomp=builtin"])).seccomp == plain.seccomp
        assert make(None, HostConfig(privileged=True, security_opt=["seccomp=builtin"])).seccomp

    def test_a_profile_of_the_clients(self) -> None:
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "flags": [], "syscalls": []}
        bundle = make(None, HostConfig(security_opt=[f"seccomp={json.dumps(profile)}"]))
        assert bundle.document()["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ALLOW"
        assert bundle.config["process"]["seccompFlags"] == 0

    def test_the_daemons_default(self) -> None:
        assert Bundler(HOST, seccomp_profile="unconfined").make(spec()).seccomp is None

    def test_programs_are_kept_by_profile_and_capabilities(self, bundler: Bundler) -> None:
        one, two = bundler.make(spec()), bundler.make(spec())
        other = bundler.make(spec(None, HostConfig(cap_add=["SYS_ADMIN"])))
        assert one.seccomp is two.seccomp
        assert other.seccomp != one.seccomp

    def test_a_kernel_without_seccomp(self) -> None:
        without = Bundler(
            Host(**{field: getattr(HOST, field) for field in HOST.__struct_fields__} | {"seccomp": False})
        )
        assert without.make(spec()).seccomp is None
        with pytest.raises(InvalidArgument, match="seccomp is not enabled in your kernel"):
            without.make(spec(None, HostConfig(security_opt=['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}'])))


def test_apparmor_only_where_the_kernel_has_it() -> None:
    def profile(host: HostConfig, default: str) -> Any:
        fields = {field: getattr(HOST, field) for field in HOST.__struct_fields__}
        bundle = Bundler(Host(**fields | {"apparmor": True}), apparmor_profile=default).make(spec(None, host))
        return bundle.config["process"].get("apparmorProfile")

    assert "apparmorProfile" not in make(None, HostConfig(security_opt=["apparmor=mine"])).config["process"]
    assert profile(HostConfig(), "dockyard-default") == "dockyard-default"
    assert profile(HostConfig(), "") is None
    assert profile(HostConfig(security_opt=["apparmor=mine"], privileged=True), "x") == "mine"
    assert profile(HostConfig(privileged=True), "x") == "unconfined"


# Mounts.


def test_default_mounts_and_their_order() -> None:
    bundle = make()
    assert destinations(bundle) == [
        "/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm",
    ]  # fmt: skip
    assert mount(bundle, "/dev")["options"] == ["nosuid", "strictatime", "mode=755", "size=65536k"]
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    assert mount(bundle, "/dev/pts")["options"] == pts
    assert "ro" in mount(bundle, "/sys")["options"]
    assert mount(bundle, "/sys/fs/cgroup") == {
        "destination": "/sys/fs/cgroup",
        "type": "cgroup",
        "source": "cgroup",
        "options": ["ro", "nosuid", "noexec", "nodev"],
    }
    assert "size=67108864" in mount(bundle, "/dev/shm")["options"]


def test_shm() -> None:
    assert "size=1234" in mount(make(None, HostConfig(shm_size=1234)), "/dev/shm")["options"]
    assert "/dev/shm" not in destinations(make(None, HostConfig(ipc_mode="none")))
    shared = mount(make(None, HostConfig(ipc_mode="host"), shm_source="/dev/shm"), "/dev/shm")
    assert (shared["type"], shared["source"]) == ("bind", "/dev/shm")


def test_privileged_has_writable_sys_and_cgroups() -> None:
    bundle = make(None, HostConfig(privileged=True))
    assert "ro" not in mount(bundle, "/sys")["options"] + mount(bundle, "/sys/fs/cgroup")["options"]


def test_writable_cgroups() -> None:
    bundle = make(None, HostConfig(security_opt=["writable-cgroups=true"]))
    assert "ro" not in mount(bundle, "/sys/fs/cgroup")["options"]
    assert "ro" in mount(bundle, "/sys")["options"]


def test_a_read_only_root_keeps_dev_and_proc_writable() -> None:
    bundle = make(None, HostConfig(readonly_rootfs=True), mounts=[BundleMount("/data", "/host/data")])
    assert bundle.config["root"]["readonly"] is True
    read_only = {entry["destination"] for entry in bundle.config["mounts"] if "ro" in entry["options"]}
    assert read_only == {"/sys", "/sys/fs/cgroup"}


def test_making_a_bundle_does_not_change_the_next() -> None:
    before = json.dumps(make().config)
    bundler = Bundler(HOST)
    bundler.make(spec(None, HostConfig(readonly_rootfs=True, privileged=True)))
    bundler.make(spec(None, HostConfig(readonly_rootfs=True)))
    assert json.dumps(bundler.make(spec()).config) == before


def test_asked_mounts_come_after_the_defaults_shallow_first() -> None:
    mounts = [BundleMount("/a/b/c", "/x"), BundleMount("/a", "/y"), BundleMount("/etc/hosts", "/h")]
    assert destinations(make(mounts=mounts))[-3:] == ["/a", "/etc/hosts", "/a/b/c"]


def test_an_asked_mount_replaces_the_default_at_its_place() -> None:
    assert mount(make(mounts=[BundleMount("/dev/shm", "/x")]), "/dev/shm")["source"] == "/x"
    whole = make(mounts=[BundleMount("/dev", "/dev")])
    assert [path for path in destinations(whole) if path.startswith("/dev")] == ["/dev"]


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        (BundleMount("/d", "/s"), ["rbind", "rprivate"]),
        (BundleMount("/d", "/s", read_only=True), ["rbind", "rro", "rprivate"]),
        (BundleMount("/d", "/s", read_only=True, read_only_non_recursive=True), ["rbind", "ro", "rprivate"]),
        (BundleMount("/d", "/s", non_recursive=True, read_only=True), ["bind", "ro", "rprivate"]),
        (BundleMount("/d", "/s", propagation="rslave"), ["rbind", "rslave"]),
    ],
)
def test_bind_options(asked: BundleMount, options: list[str]) -> None:
    assert mount(make(mounts=[asked]), "/d")["options"] == options


def test_propagation_of_the_root_follows_the_mounts() -> None:
    assert "rootfsPropagation" not in make(mounts=[BundleMount("/d", "/s")]).config["linux"]
    for propagation, expected in (("rshared", "shared"), ("slave", "slave")):
        bundle = make(mounts=[BundleMount("/d", "/s", propagation=propagation)])
        assert bundle.config["linux"]["rootfsPropagation"] == expected


def test_tmpfs_options() -> None:
    assert set(tmpfs_options("")) == {"noexec", "nosuid", "nodev", "rprivate"}
    chosen = tmpfs_options("rw,exec,size=64m,mode=1777,size=32m,suid")
    assert {"rw", "exec", "suid", "nodev", "size=32m", "mode=1777"} <= set(chosen)
    assert not {"noexec", "nosuid", "size=64m"} & set(chosen)
    with pytest.raises(InvalidArgument, match=r'^invalid tmpfs option \["bogus"\]$'):
        tmpfs_options("bogus")


def test_mount_points_of_the_engine() -> None:
    bind = MountPoint("bind", "/d", "/s", rw=False, propagation="rslave", bind=BindOptions(non_recursive=True))
    assert from_mount_point(bind) == BundleMount("/d", "/s", read_only=True, propagation="rslave", non_recursive=True)
    volume = MountPoint("volume", "/v", "/volumes/v/_data", name="v")
    assert from_mount_point(volume) == BundleMount("/v", "/volumes/v/_data")
    tmpfs = mount(make(mounts=[from_mount_point(parse_tmpfs("/t", "size=1m,ro"))]), "/t")
    assert tmpfs["type"] == "tmpfs"
    assert {"ro", "size=1m", "noexec"} <= set(tmpfs["options"])


# Namespaces, hostname, sysctls, cgroup.


def test_every_namespace_is_private() -> None:
    assert kinds(make()) == {"mount", "network", "ipc", "uts", "pid", "cgroup"}


def test_namespaces_of_the_host() -> None:
    host = HostConfig(network_mode="host", ipc_mode="host", uts_mode="host", pid_mode="host", cgroupns_mode="host")
    bundle = make(None, host)
    assert kinds(bundle) == {"mount"}
    assert "hostname" not in bundle.config
    assert "sysctl" not in bundle.config["linux"]


def test_joined_namespaces() -> None:
    joins = {"network": "/proc/7/ns/net", "pid": "/proc/7/ns/pid", "ipc": "/proc/7/ns/ipc"}
    host = HostConfig(network_mode="container:x", pid_mode="container:x", ipc_mode="container:x")
    bundle = make(None, host, joins=joins)
    namespaces = {entry["type"]: entry.get("path") for entry in bundle.config["linux"]["namespaces"]}
    assert {kind: namespaces[kind] for kind in joins} == joins
    assert "sysctl" not in bundle.config["linux"]
    with pytest.raises(SystemFailure, match="network namespace of container:x"):
        make(None, host)


def test_s10_cgroup_namespace_is_private_unless_asked() -> None:
    v1 = Bundler(Host(**{field: getattr(HOST, field) for field in HOST.__struct_fields__} | {"cgroup_version": 1}))
    assert "cgroup" in kinds(v1.make(spec()))
    assert "cgroup" not in kinds(v1.make(spec(None, HostConfig(privileged=True))))
    assert "cgroup" in kinds(make(None, HostConfig(privileged=True)))
    assert "cgroup" in kinds(v1.make(spec(None, HostConfig(privileged=True, cgroupns_mode="private"))))


def test_host_and_domain_name() -> None:
    config = make(hostname="h", domainname="d.example").config
    assert (config["hostname"], config["domainname"]) == ("h", "d.example")


def test_sysctls_of_a_network_of_its_own() -> None:
    assert make().config["linux"]["sysctl"] == {"net.ipv4.ip_unprivileged_port_start": "0"}
    asked = HostConfig(sysctls={"net.ipv4.ip_unprivileged_port_start": "80", "kernel.msgmax": "1"})
    assert make(None, asked).config["linux"]["sysctl"] == asked.sysctls


def test_cgroup_path() -> None:
    assert make().config["linux"]["cgroupsPath"] == f"dockyard/{'c' * 64}"
    assert make(None, HostConfig(cgroup_parent="/mine")).config["linux"]["cgroupsPath"] == f"/mine/{'c' * 64}"
    assert make(cgroup_path="p/q").config["linux"]["cgroupsPath"] == "p/q"


def test_init_and_annotations() -> None:
    bundle = make(None, HostConfig(init=True, annotations={"a": "b"}))
    assert bundle.config["dockyard"] == {"init": True}
    assert bundle.config["annotations"] == {"a": "b"}
    assert "dockyard" not in bundle.document()


# Devices and resources.


def rules(host: HostConfig) -> list[dict[str, Any]]:
    return list(make(None, host).config["linux"]["resources"]["devices"])


def test_devices_are_denied_by_default() -> None:
    assert rules(HostConfig())[0] == {"allow": False, "access": "rwm"}
    assert make().config["linux"]["devices"] == []


def test_a_device() -> None:
    bundle = make(None, HostConfig(devices=[DeviceMapping("/dev/full", "/dev/mine", "rw")]))
    (device,) = bundle.config["linux"]["devices"]
    assert (device["path"], device["type"], device["major"], device["minor"]) == ("/dev/mine", "c", 1, 7)
    assert bundle.config["linux"]["resources"]["devices"][-1] == {
        "allow": True, "type": "c", "major": 1, "minor": 7, "access": "rw",
    }  # fmt: skip


def test_privileged_has_every_device() -> None:
    bundle = make(None, HostConfig(privileged=True))
    paths = {device["path"] for device in bundle.config["linux"]["devices"]}
    assert {"/dev/null", "/dev/full"} <= paths
    assert not any(path.startswith(("/dev/pts", "/dev/shm")) for path in paths)
    assert bundle.config["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_device_cgroup_rules() -> None:
    asked = ["c 13:* rwm", "a *:* r"]
    assert rules(HostConfig(device_cgroup_rules=asked))[-2:] == [
        {"allow": True, "type": "c", "access": "rwm", "major": 13},
        {"allow": True, "type": "a", "access": "r"},
    ]


def test_resources() -> None:
    host = HostConfig(
        memory=1 << 20, memory_swap=-1, memory_reservation=5, memory_swappiness=0, oom_kill_disable=True,
        cpu_shares=512, nano_cpus=1_500_000_000, cpuset_cpus="0", pids_limit=10, blkio_weight=100,
    )  # fmt: skip
    assert oci_resources(host) == {
        "memory": {"limit": 1 << 20, "reservation": 5, "swap": -1, "swappiness": 0, "disableOOMKiller": True},
        "cpu": {"period": 100_000, "quota": 150_000, "shares": 512, "cpus": "0"},
        "blockIO": {"weight": 100},
        "pids": {"limit": 10},
    }
    assert oci_resources(HostConfig()) == {}
    assert oci_resources(HostConfig(pids_limit=0)) == {"pids": {"limit": -1}}
    make(None, host)


# Exec.


def test_exec_process(bundler: Bundler) -> None:
    container = spec(ContainerConfig(env=["A=1"], user="app", working_dir="/w"), HostConfig(group_add=["g"]))
    process = bundler.exec_process(container, ExecInput(["id"], env=["B=2", "A=3"], tty=True))
    assert process["args"] == ["id"]
    assert process["cwd"] == "/w"
    assert process["env"][1:] == ["HOSTNAME=box", "TERM=xterm", "A=3", "B=2"]
    assert process["user"] == {"uid": 0, "gid": 0, "username": "app", "groupAdd": ["g"]}
    assert process["capabilities"]["bounding"] == list(DEFAULT_CAPABILITIES)
    other = bundler.exec_process(container, ExecInput(["id"], user="5:5", cwd="/", privileged=True))
    assert other["cwd"] == "/"
    assert set(other["capabilities"]["bounding"]) == HOST.capabilities


def test_a_bundle_is_made_quickly(bundler: Bundler) -> None:
    """0.3 ms a bundle; the best of many, since the machine is shared."""
    asked: Sequence[BundleMount] = [BundleMount(f"/m/{n}", "/x") for n in range(8)]
    container = spec(ContainerConfig(env=[f"V{n}=1" for n in range(40)]), HostConfig(), mounts=asked)
    times = []
    for _ in range(200):
        before = time.perf_counter()
        bundler.make(container)
        times.append(time.perf_counter() - before)
    assert min(times) < 0.0003


def test_this_host_can_be_probed() -> None:
    host = Host.probe()
    assert host.kernel >= (5, 14)
    assert host.capabilities <= frozenset(capabilities.NAMES)
    assert all(os.path.isdir(path) for path in host.thermal_paths)


def test_what_the_engine_itself_has_not_got_is_told(bundler: Bundler) -> None:
    """This one lacks CAP_SYS_RESOURCE."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert bundler.shortfalls(HostConfig()) == []
    (told,) = bundler.shortfalls(HostConfig(privileged=True))
    assert "CAP_SYS_RESOURCE" in told and "CAP_CHOWN" not in told and len(capabilities.NAMES) > last
    assert bundler.shortfalls(HostConfig(cap_add=["ALL"])) == [told]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert bundler.shortfalls(HostConfig(ulimits=[Ulimit("nofile", soft, hard)])) == []
    for limit in (-1, hard + 1):
        (told,) = bundler.shortfalls(HostConfig(ulimits=[Ulimit("nofile", 1, limit)]))
        assert told.endswith(f"nofile: {hard}")
    (told,) = bundler.shortfalls(HostConfig(oom_score_adj=own - 1))
    assert told.endswith(f"stays at {own}")
    whole = Bundler(replace(HOST, capabilities=frozenset(capabilities.NAMES)))
    assert whole.shortfalls(HostConfig(privileged=True, ulimits=[Ulimit("nofile", 1, -1)], oom_score_adj=-1)) == []
