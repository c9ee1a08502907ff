"""What may be asked for at creation: names, merging with the image, conflicts, and texts."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from dockyard.engine import resources
from dockyard.engine.creation import merge
from dockyard.engine.names import check_name, make_name, new_id
from dockyard.engine.signals import parse_signal
from dockyard.engine.validation import validate
from dockyard.model.container import (
    ContainerConfig,
    HealthConfig,
    HostConfig,
    LogConfig,
    PortBinding,
    RestartPolicy,
)
from dockyard.model.errors import InvalidArgument
from dockyard.runtime.cgroups.facts import CgroupFacts

MIB = 1 << 20
IMAGE = ContainerConfig(
    env=["PATH=/bin", "A=image"], cmd=["sh"], entrypoint=["/entry"], working_dir="/w", user="app", stop_signal="SIGINT",
    labels={"a": "1", "b": "1"}, exposed_ports={"80/tcp": {}}, volumes={"/data": {}},
    healthcheck=HealthConfig(test=["CMD", "true"], interval=5_000_000_000),
)  # fmt: skip


@pytest.mark.parametrize("name", ["", "/", "a", "-ab", "a b", "a/b", "../x", "ab\n", "ä1", "/a/b", "."])
def test_s26_bad_names(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_name(name)
    assert str(caught.value) == f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"


def test_good_names() -> None:
    assert check_name("/web_1.a-b") == "web_1.a-b"


def test_made_up_names_are_good_and_step_aside() -> None:
    taken: set[str] = set()
    for _ in range(3000):
        name = make_name(taken.__contains__)
        assert name not in taken
        assert check_name(name) == name
        taken.add(name)


def test_ids() -> None:
    ids = {new_id() for _ in range(200)}
    assert len(ids) == 200 and all(len(i) == 64 and not i[:12].isdigit() for i in ids)


def test_what_a_client_leaves_out_is_the_images() -> None:
    merged = merge(ContainerConfig(image="x"), IMAGE)
    assert (merged.cmd, merged.entrypoint, merged.working_dir, merged.user) == (["sh"], ["/entry"], "/w", "app")
    assert merged.stop_signal == "SIGINT"
    assert merged.healthcheck == IMAGE.healthcheck


def test_what_a_client_gives_wins() -> None:
    given = ContainerConfig(
        image="x", env=["A=mine", "B=2"], labels={"b": "2"}, exposed_ports={"53/udp": {}}, volumes={"/v": {}}
    )
    merged = merge(given, IMAGE)
    assert merged.env == ["A=mine", "B=2", "PATH=/bin"]
    assert merged.labels == {"a": "1", "b": "2"}
    assert merged.exposed_ports == {"80/tcp": {}, "53/udp": {}}
    assert merged.volumes == {"/data": {}, "/v": {}}
    assert given.env == ["A=mine", "B=2"], "the request is not changed"


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "expected"),
    [
        (None, None, ["/entry", "sh"]),
        (None, ["ls"], ["/entry", "ls"]),
        (["/mine"], None, ["/mine"]),  # a new entrypoint drops the image's command
        (["/mine"], ["x"], ["/mine", "x"]),
        ([], None, ["sh"]),
        ([""], ["ls"], ["ls"]),  # --entrypoint ""
    ],
)
def test_entrypoint_and_command(entrypoint: list[str] | None, cmd: list[str] | None, expected: list[str]) -> None:
    merged = merge(ContainerConfig(image="x", entrypoint=entrypoint, cmd=cmd), IMAGE)
    assert [*(merged.entrypoint or []), *(merged.cmd or [])] == expected


def test_ports_are_spelled_out() -> None:
    merged = merge(ContainerConfig(exposed_ports={"90": {}, "8000-8002/udp": {}}), ContainerConfig())
    assert set(merged.exposed_ports or ()) == {"90/tcp", "8000/udp", "8001/udp", "8002/udp"}


def refusal(config: ContainerConfig, host: HostConfig) -> str:
    with pytest.raises(InvalidArgument) as caught:
        validate(config, host, cpus=2, runtimes={"dockyard"})
    return str(caught.value)


PLAIN = ContainerConfig()
JOINED = HostConfig(network_mode="container:abc")


@pytest.mark.parametrize(
    ("config", "host", "text"),
    [
        (replace(PLAIN, working_dir="rel"), HostConfig(),
         "the working directory 'rel' is invalid, it needs to be an absolute path"),
        (replace(PLAIN, env=["=x"]), HostConfig(), "invalid environment variable: =x"),
        (replace(PLAIN, stop_signal="SIGWHAT"), HostConfig(), "invalid signal: SIGWHAT"),
        (replace(PLAIN, healthcheck=HealthConfig(interval=5)), HostConfig(),
         "Interval in Healthcheck cannot be less than 1ms"),
        (replace(PLAIN, hostname="h"), JOINED, "conflicting options: hostname and the network mode"),
        (PLAIN, replace(JOINED, dns=["1.1.1.1"]), "conflicting options: dns and the network mode"),
        (PLAIN, replace(JOINED, publish_all_ports=True),
         "conflicting options: port publishing and the container type network mode"),
        (replace(PLAIN, exposed_ports={"80/tcp": {}}), JOINED,
         "conflicting options: port exposing and the container type network mode"),
        (PLAIN, HostConfig(network_mode="host", links=["a:b"]),
         "conflicting options: host type networking can't be used with links. "
         "This would result in undefined behavior"),
        (replace(PLAIN, hostname="h"), HostConfig(uts_mode="host"), "conflicting options: hostname and the UTS mode"),
        (PLAIN, HostConfig(auto_remove=True, restart_policy=RestartPolicy("always")),
         "can't create 'AutoRemove' container with restart policy"),
        (PLAIN, HostConfig(restart_policy=RestartPolicy("sometimes")),
         "invalid restart policy: unknown policy 'sometimes'; "
         "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"),
        (PLAIN, HostConfig(restart_policy=RestartPolicy("always", 3)),
         "invalid restart policy: maximum retry count can only be used with 'on-failure'"),
        (PLAIN, HostConfig(ipc_mode="x"), "invalid IPC mode: x"),
        (PLAIN, HostConfig(network_mode="container"),
         "Invalid network mode: invalid container format container:<name|id>"),
        (PLAIN, HostConfig(network_mode="host", links=["a:b"]),
         "conflicting options: host type networking can't be used with links. "
         "This would result in undefined behavior"),
        (PLAIN, HostConfig(pid_mode="container:"), "invalid PID mode: container:"),
        (PLAIN, HostConfig(uts_mode="container:x"), "invalid UTS mode: container:x"),
        (PLAIN, HostConfig(cgroupns_mode="x"), "invalid cgroup namespace mode: x"),
        (PLAIN, HostConfig(runtime="kata"), "unknown or invalid runtime name: kata"),
        (PLAIN, HostConfig(memory=MIB), "Minimum memory limit allowed is 6MB"),
        (PLAIN, HostConfig(memory=64 * MIB, memory_swap=32 * MIB),
         "Minimum memoryswap limit should be larger than memory limit, see usage"),
        (PLAIN, HostConfig(nano_cpus=3_000_000_000),
         "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
        (PLAIN, HostConfig(nano_cpus=1_000_000_000, cpu_quota=1000),
         "conflicting options: Nano CPUs and CPU Quota cannot both be set"),
        (PLAIN, HostConfig(oom_score_adj=1001), "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
        (PLAIN, HostConfig(log_config=LogConfig("pigeon")), "logger: no log driver named 'pigeon' is registered"),
        (PLAIN, HostConfig(log_config=LogConfig("json-file", {"odd": "1"})),
         "unknown log opt 'odd' for json-file log driver"),
        (PLAIN, HostConfig(extra_hosts=["nohost"]), 'bad format for add-host: "nohost"'),
        (PLAIN, HostConfig(extra_hosts=["a:1.2.3"]), 'invalid IP address in add-host: "1.2.3"'),
        (PLAIN, HostConfig(port_bindings={"x/tcp": []}), 'invalid port specification: "x/tcp"'),
        (PLAIN, HostConfig(port_bindings={"80/tcp": [PortBinding(host_port="99999")]}),
         'invalid port specification: "99999" for 80/tcp'),
        (PLAIN, HostConfig(network_mode="host", sysctls={"net.core.somaxconn": "1"}),
         "sysctl 'net.core.somaxconn' not allowed in host network namespace"),
        (PLAIN, HostConfig(cpuset_cpus="0-9"), "Requested CPUs are not available - requested 0-9, available: 0-1"),
    ],
)  # fmt: skip
def test_refusals_name_what_is_wrong(config: ContainerConfig, host: HostConfig, text: str) -> None:
    assert refusal(config, host) == text


def test_what_has_no_effect_is_told() -> None:
    host = HostConfig(network_mode="host", port_bindings={"80/tcp": [PortBinding(host_port="80")]})
    warnings = validate(PLAIN, host, cpus=2, runtimes={"dockyard"})
    assert warnings == ["Published ports are discarded when using host network mode"]


@pytest.mark.parametrize(
    ("host", "text"),
    [
        (HostConfig(cpuset_mems="1-2"), "Requested memory nodes are not available - requested 1-2, available: 0-1"),
        (HostConfig(cpu_shares=1), "the minimum allowed cpu-shares is 2"),
        (HostConfig(cpu_shares=262145), "the maximum allowed cpu-shares is 262144"),
    ],
)
def test_what_this_kernel_would_not_take(host: HostConfig, text: str) -> None:
    facts = CgroupFacts(version=1, cpuset=True, cpu_shares=True, mems="0-1")
    with pytest.raises(InvalidArgument, match=text):
        resources.settle(host, facts)
    assert resources.settle(HostConfig(cpuset_mems="0,1", cpu_shares=2), facts)[1] == []
    if host.cpu_shares:
        assert resources.settle(host, CgroupFacts(version=2, cpu_shares=True))[1] == [], "v2 translates to weights"


@pytest.mark.parametrize(
    ("text", "number"),
    [("KILL", 9), ("sigterm", 15), ("15", 15), ("SIGRTMIN", 34), ("RTMIN+3", 37), ("SIGRTMAX-14", 50), ("64", 64)],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "32", "-9", "SIGFOO", "RTMIN+31", "RTMAX-31", "9x", "९"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid signal"):
        parse_signal(text)
