"""`--security-opt` and its kin, and where a container's environment is not to be found."""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from pathlib import Path

import pytest

from tests.conformance.test_run_flags import bit, needs_all_capabilities, sh
from tests.support import steps
from tests.support.engines import Engine
from tests.support.rawhttp import Connection


def test_a_seccomp_profile_in_a_file(engine: Engine, tmp_path: Path) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    script = "mkdir /made 2>&1; touch /made && grep Seccomp: /proc/self/status"
    said = sh(engine, "--security-opt", f"seccomp={profile}", script=script)
    assert "No space left on device" in said and said.split()[-1] == "2"
    profile.write_text('{"defaultAction": "SCMP_ACT_NEVER"}')
    done = engine.docker("run", "--rm", "--security-opt", f"seccomp={profile}", "bb", "true", check=False)
    assert done.returncode != 0 and (b"SCMP_ACT_NEVER" in done.stderr or b"seccomp" in done.stderr)


def test_labels_have_no_effect_without_selinux(engine: Engine, api: Connection) -> None:
    for options, told in ((["label=disable"], 0), (["label=type:svirt_lxc_net_t", "label=level:s0:c1,c2"], 1)):
        answer = api.post(
            "/containers/create", {"Image": "bb", "Cmd": ["true"], "HostConfig": {"SecurityOpt": options}}
        )
        assert answer.status == 201
        warnings = [each for each in answer.json()["Warnings"] or () if "SELinux is not supported: label=" in each]
        assert len(warnings) == (told if engine.name == "dockyardd" else 0)
        steps.start(api, answer.json()["Id"])
        assert steps.wait(api, answer.json()["Id"]) == 0


def test_who_sees_the_host_has_labels_disabled(api: Connection) -> None:
    """With SELinux or without: `inspect` shows what was concluded."""
    for host in ({"Privileged": True}, {"PidMode": "host"}, {"IpcMode": "host"}):
        container = steps.create(api, "true", host=host)
        assert steps.inspect(api, container)["HostConfig"]["SecurityOpt"] == ["label=disable"]
    container = steps.create(api, "true", host={"Privileged": True, "SecurityOpt": ["label=type:a"]})
    assert steps.inspect(api, container)["HostConfig"]["SecurityOpt"] == ["label=type:a"]


def test_system_paths_unconfined(engine: Engine) -> None:
    script = "grep -c ' /proc/' /proc/mounts || true"
    assert sh(engine, "--security-opt", "systempaths=unconfined", script=script) == "0"
    assert int(sh(engine, script=script)) > 4


@pytest.mark.dockyardd_only("came after 20.10")
def test_writable_control_groups(engine: Engine, api: Connection) -> None:
    script = "grep ' /sys/fs/cgroup' /proc/mounts"
    said = steps.sh(api, script, host={"SecurityOpt": ["writable-cgroups=true"]})
    assert all(line.split()[3].startswith("rw") for line in said.splitlines())
    assert all(line.split()[3].startswith("ro") for line in steps.sh(api, script).splitlines())


def test_all_capabilities_but_one(engine: Engine) -> None:
    if engine.name == "dockerd":
        needs_all_capabilities(engine)  # its runc fails where the host lacks one
    line = sh(engine, "--cap-add", "ALL", "--cap-drop", "CHOWN", script="grep CapEff /proc/self/status")
    assert not bit(line, 0) and bit(line, 21) and bit(line, 12)


def test_a_read_only_root_with_a_tmpfs(engine: Engine) -> None:
    script = "touch /x 2>&1; touch /t/x && ls /t; touch /etc/hosts 2>&1"
    said = sh(engine, "--read-only", "--tmpfs", "/t", script=f"{script}; true")
    assert said.count("Read-only file system") == 2 and "\nx\n" in said


def processes_beside(pid: int) -> str:
    """What every process that is not in the container shows of itself to `ps`."""
    found, inside = [], os.readlink(f"/proc/{pid}/ns/pid")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if os.readlink(entry / "ns/pid") != inside:
                found += [
                    (entry / name).read_bytes().decode(errors="replace") for name in ("cmdline", "comm", "environ")
                ]
        except OSError:
            continue
    assert any("dockyard" in each for each in found)
    return "\0".join(found)


@pytest.mark.dockyardd_only("dockerd's own log tells more at this level")
def test_s50_a_containers_environment_is_in_no_log_event_error_or_title(engine: Engine, api: Connection) -> None:
    secret, since = f"hunter-{secrets.token_hex(8)}", time.time()
    environment = [f"TOKEN={secret}"]
    engine.config_file.write_text('{"log-level": "debug"}\n')  # type: ignore[attr-defined]
    assert engine.process is not None
    engine.process.send_signal(signal.SIGHUP)
    try:
        box = steps.sleeper(api, Env=environment)
        pid = steps.inspect(api, box)["State"]["Pid"]
        assert steps.exec_sh(api, box, 'test -n "$TOKEN$LATER"; sleep 0.1', Env=[f"LATER={secret}"])[0] == 0
        errors = [api.post(f"/containers/{box}/exec", {"Cmd": [], "Env": environment}).message]
        for wrong in (
            {"Cmd": ["/none-such"]}, {"Cmd": ["true"], "WorkingDir": "/etc/passwd"},
            {"Cmd": ["true"], "User": "nobody-such"},
            {"Cmd": ["true"], "HostConfig": {"CapAdd": ["NONSENSE"]}}, {"Cmd": ["true"], "Image": "none-such"},
        ):  # fmt: skip
            answer = api.post("/containers/create", {"Image": "bb", "Env": environment, **wrong})
            if answer.status == 201:
                answer = api.post(f"/containers/{answer.json()['Id']}/start")
            assert answer.status >= 400
            errors.append(answer.message)
        assert secret not in "\n".join(errors)
        assert secret not in processes_beside(pid)
        assert secret not in steps.sh(api, "env")  # another container's
        events = api.get("/events", since=f"{since:.6f}", until=f"{time.time():.6f}").body.decode()
        assert box in events and secret not in events
        assert secret not in api.get("/info").body.decode()
        assert secret not in api.get("/containers/json", all=True).body.decode()
    finally:
        engine.config_file.write_text("{}\n")  # type: ignore[attr-defined]
        engine.process.send_signal(signal.SIGHUP)
    logs = [engine.log_path, *(path for path in engine.exec_root.rglob("*") if path.is_file())]
    assert engine.log_path in logs and len(logs) > 1
    for path in logs:
        assert secret.encode() not in path.read_bytes(), path


@pytest.mark.dockyardd_only("its own words")
def test_s50_a_variable_that_is_refused_is_not_repeated(engine: Engine, api: Connection) -> None:
    answer = api.post("/containers/create", {"Image": "bb", "Env": ["TOKEN=hunter\0two"]})
    assert answer.status == 400 and "hunter" not in answer.message
