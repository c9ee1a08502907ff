"""exec: create, start, inspect, every flag, exit codes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.conformance.test_run_flags import needs_all_capabilities
from tests.support import steps
from tests.support.engines import Engine, docker_cli
from tests.support.rawhttp import Connection, demultiplex
from tests.support.terminal import Terminal


@pytest.fixture
def box(api: Connection) -> str:
    """A running container."""
    return steps.started(api, "sleep", "1000", name="box", Env=["FROM_CONTAINER=yes"])


def test_exec(engine: Engine, api: Connection, box: str) -> None:
    assert steps.exec_sh(api, box, "echo out; echo err >&2; exit 4") == (4, "out\nerr\n")


def test_streams_are_apart(engine: Engine, box: str) -> None:
    done = engine.docker("exec", "box", "sh", "-c", "echo out; echo err >&2; exit 9", check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 9)


def attached(engine: Engine, api: Connection, box: str, script: str, **body: Any) -> bytes:
    """What is sent to a client that stays to the end."""
    made = steps.expect(api.post(f"/containers/{box}/exec", {"Cmd": ["sh", "-c", script], **body}), 201).json()["Id"]
    with engine.api() as own, own.hijack(f"/exec/{made}/start", {"Tty": body.get("Tty", False)}) as stream:
        return stream.read_all()


def test_only_what_is_attached_is_sent(engine: Engine, api: Connection, box: str) -> None:
    script = "echo out; echo err >&2"
    for out, err in ((True, True), (True, False), (False, True), (False, False)):
        sent = attached(engine, api, box, script, AttachStdout=out, AttachStderr=err)
        assert demultiplex(sent) == (b"out\n" if out else b"", b"err\n" if err else b"")
    assert attached(engine, api, box, script, Tty=True, AttachStdout=True) == b"out\r\nerr\r\n"
    assert attached(engine, api, box, script, Tty=True, AttachStderr=True) == b""


@pytest.mark.api("1.42")
def test_the_size_of_a_terminal_is_said_at_the_creation(engine: Engine, api: Connection, box: str) -> None:
    sent = attached(engine, api, box, "stty size", Tty=True, AttachStdin=True, AttachStdout=True, ConsoleSize=[11, 22])
    assert sent == b"11 22\r\n"


def test_detach_keys_of_an_exec(engine: Engine, api: Connection, box: str) -> None:
    body = {"Cmd": ["cat"], "Tty": True, "AttachStdin": True, "AttachStdout": True, "DetachKeys": "ctrl-x,y"}
    made = steps.expect(api.post(f"/containers/{box}/exec", body), 201).json()["Id"]
    with engine.api() as own, own.hijack(f"/exec/{made}/start", {"Tty": True}) as stream:
        stream.send(b"ab\n")
        stream.read_until(b"ab\r\nab\r\n")
        stream.send(b"\x18y")
        stream.read_all()
    if engine.name == "dockyardd":  # 20.10 forgets about it
        assert api.get(f"/exec/{made}/json").json()["Running"]


def test_environment_user_and_directory(engine: Engine, box: str) -> None:
    flags = ["-e", "A=1", "-w", "/tmp", "-u", "1000:33"]
    printed = engine.out("exec", *flags, "box", "sh", "-c", "echo $A $FROM_CONTAINER $(pwd) $(id -u) $(id -g)")
    assert printed == "1 yes /tmp 1000 33"


def test_user_by_name_gets_its_groups(engine: Engine, box: str) -> None:
    assert set(engine.out("exec", "-u", "dock", "box", "id", "-Gn").split()) == {"dock", "staff"}


def test_input(engine: Engine, box: str) -> None:
    assert engine.docker("exec", "-i", "box", "cat", input=b"typed").stdout == b"typed"
    data = bytes(range(256)) * 4096
    assert engine.docker("exec", "-i", "box", "cat", input=data).stdout == data
    assert engine.docker("exec", "box", "wc", "-c", input=b"lost").stdout == b"0\n"


def test_half_close(engine: Engine, api: Connection, box: str) -> None:
    body = {"Cmd": ["wc", "-c"], "AttachStdin": True, "AttachStdout": True}
    process = api.post(f"/containers/{box}/exec", body).json()["Id"]
    with engine.api() as own, own.hijack(f"/exec/{process}/start", {"Detach": False}) as stream:
        stream.send(b"123")
        stream.close_write()
        assert demultiplex(stream.read_all())[0] == b"3\n"


def test_detached(engine: Engine, box: str) -> None:
    assert engine.out("exec", "-d", "box", "touch", "/tmp/made") == ""
    steps.eventually(lambda: engine.docker("exec", "box", "test", "-e", "/tmp/made", check=False).returncode == 0)


def test_terminal(engine: Engine, box: str) -> None:
    with Terminal([docker_cli(), "exec", "-it", "box", "sh"], engine.cli_environment(), 29, 93) as tty:
        tty.expect(rb"/ # ")
        tty.type(b"stty size; test -t 0 && echo is-a-tty\n")
        tty.expect(rb"29 93\r\nis-a-tty")
        tty.type(b"exit 6\n")
        assert tty.finish() == 6


def test_resize(engine: Engine, api: Connection, box: str) -> None:
    body = {"Cmd": ["sh", "-c", "while :; do stty size; sleep 0.05; done"], "Tty": True, "AttachStdout": True}
    process = api.post(f"/containers/{box}/exec", body).json()["Id"]
    with engine.api() as own, own.hijack(f"/exec/{process}/start", {"Detach": False, "Tty": True}) as stream:
        stream.read()
        assert api.post(f"/exec/{process}/resize", None, h=31, w=77).status == 200
        stream.read_until(b"31 77")


def test_privileged(engine: Engine, box: str) -> None:
    needs_all_capabilities(engine)

    def effective(*flags: str) -> int:
        return int(engine.out("exec", *flags, "box", "grep", "CapEff", "/proc/self/status").split()[1], 16)

    assert not effective() >> 21 & 1
    assert effective("--privileged") >> 21 & 1


def test_same_confinement_as_the_container(engine: Engine, box: str) -> None:
    """Capabilities, seccomp, no_new_privs and cgroup of an exec equal those of PID 1; with ours, but for a part of the
    group that has no limits of its own, so that what the exec starts can be ended with it."""
    fields = "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/{}/status; cat /proc/{}/cgroup"
    own = engine.out("exec", "box", "sh", "-c", fields.replace("{}", "self"))
    first = engine.out("exec", "box", "sh", "-c", fields.replace("{}", "1"))
    assert own == re.sub(r"(freezer:|0::)/\.\.$", r"\1/", first, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("no-such-program", 127, "executable file not found in $PATH"),
        ("/no/such", 127, "no such file or directory"),
        ("/etc", 126, "permission denied"),
        ("/etc/passwd", 126, "permission denied"),
    ],
)
def test_commands_that_cannot_run(engine: Engine, box: str, command: str, code: int, text: str) -> None:
    done = engine.docker("exec", "box", command, check=False)
    assert done.returncode == code or (engine.name == "dockerd" and done.returncode in (126, 127))
    assert text in (done.stdout + done.stderr).decode()


def test_inspect_tells_whose_process_it_is(engine: Engine, api: Connection) -> None:
    own = steps.sleeper(api, User="5:6")
    process = steps.expect(api.post(f"/containers/{own}/exec", {"Cmd": ["true"]}), 201).json()["Id"]
    assert api.get(f"/exec/{process}/json").json()["ProcessConfig"]["user"] == "5:6", "the container's user"


def test_inspect(engine: Engine, api: Connection, box: str) -> None:
    body = {"Cmd": ["sh", "-c", "exit 3"], "User": "33", "Env": ["X=1"], "AttachStdout": True}
    process = api.post(f"/containers/{box}/exec", body).json()["Id"]
    found = api.get(f"/exec/{process}/json").json()
    assert (found["ID"], found["Running"], found["ExitCode"], found["ContainerID"]) == (process, False, None, box)
    assert found["ProcessConfig"]["entrypoint"] == "sh" and found["ProcessConfig"]["arguments"] == ["-c", "exit 3"]
    assert found["ProcessConfig"]["user"] == "33"
    assert api.post(f"/exec/{process}/start", {"Detach": True}).status == 200
    steps.eventually(lambda: api.get(f"/exec/{process}/json").json()["ExitCode"] == 3)
    answer = api.post(f"/exec/{process}/start", {"Detach": True})
    assert answer.status == 409 and "already" in answer.message


def test_running_execs_are_listed(engine: Engine, api: Connection, box: str) -> None:
    process = api.post(f"/containers/{box}/exec", {"Cmd": ["sleep", "100"]}).json()["Id"]
    api.post(f"/exec/{process}/start", {"Detach": True})
    assert process in steps.inspect(api, box)["ExecIDs"]
    found = api.get(f"/exec/{process}/json").json()
    assert found["Running"] and found["Pid"] > 1


def test_errors(engine: Engine, api: Connection, box: str) -> None:
    assert api.post("/containers/nobody/exec", {"Cmd": ["true"]}).message == "No such container: nobody"
    answer = api.post("/exec/nothing/start", {"Detach": True})
    assert answer.status == 404 and "nothing" in answer.message
    assert api.get("/exec/nothing/json").status == 404
    assert steps.expect(api.post(f"/containers/{box}/exec", {"Cmd": []}), 400).message == "No exec command specified"
    stopped = steps.create(api, "true")
    answer = steps.expect(api.post(f"/containers/{stopped}/exec", {"Cmd": ["true"]}), 409)
    assert answer.message.lower() == f"container {stopped} is not running"


def test_ends_with_the_container(engine: Engine, api: Connection, box: str) -> None:
    body = {"Cmd": ["sleep", "1000"], "AttachStdout": True}
    process = api.post(f"/containers/{box}/exec", body).json()["Id"]
    with engine.api() as own, own.hijack(f"/exec/{process}/start", {"Detach": False}) as stream:
        steps.eventually(lambda: api.get(f"/exec/{process}/json").json()["Running"])
        api.post(f"/containers/{box}/kill")
        assert stream.read_all() == b"" or engine.name == "dockerd"  # which may print an error of its runtime's
    assert steps.wait(api, box) == 137


def test_one_that_never_started_goes_with_the_containers_run(engine: Engine, api: Connection, box: str) -> None:
    prepared = api.post(f"/containers/{box}/exec", {"Cmd": ["true"]}).json()["Id"]
    engine.docker("restart", "-t", "0", box)
    assert api.post(f"/exec/{prepared}/start", {"Detach": True}).status == 404
    assert api.get(f"/exec/{prepared}/json").status == 404


def test_many_at_once(engine: Engine, api: Connection, box: str) -> None:
    running = [engine.spawn("exec", "box", "sh", "-c", f"sleep 0.1; echo {number}") for number in range(10)]
    printed = [process.communicate(timeout=30)[0].strip() for process in running]
    assert printed == [str(number).encode() for number in range(10)]
    assert steps.eventually(lambda: steps.inspect(api, box)["ExecIDs"] in (None, []))


def test_background_process_holds_the_stream_no_longer_than_docker(engine: Engine, box: str) -> None:
    """The client returns when the exec ended and the stream closed: a grandchild without the stream is no matter."""
    done = engine.docker("exec", "box", "sh", "-c", "sleep 100 >/dev/null 2>&1 </dev/null & echo done", timeout=20)
    assert done.stdout == b"done\n"


def test_frames_are_asked_for_at_the_start(engine: Engine, api: Connection, box: str) -> None:
    """A terminal is asked for at the creation; a client that starts without one reads its output in frames."""
    body = {"Cmd": ["sh", "-c", "test -t 1 && echo yes"], "Tty": True, "AttachStdout": True}
    process = api.post(f"/containers/{box}/exec", body).json()["Id"]
    with engine.api() as own, own.hijack(f"/exec/{process}/start", {"Detach": False, "Tty": False}) as stream:
        assert demultiplex(stream.read_all())[0] == b"yes\r\n"
