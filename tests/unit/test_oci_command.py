"""Pure parts of the OCI command and of calling other runtimes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from dockyard.engine import runtimes
from dockyard.engine.runtimes import OciRuntime
from dockyard.model.container import HostConfig
from dockyard.model.errors import InvalidArgument
from dockyard.runtime import hooks, oci
from dockyard.runtime.cgroups import v1, v2
from dockyard.runtime.following import SpawnFailed
from dockyard.runtime.foreign.command import Command
from dockyard.runtime.foreign.preparing import plain_config
from dockyard.runtime.oci import subgroups
from dockyard.runtime.oci.arguments import parse
from dockyard.runtime.oci.errors import OciError
from dockyard.runtime.oci.measuring import _seconds, _size

LIMITS: dict[str, Any] = {
    "cpu": {"burst": 1000, "idle": 1},
    "rdma": {"mlx": {"hcaHandles": 2, "hcaObjects": 3}},
}


@pytest.mark.parametrize("words", [["exec", "--help"], ["exec", "-h"], ["help", "exec"]])
def test_help_of_one_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert oci._dispatch(parse(words, oci._GLOBAL, "dockyard-runtime")) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: dockyard-runtime exec [OPTIONS]") and "  --process, -p VALUE\n" in said
    with pytest.raises(OciError, match="unknown command 'frob'"):
        oci._dispatch(parse([word.replace("exec", "frob") for word in words], oci._GLOBAL, "dockyard-runtime"))


def test_newer_limits_in_both_versions() -> None:
    one = [
        ("cpu", "cpu.cfs_burst_us", "1000"),
        ("cpu", "cpu.idle", "1"),
        ("rdma", "rdma.max", "mlx hca_handle=2 hca_object=3"),
    ]
    assert v1.settings(LIMITS) == one
    assert v2.settings(LIMITS) == [("cpu.max.burst", "1000"), ("cpu.idle", "1"), ("rdma.max", one[2][2])]
    network = {"network": {"classID": 7, "priorities": [{"name": "eth0", "priority": 3}]}}
    assert v1.settings(network) == [("net_cls", "net_cls.classid", "7"), ("net_prio", "net_prio.ifpriomap", "eth0 3")]


@pytest.mark.parametrize(("text", "size"), [("5", 5), ("2k", 2048), ("3MB", 3 << 20), ("-1", -1), ("1g", 1 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert _size("memory", text) == size


@pytest.mark.parametrize("text", ["", "x", "1q", "k"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(OciError, match="--memory"):
        _size("memory", text)


def test_durations() -> None:
    assert [_seconds(text) for text in ("500ms", "5s", "1.5m")] == [0.5, 5.0, 90.0]
    for wrong in ("5", "0s", "-1s", "s"):
        with pytest.raises(OciError, match="--interval"):
            _seconds(wrong)


def failing(directory: Path, message: str) -> SpawnFailed:
    """What becomes of an error that a runtime logs."""
    program = directory / "runtime"
    record = json.dumps({"level": "error", "msg": message, "time": "x"})
    program.write_text(
        f"#!/bin/sh\nwhile [ $# -gt 0 ]; do [ $1 = --log ] && echo '{record}' > $2; shift; done\nexit 1\n"
    )
    program.chmod(0o755)
    with pytest.raises(SpawnFailed) as caught:
        Command({"path": str(program), "args": ["--debug"]}, str(directory)).call("create", "id")
    return caught.value


@pytest.mark.parametrize(
    ("said", "told", "code"),
    [
        (
            'runc create failed: unable to start container process: exec: "x": executable file not found in $PATH',
            'exec: "x": executable file not found in $PATH', 127,
        ),
        ("executable file `x` not found in $PATH: No such file or directory",
         'exec: "x": executable file not found in $PATH', 127),
        ("open executable: Operation not permitted", "exec: permission denied", 126),
        ("unable to start container process: exec /x: exec format error", "exec /x: exec format error", 126),
        ("error mounting /x: no such file or directory", "error mounting /x: no such file or directory", 128),
    ],
)  # fmt: skip
def test_what_runtimes_say_in_dockers_words(tmp_path: Path, said: str, told: str, code: int) -> None:
    failed = failing(tmp_path, said)
    assert (failed.message, failed.code) == (told, code)
    assert not (tmp_path / "oci.log").exists()


def test_a_runtime_that_is_not_there_or_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(SpawnFailed, match="cannot run the OCI runtime /no/such: No such file"):
        Command({"path": "/no/such", "args": []}, str(tmp_path)).call("create", "id")
    with pytest.raises(SpawnFailed, match="false create: ended with 1"):
        Command({"path": "/bin/false", "args": []}, str(tmp_path)).call("create", "id")


def test_a_config_for_any_runtime() -> None:
    config: dict[str, Any] = {
        "ociVersion": "1.2.0", "domainname": "d", "dockyard": {},
        "linux": {"cgroupsPath": "dockyard/x", "resources": {"pids": {"limit": -1}, "cpu": {"shares": 2}}},
    }  # fmt: skip
    plain = plain_config(config)
    assert plain == {
        "ociVersion": "1.0.2",
        "linux": {
            "cgroupsPath": "/dockyard/x", "resources": {"cpu": {"shares": 2}}, "sysctl": {"kernel.domainname": "d"},
        },
    }  # fmt: skip
    assert config["domainname"] == "d", "the caller's is as it was"
    assert plain_config({**config, "linux": {"cgroupsPath": "a.slice:b:c"}})["linux"]["cgroupsPath"] == "a.slice:b:c"
    with pytest.raises(SpawnFailed, match="--init works with the runtime dockyard only"):
        plain_config({**config, "dockyard": {"init": True}})


def test_which_runtimes_there_are() -> None:
    found = runtimes.known({"x": OciRuntime("/usr/bin/x", ("--debug",)), "runc": OciRuntime("/other/runc")})
    assert found["runc"].path == "/other/runc" and found["dockyard"].path == "dockyard-runtime"
    assert runtimes.program(found, "x") == {"path": "/usr/bin/x", "args": ["--debug"]}
    assert runtimes.program(found, "x", systemd=True) == {"path": "/usr/bin/x", "args": ["--debug", "--systemd-cgroup"]}
    assert runtimes.program(found, "") is None and runtimes.program(found, "dockyard") is None
    with pytest.raises(InvalidArgument, match="unknown or invalid runtime name: y"):
        runtimes.program(found, "y")
    runtimes.check(HostConfig(init=True, runtime="dockyard"))
    with pytest.raises(InvalidArgument, match="--init"):
        runtimes.check(HostConfig(init=True, runtime="x"))


def hook(script: str, **more: Any) -> dict[str, Any]:
    return {"hooks": {"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", script], **more}]}}


def test_hooks(tmp_path: Path) -> None:
    state = {"id": "x", "annotations": {"long": "y" * 200_000}}  # more than a pipe holds
    hooks.run(hook(f"cat > {tmp_path}/state; pwd > {tmp_path}/pwd"), "prestart", state, str(tmp_path))
    assert json.loads((tmp_path / "state").read_text()) == state
    assert (tmp_path / "pwd").read_text() == f"{tmp_path}\n"
    hooks.run(hook("exit 0"), "prestart", state)  # which does not read it
    with pytest.raises(hooks.HookFailed, match=r"hooks.prestart\[0\]: /bin/sh ended with 3: bad"):
        hooks.run(hook("echo bad >&2; exit 3"), "prestart", state)
    with pytest.raises(hooks.HookFailed, match="was killed by signal 9"):
        hooks.run(hook("kill -9 $$"), "prestart", {})
    with pytest.raises(hooks.HookFailed, match="timed out after 1 seconds"):
        hooks.run(hook("exec sleep 30", timeout=1), "prestart", {})
    with pytest.raises(hooks.HookFailed, match="ended with 127: No such file"):
        hooks.run({"hooks": {"prestart": [{"path": "/no/such"}]}}, "prestart", {})


class Groups:
    """As much of a control group of v1 as `exec --cgroup` asks for: cpu and cpuacct share a hierarchy."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def directories(self) -> dict[str, str]:
        names = {"cpu": "cpu,cpuacct", "cpuacct": "cpu,cpuacct", "memory": "memory"}
        return {controller: f"{self.top}/{name}" for controller, name in names.items()}


def test_parts_of_a_control_group_for_an_exec(tmp_path: Path) -> None:
    groups: Any = Groups(tmp_path)
    for name in ("cpu,cpuacct/a", "memory/a", "memory/b/c"):
        (tmp_path / name).mkdir(parents=True)

    def found(*wanted: str) -> list[str]:
        return [os.path.relpath(path, tmp_path) for path in subgroups.find(groups, 1, wanted)[0]]

    assert found() == []
    assert found("a") == found("/a/") == ["cpu,cpuacct/a", "memory/a"]
    assert found("/") == ["cpu,cpuacct", "memory"]
    assert found("memory:b/c") == ["cpu,cpuacct", "memory/b/c"]
    assert found("cpu:a", "memory:b") == found("cpu,cpuacct:a", "memory:b") == ["cpu,cpuacct/a", "memory/b"]
    for wanted, said in (
        (("../x",), "../x is not a sub cgroup path"),
        (("memory:../memory2",), "is not a sub cgroup path"),
        (("b",), "cpu,cpuacct/b/cgroup.procs: no such file or directory"),
        (("rdma:a",), "unknown controller rdma"),
        (("a", "b"), "only one may be without a controller"),
        (("a:b:c",), "is not [CONTROLLER:]PATH"),
    ):
        with pytest.raises(OciError, match=re.escape(said)):
            found(*wanted)
