"""`dockyard-runtime` as an OCI command: life cycle, streams, errors; runc beside it where both must do the same."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dockyard.runtime.oci.specification import default_config
from tests.support.oci import Bundle, OciRuntime
from tests.support.oci_schema import check_config, check_features, check_state
from tests.support.steps import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def status(runtime: OciRuntime, identity: str) -> str:
    return str(runtime.state(identity)["status"])


# Life cycle.


def test_run_returns_output_and_exit_code(ours: OciRuntime, bundle: Bundle) -> None:
    done = ours.run(bundle.sh("echo out; echo err >&2; exit 7"), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_run_reports_death_by_signal(ours: OciRuntime, bundle: Bundle) -> None:
    bundle.config["linux"]["namespaces"] = [n for n in bundle.config["linux"]["namespaces"] if n["type"] != "pid"]
    assert ours.run(bundle.sh("kill -9 $$"), check=False).returncode == 137


def test_run_reads_stdin(ours: OciRuntime, bundle: Bundle) -> None:
    assert ours.run(bundle.sh("cat"), stdin=None, input="through\n").stdout == "through\n"


def test_create_start_state_kill_delete(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    identity = ours.create(bundle.sh("sleep 1000"), "--pid-file", str(pid_file))
    state = ours.state(identity)
    check_state({key: value for key, value in state.items() if key not in ("rootfs", "created", "owner")})
    assert state["status"] == "created"
    assert state["pid"] == int(pid_file.read_text())
    assert state["bundle"] == str(bundle.directory)
    assert ours("delete", identity, check=False).returncode == 0, "a created container can be deleted"

    identity = ours.started(bundle)
    assert status(ours, identity) == "running"
    refused = ours("delete", identity, check=False)
    assert refused.returncode == 1
    assert f"cannot delete container {identity} that is not stopped: running" in refused.stderr
    ours("kill", identity, "KILL")
    eventually(lambda: status(ours, identity) == "stopped")
    assert ours.state(identity)["pid"] == 0
    ours("delete", identity)
    assert "does not exist" in ours("state", identity, check=False).stderr


def test_a_mapped_mount(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    """uidMappings of a mount: what is 1234's on disk is 7's inside; a mapping without ranges is refused by name."""
    source = tmp_path / "source"
    source.mkdir()
    os.chown(source, 1234, 1235)
    entry: dict[str, Any] = {"destination": "/m", "type": "bind", "source": str(source), "options": ["rbind", "idmap"]}
    entry["uidMappings"] = [{"containerID": 1234, "hostID": 7, "size": 1}, {"containerID": 0, "hostID": 0, "size": 1}]
    entry["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 2000}]
    bundle.config["mounts"].append(entry)
    done = ours.run(bundle.sh("stat -c %u:%g /m; touch /m/new; stat -c %u:%g /m/new"))
    assert done.stdout == "7:1235\n0:0\n"
    assert (source / "new").stat().st_uid == 0
    del entry["gidMappings"]
    assert "a mapped mount needs both uidMappings and gidMappings" in ours.run(bundle, check=False).stderr


def test_the_program_does_not_run_before_start(ours: OciRuntime, bundle: Bundle) -> None:
    identity = ours.create(bundle.sh("touch /ran; sleep 1000"))
    time.sleep(0.2)
    assert not (bundle.root / "ran").exists()
    ours("start", identity)
    eventually(lambda: (bundle.root / "ran").exists())
    again = ours("start", identity, check=False)
    assert again.returncode == 1
    assert "cannot start an already running container" in again.stderr


def test_a_created_container_outlives_the_command_and_is_the_callers_to_reap(
    ours: OciRuntime, bundle: Bundle, tmp_path: Path
) -> None:
    """What conmon and shims do: be a subreaper, create, wait for the pid in the pid file."""
    identity, pid_file = ours.new_id(), tmp_path / "pid"
    bundle.sh("exit 3").config["linux"]["cgroupsPath"] = f"/{ours.parent}/{identity}"
    create = [*ours.command, "create", "--bundle", str(bundle.write()), "--pid-file", str(pid_file), identity]
    script = f"""
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.run({create!r}, check=True)
subprocess.run({[*ours.command, "start", identity]!r}, check=True)
pid = int(open({str(pid_file)!r}).read())
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "3\n"


def test_kill_forwards_any_signal(ours: OciRuntime, bundle: Bundle) -> None:
    script = "trap 'echo usr1 > /got; exit 0' USR1; : > /ready; while :; do sleep 0.05; done"
    for given in ("SIGUSR1", "USR1", "10"):
        identity = ours.started(bundle.sh(script))
        eventually(lambda: (bundle.root / "ready").exists())
        ours("kill", identity, given)
        eventually(lambda: (bundle.root / "got").exists())
        eventually(lambda identity=identity: status(ours, identity) == "stopped")
        for name in ("ready", "got"):
            (bundle.root / name).unlink()
        stopped = ours("kill", identity, given, check=False)
        assert stopped.returncode == 1 and "container not running" in stopped.stderr
    assert "unknown signal 'NONE'" in ours("kill", ours.started(bundle), "NONE", check=False).stderr


def test_delete_force(ours: OciRuntime, bundle: Bundle) -> None:
    identity = ours.started(bundle.sh("sleep 1000 & sleep 1000"))
    pid = ours.state(identity)["pid"]
    ours("delete", "--force", identity)
    eventually(lambda: not os.path.exists(f"/proc/{pid}") or "Z" in Path(f"/proc/{pid}/stat").read_text())
    assert ours("delete", "--force", "never-was", check=False).returncode == 0
    assert ours("delete", "never-was", check=False).returncode == 1


def test_pause_and_resume(ours: OciRuntime, bundle: Bundle) -> None:
    identity = ours.started(bundle.sh("while :; do date +%s%N > /now; done"))
    ours("pause", identity)
    assert status(ours, identity) == "paused"
    before = (bundle.root / "now").read_text()
    time.sleep(0.1)
    assert (bundle.root / "now").read_text() == before
    ours("resume", identity)
    assert status(ours, identity) == "running"
    eventually(lambda: (bundle.root / "now").read_text() != before)
    assert "container not paused" in ours("resume", identity, check=False).stderr


def test_list_and_ps(ours: OciRuntime, bundle: Bundle) -> None:
    assert json.loads(ours("list", "-f", "json").stdout) == []
    one, two = ours.started(bundle.sh("sleep 1000 & sleep 1000")), ours.create(bundle)
    listed = {entry["id"]: entry for entry in json.loads(ours("list", "--format=json").stdout)}
    assert {identity: entry["status"] for identity, entry in listed.items()} == {one: "running", two: "created"}
    assert sorted(ours("list", "-q").stdout.split()) == sorted([one, two])
    table = ours("list").stdout.splitlines()
    assert table[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert len(table) == 3
    pids = eventually(lambda: json.loads(ours("ps", "-f", "json", one).stdout), lambda found: len(found) == 2)
    assert ours.state(one)["pid"] in pids
    assert ours("ps", one).stdout.count("sleep 1000") >= 2


def test_run_takes_everything_away(ours: OciRuntime, bundle: Bundle) -> None:
    ours.run(bundle.sh("sleep 1000 & true"))
    assert ours.left() == []


def test_signals_are_handed_on_by_run(ours: OciRuntime, bundle: Bundle) -> None:
    identity = ours.new_id()
    bundle.sh("trap 'exit 5' TERM; : > /ready; while :; do sleep 0.05; done")
    bundle.config["linux"]["cgroupsPath"] = f"/{ours.parent}/{identity}"
    running = subprocess.Popen([*ours.command, "run", "--bundle", str(bundle.write()), identity])
    eventually(lambda: (bundle.root / "ready").exists())
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=10) == 5


# Streams and descriptors.


def test_console_socket(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.config["process"] |= {"terminal": True, "consoleSize": {"height": 33, "width": 99}}
    bundle.sh("tty; stty size; read line; echo got $line")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        identity = ours.create(bundle, "--console-socket", str(tmp_path / "console"))
        connection, _ = listener.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 100, 1)
    ours("start", identity)
    os.write(fds[0], b"hello\n")
    output = b""
    while True:
        try:
            output += os.read(fds[0], 1000)
        except OSError:
            break
    os.close(fds[0])
    assert {b"/dev/pts/0", b"33 99", b"hello", b"got hello"} <= set(output.replace(b"\r", b"").splitlines())


def test_a_terminal_without_a_console_socket_is_refused(ours: OciRuntime, bundle: Bundle) -> None:
    bundle.config["process"]["terminal"] = True
    identity = ours.new_id()
    refused = ours("create", "--bundle", str(bundle.write()), identity, check=False)
    assert refused.returncode == 1
    assert "--console-socket" in refused.stderr


def test_run_on_a_terminal(ours: OciRuntime, bundle: Bundle) -> None:
    """In the foreground the container's terminal is relayed, also when stdin is none."""
    bundle.config["process"]["terminal"] = True
    done = ours.run(bundle.sh("test -t 0 && test -t 1 && echo terminal"))
    assert done.stdout == "terminal\n"


@pytest.mark.parametrize("kept", [0, 2])
def test_preserve_fds(ours: OciRuntime, bundle: Bundle, tmp_path: Path, kept: int) -> None:
    (tmp_path / "a").write_text("kept\n")
    bundle.sh("for fd in /proc/self/fd/*; do echo ${fd##*/}; done; cat <&3 2>/dev/null; cat <&4 2>/dev/null; true")

    def open_two() -> None:
        for number in (3, 4):
            os.dup2(os.open(tmp_path / "a", os.O_RDONLY), number, inheritable=True)

    done = ours.run(bundle, "--preserve-fds", str(kept), preexec_fn=open_two, close_fds=False)
    assert done.stdout.count("kept") == kept


# Exec.


def test_exec(ours: OciRuntime, bundle: Bundle) -> None:
    identity = ours.started(bundle.sh("sleep 1000"))
    assert ours.exec(identity, "cat", "/proc/1/cmdline").stdout.replace("\0", " ").strip().endswith("sleep 1000")
    assert ours.exec(identity, "sh", "-c", "exit 9", check=False).returncode == 9
    done = ours(
        "exec", "--env", "A=b", "--cwd", "/www", "--user", "33:33", identity, "sh", "-c", "pwd; id -u; echo $A $HOME"
    )
    assert done.stdout == "/www\n33\nb /www\n"
    missing = ours.exec(identity, "no-such-program", check=False)
    assert missing.returncode == 127
    assert 'exec: "no-such-program": executable file not found in $PATH' in missing.stderr


def test_exec_of_a_process_file_and_detached(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    identity = ours.started(bundle.sh("sleep 1000"))
    process = json.loads((bundle.directory / "config.json").read_text())["process"] | {"args": ["hostname"]}
    assert ours.exec_process(identity, process).stdout == "box\n"
    process["args"] = ["sleep", "1000"]
    (tmp_path / "p.json").write_text(json.dumps(process))
    ours.silently("exec", "--detach", "--pid-file", str(tmp_path / "pid"), "-p", str(tmp_path / "p.json"), identity)
    pid = int((tmp_path / "pid").read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00"
    assert pid in json.loads(ours("ps", "-f", "json", identity).stdout)
    assert os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat(f"/proc/{ours.state(identity)['pid']}/ns/pid").st_ino


def test_exec_in_a_stopped_container(ours: OciRuntime, bundle: Bundle) -> None:
    identity = ours.started(bundle.sh("true"))
    eventually(lambda: status(ours, identity) == "stopped")
    refused = ours.exec(identity, "true", check=False)
    assert refused.returncode == 255
    assert "cannot exec in a stopped container" in refused.stderr


def test_exec_console_socket(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    identity = ours.started(bundle.sh("sleep 1000"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        ours.silently("exec", "--tty", "--detach", "--console-socket", str(tmp_path / "console"), identity, "tty")
        connection, _ = listener.accept()
        with connection:
            data, fds, _, _ = socket.recv_fds(connection, 100, 1)
    assert data and array.array("i", fds)
    assert os.read(fds[0], 100).startswith(b"/dev/pts/")
    os.close(fds[0])


# Hooks.


def test_hooks_run_with_the_state_on_stdin(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "hooks.log"
    names = ["prestart", "createRuntime", "poststart", "poststop"]

    def hook(name: str) -> dict[str, Any]:
        script = f"echo {name} $VALUE $(cat) >> {log}; readlink /proc/self/ns/pid >> {log}.pid"
        return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["VALUE=v"]}

    bundle.config["hooks"] = {name: [hook(name)] for name in names}
    ours.run(bundle.sh("true"))
    lines = log.read_text().splitlines()
    assert [line.split()[0] for line in lines] == names
    states = [json.loads(line.split(" ", 2)[2]) for line in lines]
    assert states[0]["status"] == "creating" and states[0]["pid"] > 0
    assert states[-1]["status"] == "stopped"
    assert set(Path(f"{log}.pid").read_text().split()) == {os.readlink("/proc/self/ns/pid")}


def test_a_failing_hook_leaves_nothing(ours: OciRuntime, bundle: Bundle) -> None:
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo bad >&2; exit 4"]}]}
    failed = ours.run(bundle.sh("touch /ran"), check=False)
    assert failed.returncode == 1
    assert "hooks.createRuntime[0]: /bin/sh ended with 4: bad" in failed.stderr
    assert not (bundle.root / "ran").exists()
    assert ours.left() == []


# Errors: one line, exit code 1, the field's name; nothing left.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("ociVersion"), "ociVersion: missing"),
        (lambda c: c.update(ociVersion="2.0.0"), "ociVersion: '2.0.0' is not supported"),
        (lambda c: c.pop("process"), "process: missing"),
        (lambda c: c["process"].update(args=[]), "process.args: must be a list of strings that is not empty"),
        (lambda c: c["process"].update(cwd="tmp"), "process.cwd: 'tmp' is not an absolute path"),
        (lambda c: c["process"].update(user={"uid": -1}), "process.user.uid: -1"),
        (lambda c: c["process"].update(rlimits=[{"type": "X", "soft": 1, "hard": 1}]), "process.rlimits[0].type"),
        (lambda c: c["process"].update(selinuxLabel="x"), "process.selinuxLabel: SELinux is not enabled"),
        (lambda c: c["root"].update(path=""), "root.path: must not be empty"),
        (lambda c: c["root"].update(path="none"), "/none is not a directory"),
        (lambda c: c["mounts"].append({"destination": 1}), "].destination: must be a string"),
        (lambda c: c["mounts"].append({"destination": "/x", "type": "bind"}), "].source: missing for a bind mount"),
        (lambda c: c["linux"]["namespaces"].append({"type": "user"}), "linux.uidMappings: missing for a user"),
        (lambda c: c["linux"]["namespaces"].append({"type": "other"}), "].type: 'other' is not supported"),
        (lambda c: c["linux"]["namespaces"].append({"type": "pid"}), "].type: 'pid' is there twice"),
        (lambda c: c["linux"].update(uidMappings=[{}]), "linux.uidMappings: cannot be set without a user"),
        (lambda c: c["linux"].update(seccomp={"defaultAction": "X"}), "linux.seccomp.defaultAction: unknown"),
        (lambda c: c["linux"].update(cgroupsPath="a:b:c"), "linux.cgroupsPath: 'a:b:c' is systemd's notation"),
        (lambda c: c.update(hooks={"startContainer": [{"path": "x"}]}), "hooks.startContainer[0].path: 'x' is not an"),
        (lambda c: c.update(hooks={"prestart": [{"path": "/x", "timeout": 0}]}), "hooks.prestart[0].timeout: 0"),
        (lambda c: c.update(hooks={"other": []}), "hooks.other: unknown"),
        (lambda c: c["linux"].update(intelRdt={"closID": "x"}), "linux.intelRdt: this host has no resctrl"),
        (lambda c: c["linux"].update(personality={"domain": "BSD"}), "linux.personality.domain: 'BSD'"),
        (lambda c: c["linux"].update(timeOffsets={"boottime": {"secs": 1}}), "linux.timeOffsets: cannot be set"),
        (lambda c: c["linux"]["resources"].update(memory={"kernel": 1}), "linux.resources.memory.kernel: the"),
        (lambda c: c["process"].update(scheduler={"policy": "X"}), "process.scheduler.policy: 'X' is unknown"),
        (lambda c: c["process"].update(ioPriority={"class": "X"}), "process.ioPriority.class: 'X' is unknown"),
        (lambda c: c["process"].update(args=["none-such"]), 'exec: "none-such": executable file not found in $PATH'),
        (lambda c: c["process"].update(args=["/etc/passwd"]), 'exec: "/etc/passwd": permission denied'),
        (
            lambda c: c["mounts"].append({"destination": "/x", "source": "/no/such", "options": ["bind"]}),
            'error mounting "/no/such" to rootfs at "/x": no such file or directory',
        ),
    ],
)  # fmt: skip
def test_a_bad_bundle_names_the_field(ours: OciRuntime, bundle: Bundle, change: Any, message: str) -> None:
    change(bundle.config)
    identity = ours.new_id()
    if "cgroupsPath" in bundle.config["linux"] and ":" not in bundle.config["linux"]["cgroupsPath"]:
        bundle.config["linux"]["cgroupsPath"] = f"/{ours.parent}/{identity}"
    failed = ours("create", "--bundle", str(bundle.write()), identity, check=False)
    assert failed.returncode == 1
    assert message in failed.stderr
    assert len(failed.stderr.splitlines()) == 1, failed.stderr
    assert ours.left() == []


def test_a_missing_or_broken_config(ours: OciRuntime, tmp_path: Path) -> None:
    missing = ours("run", "-b", str(tmp_path), "x", check=False)
    assert missing.returncode == 1 and "config.json: no such file or directory" in missing.stderr
    (tmp_path / "config.json").write_text("{")
    broken = ours("run", "-b", str(tmp_path), "x", check=False)
    assert broken.returncode == 1 and "config.json: not JSON" in broken.stderr


def test_ids(ours: OciRuntime, bundle: Bundle) -> None:
    identity = ours.create(bundle)
    again = ours("create", "--bundle", str(bundle.directory), identity, check=False)
    assert again.returncode == 1 and "container with given ID already exists" in again.stderr
    assert status(ours, identity) == "created"
    for bad in ("../x", "a/b", "..", "", "a b"):
        refused = ours("create", "--bundle", str(bundle.directory), bad, check=False)
        assert refused.returncode == 1 and "invalid container ID format" in refused.stderr, bad


def test_errors_go_to_the_log(ours: OciRuntime, tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = [*ours.command, "--log", str(log), "--log-format", "json", "state", "none"]
    assert subprocess.run(arguments, capture_output=True, check=False, timeout=20).returncode == 1
    record = json.loads(log.read_text())
    assert record["level"] == "error" and "container does not exist: none" in record["msg"] and record["time"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "unknown command 'nonsense'"),
        (["state"], "a container ID is needed"),
        (["state", "--nonsense", "x"], "flag provided but not defined: --nonsense"),
        (["create", "--bundle"], "flag needs an argument: --bundle"),
    ],
)
def test_a_bad_command_line(ours: OciRuntime, arguments: list[str], message: str) -> None:
    failed = ours(*arguments, check=False)
    assert failed.returncode == 1 and message in failed.stderr


# Documents.


def test_spec_features_and_version(ours: OciRuntime, tmp_path: Path) -> None:
    ours("spec", "--bundle", str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == default_config()
    check_config(config)
    again = ours("spec", "-b", str(tmp_path), check=False)
    assert again.returncode == 1 and "config.json exists" in again.stderr
    document = json.loads(ours("features").stdout)
    check_features(document)
    assert "CAP_BPF" in document["linux"]["capabilities"]
    assert ours("--version").stdout.startswith("dockyard-runtime version ")


def test_the_default_spec_runs(ours: OciRuntime, runc: OciRuntime, tmp_path: Path) -> None:
    """Both runtimes run our `spec` and show the same mounts."""
    script = "mount | grep -v cgroup | sed 's/,size=0k//; s/lowerdir.*//'; cat /proc/self/status | grep Cap; env | sort"
    shown = []
    for runtime in (ours, runc):
        config = default_config()
        config["process"]["terminal"] = False
        bundle = Bundle(tmp_path / runtime.parent, config)
        shown.append(runtime.run(bundle.sh(script)).stdout.splitlines())
    assert shown[0] == shown[1]
