"""Fields of a container's settings that no other module is about: each works, or is refused by name."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import steps
from tests.support.engines import Dockyardd, Engine
from tests.support.flagged import load_images
from tests.support.rawhttp import Connection


def create(api: Connection, endpoint: Any = None, **host: Any) -> Any:
    body = {"Image": steps.IMAGE, "Cmd": ["true"], "HostConfig": host}
    if endpoint is not None:
        body["NetworkingConfig"] = {"EndpointsConfig": {"bridge": endpoint}}
    return api.post("/containers/create", body)


def test_domainname(api: Connection) -> None:
    out = steps.run(api, "cat", "/etc/hosts", "/proc/sys/kernel/domainname", Hostname="h", Domainname="d.example")[1]
    assert "h.d.example h" in out and out.rstrip().endswith("d.example")


def test_network_disabled(api: Connection) -> None:
    assert steps.run(api, "ls", "/sys/class/net", NetworkDisabled=True)[1].split() == ["lo"]


def test_what_is_attached_is_only_remembered(api: Connection) -> None:
    names = ("AttachStdin", "AttachStdout", "AttachStderr")
    for wanted in ((True, False, True), (False, True, False)):
        container = steps.create(api, "true", **dict(zip(names, wanted, strict=True)))
        config = steps.inspect(api, container)["Config"]
        assert tuple(config[name] for name in names) == wanted


def test_links_give_names(engine: Engine, api: Connection) -> None:
    other = steps.sleeper(api, name="linked")
    address = steps.inspect(api, other)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert f"{address}" in steps.run(api, "cat", "/etc/hosts", host={"Links": ["linked:alias"]})[1]
    if engine.name == "dockyardd":  # Docker takes those of the endpoint without effect
        endpoints = {"EndpointsConfig": {"bridge": {"Links": ["linked:other"]}}}
        assert f"{address}\tother" in steps.run(api, "cat", "/etc/hosts", NetworkingConfig=endpoints)[1]
    shown = steps.inspect(api, steps.create(api, "true", name="linker", host={"Links": ["linked:alias"]}))
    assert shown["HostConfig"]["Links"] == ["/linked:/linker/alias"]


def test_a_link_follows_restarts_and_renames(engine: Engine, api: Connection) -> None:
    steps.sleeper(api, name="db")
    steps.sleeper(api, name="app", host={"Links": ["db:alias"]})
    (names,) = [row["Names"] for row in api.get("/containers/json").json() if "/db" in row["Names"]]
    assert sorted(names) == ["/app/alias", "/db"]
    assert engine.out("ps", "--filter", "name=app/alias", "-q") == ""  # it is found by its own name only
    told = engine.out("ps", "--no-trunc", "--filter", "name=db", "--format", "{{.Names}}")
    assert sorted(told.split(",")) == ["app/alias", "db"]
    engine.docker("restart", "-t", "0", "db")
    address = engine.out("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "db")
    assert f"{address}\talias " in engine.out("exec", "app", "cat", "/etc/hosts")
    engine.docker("rename", "db", "store")
    engine.docker("restart", "-t", "0", "app")
    assert f"{address}\talias " in engine.out("exec", "app", "cat", "/etc/hosts")
    assert engine.out("inspect", "-f", "{{.HostConfig.Links}}", "app") == "[/store:/app/alias]"
    engine.docker("rm", "-f", "store")
    done = engine.docker("restart", "-t", "0", "app", check=False)
    assert b"Cannot link to a non running container" in done.stderr


def test_a_link_to_what_has_no_address_is_refused(engine: Engine, api: Connection) -> None:
    steps.create(api, "true", name="host", host={"NetworkMode": "host"})
    for other, text in (("host", "host type networking"), ("nothing", "could not get container for nothing")):
        answer = api.post("/containers/create", {"Image": "bb", "HostConfig": {"Links": [f"{other}:x"]}}, name="half")
        assert (answer.status, text in answer.message) == (400, True), answer.message
    assert api.get("/containers/half/json").status == 404


def test_a_link_is_taken_away(engine: Engine, api: Connection) -> None:
    """`docker rm --link`: the containers stay; what the program was told stays with it."""
    steps.sleeper(api, name="first", Env=["A=1"])
    linker = steps.sleeper(api, name="second", host={"Links": ["first:alias"]})
    told = engine.docker("exec", "second", "env").stdout.decode().splitlines()
    assert {"ALIAS_NAME=/second/alias", "ALIAS_ENV_A=1"} <= set(told)
    assert api.delete("/containers/second/nosuch", link=True).status >= 400
    assert api.delete("/containers/second/alias", link=True).status == 204
    assert not steps.inspect(api, linker)["HostConfig"]["Links"]
    assert "alias" not in engine.out("exec", "second", "cat", "/etc/hosts")
    assert engine.out("ps", "-q").count("\n") == 1


@pytest.mark.api("1.43")
def test_annotations_reach_the_runtime(engine: Engine, api: Connection) -> None:
    annotations = {"com.example.a": "b"}
    container = steps.create(api, "sleep", "1000", host={"Annotations": annotations, "Runtime": "runc"})
    assert steps.inspect(api, container)["HostConfig"]["Annotations"] == annotations
    if shutil.which("runc"):
        steps.start(api, container)
        (bundle,) = engine.exec_root.glob(f"**/{container}/**/config.json")
        assert json.loads(bundle.read_text())["annotations"].items() >= annotations.items()


def test_an_id_file_is_the_clients(api: Connection) -> None:
    container = steps.create(api, "true", host={"ContainerIDFile": "/nowhere/x"})
    assert steps.inspect(api, container)["HostConfig"]["ContainerIDFile"] == "/nowhere/x"
    assert not Path("/nowhere").exists()


def test_the_hosts_user_namespace(api: Connection) -> None:
    mine = os.readlink("/proc/self/ns/user")
    assert steps.sh(api, "readlink /proc/self/ns/user", host={"UsernsMode": "host"}).strip() == mine


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ({"DeviceRequests": [{"Driver": "nosuch", "Count": -1}]}, 'could not select device driver "nosuch"'),
        ({"Isolation": "hyperv"}, "nvalid isolation"),
        ({"CgroupnsMode": "nosuch"}, "nvalid cgroup namespace mode"),
        ({"IpcMode": "nosuch"}, "nvalid IPC mode: nosuch"),
        ({"CapAdd": ["nosuch"]}, "CAP_NOSUCH"),
        ({"CapDrop": ["nosuch"]}, "CAP_NOSUCH"),
        ({"Runtime": "nosuch"}, "nosuch"),
        ({"SecurityOpt": ["nosuch=1"]}, 'nvalid --security-opt 2: "nosuch=1"'),
        ({"NetworkMode": "host", "Links": ["a:b"]}, "host type networking can't be used with links"),
        ({"Sysctls": {"kernel.nosuch": "1"}}, "kernel.nosuch"),
        ({"ExtraHosts": ["nosuch"]}, "nosuch"),
        ({"GroupAdd": ["nosuch"]}, "nosuch"),
        ({"AutoRemove": True, "RestartPolicy": {"Name": "always"}}, "with restart policy"),
        ({"RestartPolicy": {"Name": "nosuch"}}, "nvalid restart policy"),
        ({"PortBindings": {"nosuch": []}}, "nosuch"),
        ({"Devices": [{"PathOnHost": "/dev/nosuch", "PathInContainer": "/x"}]}, "/dev/nosuch"),
        ({"Devices": [{"PathOnHost": "/opt", "PathInContainer": "/x"}]}, '"/opt": not a device node'),
        ({"DeviceCgroupRules": ["nosuch"]}, "nvalid device cgroup rule"),
        ({"ShmSize": -1}, "SHM size can not be less than 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be(api: Connection, host: dict[str, Any], said: str) -> None:
    answer = create(api, **host)
    if answer.status == 201:  # some are found at the start
        answer = api.post(f"/containers/{answer.json()['Id']}/start")
    assert answer.status in (400, 409, 500) and said in answer.message, (answer.status, answer.message)


@pytest.mark.dockyardd_only("Docker takes these without a word, or says so later and in other words")
@pytest.mark.parametrize(
    ("host", "said"),
    [
        ({"UsernsMode": "nosuch"}, "nvalid user namespace mode"),
        ({"PidMode": "nosuch"}, "nvalid PID mode"),
        ({"UTSMode": "nosuch"}, "nvalid UTS mode: nosuch"),
        ({"Dns": ["nosuch"]}, "nosuch"),
        ({"Ulimits": [{"Name": "nosuch", "Soft": 1, "Hard": 1}]}, "nosuch"),
        ({"LogConfig": {"Type": "nosuch"}}, "no log driver named 'nosuch' is registered"),
        ({"CpuCount": 2}, "CpuCount"),
        ({"CpuPercent": 2}, "CpuPercent"),
        ({"IOMaximumIOps": 2}, "IOMaximumIOps"),
        ({"IOMaximumBandwidth": 2}, "IOMaximumBandwidth"),
        ({"Cgroup": "container:x"}, "cgroup"),
        ({"CpuRealtimePeriod": -5}, "real-time"),
        ({"BlkioWeightDevice": [{"Path": "/dev/zero", "Weight": 5}]}, "Range of blkio weight is from 10 to 1000"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_has_no_effect_here_is_refused(api: Connection, host: dict[str, Any], said: str) -> None:
    answer = create(api, **host)
    assert answer.status in (400, 501) and said in answer.message, (answer.status, answer.message)


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ({"Aliases": ["a"]}, "network-scoped alias"),
        ({"IPAMConfig": {"IPv4Address": "10.1.2.3"}}, "user specified IP address is supported on user defined"),
        ({"IPAMConfig": {"IPv6Address": "fd00::9"}}, "user specified IP address is supported on user defined"),
    ],
)
def test_endpoint_settings_that_the_default_network_has_not(api: Connection, endpoint: Any, said: str) -> None:
    answer = create(api, endpoint)
    if answer.status == 201:
        answer = api.post(f"/containers/{answer.json()['Id']}/start")
    assert answer.status in (400, 500, 501) and said in answer.message, (answer.status, answer.message)


@pytest.mark.dockyardd_only("Docker takes these without a word")
@pytest.mark.parametrize("endpoint", [{"IPAMConfig": {"LinkLocalIPs": ["169.254.9.9"]}}, {"DriverOpts": {"a": "b"}}])
def test_endpoint_settings_that_have_no_effect_are_refused(api: Connection, endpoint: Any) -> None:
    answer = create(api, endpoint)
    assert answer.status == 400 and "not supported" in answer.message, (answer.status, answer.message)


def test_fields_that_are_only_kept(engine: Engine, api: Connection) -> None:
    kept = {"ArgsEscaped": True, "Shell": ["/bin/ash", "-c"], "OnBuild": ["RUN x"]}
    endpoints = {"EndpointsConfig": {"bridge": {"GwPriority": 7}}}
    container = steps.create(api, "true", NetworkingConfig=endpoints, **kept)
    shown = steps.inspect(api, container)
    assert {name: shown["Config"].get(name) for name in kept} == kept
    if engine.name == "dockyardd":  # 20.10 does not know it
        assert shown["NetworkSettings"]["Networks"]["bridge"]["GwPriority"] == 7
    made = steps.expect(api.post("/commit", None, container=container, repo="kept"), 201).json()["Id"]
    config = api.get(f"/images/{made}/json").json()["Config"]
    assert (config["Shell"], config["OnBuild"]) == (["/bin/ash", "-c"], ["RUN x"])
    api.delete("/images/kept")


def test_real_time_works_or_is_refused() -> None:
    """Where the kernel has such groups: what the daemon has to give, and a container of it."""
    parent = f"dyt-rt-{os.getpid()}"
    wanted = {"CpuRealtimePeriod": 500_000, "CpuRealtimeRuntime": 1_000, "CgroupParent": f"/{parent}"}
    group = Path("/sys/fs/cgroup/cpu") / parent
    with closing(Dockyardd(bridge="dyrt0", subnet="10.231.31.0/24")) as own:
        own.start("--cpu-rt-period=1000000", "--cpu-rt-runtime=20000")
        load_images(own)
        api = own.api()
        if not Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists():
            for name in ("CpuRealtimePeriod", "CpuRealtimeRuntime"):
                answer = create(api, **{name: 1_000})
                assert (answer.status, answer.message) == (400, "kernel does not support CPU real-time scheduler")
            return
        try:
            identifier = steps.started(api, "sleep", "1000", host=wanted)
            for name, value in (("period", 500_000), ("runtime", 1_000)):
                assert (group / identifier / f"cpu.rt_{name}_us").read_text().strip() == str(value)
            assert api.post(f"/containers/{identifier}/update", {"CpuRealtimeRuntime": 2_000}).status == 200
            assert (group / identifier / "cpu.rt_runtime_us").read_text().strip() == "2000"
            greedy = steps.create(api, "true", host={**wanted, "CpuRealtimeRuntime": 300_000})
            assert api.post(f"/containers/{greedy}/start").status >= 400, "more than the daemon has to give"
        finally:
            own.remove_containers()
            for directory in Path("/sys/fs/cgroup").glob(f"*/{parent}"):
                directory.rmdir()
