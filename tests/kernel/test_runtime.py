"""The daemon's runtime on the real kernel: zygote, monitor, streams, exec, adoption, and what is left of a failure."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import uuid
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dockyard.linux import seccomp
from dockyard.model.errors import SystemFailure
from dockyard.runtime import cgroups, zygote
from dockyard.runtime.bundle import Bundler
from dockyard.runtime.client import Runtime
from dockyard.runtime.handles import ContainerHandle, ExecHandle
from dockyard.runtime.launch import ExecSpec, Launch
from dockyard.runtime.link import StartFailed
from tests.support.leaks import CGROUPS
from tests.support.oci import SECONDS, Bundle, docker_config
from tests.support.steps import eventually

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.vm]

T = TypeVar("T")
FOREVER = "while :; do sleep 1000; done"


class Host:
    """Runtimes over one run directory, and every container made there; nothing of them may be left."""

    def __init__(self, directory: Path, bundle: Bundle) -> None:
        self.directory = directory
        self.bundle = bundle
        self.errors = directory / "errors"
        self.errors.touch()
        self.parent = f"dockyard-test-{uuid.uuid4().hex[:12]}"
        self._runner = asyncio.Runner()
        self._handles: list[ContainerHandle] = []
        self._runtimes: list[Runtime] = []
        self.runtime = self.new_runtime()

    def new_runtime(self) -> Runtime:
        """As a further daemon would have it."""

        async def make() -> Runtime:
            runtime = Runtime(str(self.errors))
            await runtime.start()
            return runtime

        runtime = self.wait(make())
        self._runtimes.append(runtime)
        return runtime

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        async def limited() -> T:
            return await asyncio.wait_for(work, SECONDS)

        return self._runner.run(limited())

    def launch_value(self, script: str, **stdio: Any) -> tuple[Launch, bytes | None]:
        identity = uuid.uuid4().hex * 2
        config = Bundle(self.bundle.directory, self.bundle.config).sh(script).config
        config["linux"]["cgroupsPath"] = f"/{self.parent}/{identity}"
        profile = config["linux"].get("seccomp")
        config = {**config, "linux": {k: v for k, v in config["linux"].items() if k != "seccomp"}}
        config["process"]["terminal"] = bool(stdio.get("tty"))
        state_dir = self.directory / identity
        state_dir.mkdir(mode=0o700)
        streams: Any = {"tty": False, "open_stdin": False, "stdin_once": False, "console_size": None} | stdio
        launch: Launch = {
            "id": identity,
            "config": config,
            "rootfs": {"type": "directory", "path": str(self.bundle.root)},
            "stdio": streams,
            "log": {
                "driver": "json-file",
                "path": str(self.directory / f"{identity}.log"),
                "max_size": 0,
                "max_file": 1,
                "attrs": {},
            },
            "network": None,
            "state_dir": str(state_dir),
        }
        return launch, seccomp.compile(profile) if profile else None

    def launch(self, script: str, *, attach: bool = False, gated: bool = False, **stdio: Any) -> Started:
        launch, program = self.launch_value(script, **stdio)
        ours, theirs = socket.socketpair()
        attached = [(theirs, True, True, True)] if attach else []
        handle = self.wait(self.runtime.launch(launch, seccomp=program, attached=attached, gated=gated))
        self._handles.append(handle)
        ours.setblocking(False)
        return Started(self, launch, handle, ours)

    def adopted(self, handle: ContainerHandle) -> None:
        self._handles.append(handle)

    def cgroups(self) -> list[Path]:
        return [path for path in CGROUPS.glob(f"*/{self.parent}/*") if path.is_dir()]

    def processes(self) -> list[str]:
        """Zygotes, monitors, spares: whatever was forked for these runtimes has the errors file in its command line."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and str(self.errors).encode() in (entry / "cmdline").read_bytes():
                    found.append(f"{entry.name} {(entry / 'comm').read_text()}")
            except OSError:
                continue
        return [entry for entry in found if not entry.startswith(f"{os.getpid()} ")]

    def close(self) -> None:
        async def end() -> None:
            for handle in self._handles:
                if not handle.exit.done() and not handle.link.closed:
                    await handle.kill(9)
                    await handle.exit
            for runtime in self._runtimes:
                await runtime.close()

        self.wait(end())
        self._runner.close()
        left = self.cgroups()
        for directory in CGROUPS.glob(f"*/{self.parent}"):
            directory.rmdir()
        assert not left
        eventually(lambda: not self.processes())
        assert self.errors.read_text() == ""


class Started:
    """A started container with the stream that was attached before its start."""

    def __init__(self, host: Host, launch: Launch, handle: ContainerHandle, stream: socket.socket) -> None:
        self.host = host
        self.launch = launch
        self.handle = handle
        self.stream = stream
        self.state_dir = Path(launch["state_dir"])

    def end(self) -> dict[str, Any]:
        return dict(self.host.wait(_of(self.handle.exit)))

    def output(self) -> bytes:
        return self.host.wait(read_all(self.stream))

    def monitor(self) -> int:
        return int(json.loads((self.state_dir / "state.json").read_bytes())["monitor"])

    def exec(self, *args: str, **more: Any) -> tuple[ExecHandle, socket.socket]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        process = {"args": list(args), "env": ["PATH=/bin"], "cwd": "/", "terminal": more.pop("tty", False)}
        spec: ExecSpec = {"id": uuid.uuid4().hex, "process": process, "open_stdin": more.pop("open_stdin", False)}
        return self.host.wait(self.handle.exec(spec, theirs)), ours


async def _of(future: asyncio.Future[T]) -> T:
    return await asyncio.shield(future)


async def read_all(sock: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while part := await loop.sock_recv(sock, 65536):
        data += part
    sock.close()
    return data


def frames(data: bytes) -> dict[int, bytes]:
    """Stream number -> its bytes."""
    found = {1: b"", 2: b""}
    while data:
        number, size = struct.unpack(">BxxxI", data[:8])
        found[number] += data[8 : 8 + size]
        data = data[8 + size :]
    return found


@pytest.fixture
def host(tmp_path: Path, bundler: Bundler) -> Iterator[Host]:
    directory = tmp_path / "run"
    directory.mkdir()
    host = Host(directory, Bundle(tmp_path / "bundle", docker_config(bundler)))
    yield host
    host.close()


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 0), ("sleep 9 & kill -9 $!; wait $!", 137)]
)
def test_exit_codes(host: Host, script: str, code: int) -> None:
    record = host.launch(script).end()
    assert (record["code"], record["error"], record["oom_killed"]) == (code, "", False)


def test_a_signal_that_ends_the_program_is_128_and_its_number(host: Host) -> None:
    started = host.launch(FOREVER)
    host.wait(started.handle.kill(signal.SIGKILL))
    assert started.end()["code"] == 137


def test_output_before_any_attach_is_in_the_log_and_attached_from_the_start_misses_nothing(host: Host) -> None:
    started = host.launch("echo one; echo two >&2; echo three", attach=True)
    streams = frames(started.output())
    assert streams == {1: b"one\nthree\n", 2: b"two\n"}
    started.end()
    log = started.launch["log"]
    assert log is not None
    lines = [json.loads(line) for line in Path(log["path"]).read_text().splitlines()]
    assert {(line["stream"], line["log"]) for line in lines} == {
        ("stdout", "one\n"),
        ("stderr", "two\n"),
        ("stdout", "three\n"),
    }


def test_stdin_reaches_the_program_and_its_end_too(host: Host) -> None:
    started = host.launch("cat; echo done", attach=True, open_stdin=True, stdin_once=True)
    data = os.urandom(300_000)
    received = host.wait(_talk(started.stream, data))
    assert frames(received)[1] == data + b"done\n"
    assert started.end()["code"] == 0


async def _talk(sock: socket.socket, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    reading = loop.create_task(read_all(sock))
    await loop.sock_sendall(sock, data)
    sock.shutdown(socket.SHUT_WR)
    return await reading


def test_a_terminal_has_the_size_it_was_given(host: Host) -> None:
    started = host.launch("tty; read x; stty size; exit 3", attach=True, tty=True, open_stdin=True)
    host.wait(started.handle.resize(33, 77))
    host.wait(asyncio.wait_for(_send(started.stream, b"go\n"), 5))
    output = started.output()
    assert b"/dev/pts/0" in output and b"33 77" in output
    assert started.end()["code"] == 3


async def _send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


def test_exec_has_its_own_streams_and_exit_code(host: Host) -> None:
    started = host.launch(FOREVER)
    running, stream = started.exec("sh", "-c", "echo out; echo err >&2; exit 5")
    assert frames(host.wait(read_all(stream))) == {1: b"out\n", 2: b"err\n"}
    assert host.wait(_of(running.exit))["code"] == 5


def test_exec_on_a_terminal(host: Host) -> None:
    started = host.launch(FOREVER)
    _, stream = started.exec("sh", "-c", "tty; exit", tty=True)
    assert host.wait(read_all(stream)) == b"/dev/pts/0\r\n"


@pytest.mark.parametrize(("program", "code"), [("nosuch", 127), ("/etc/passwd", 126), ("/etc", 126)])
def test_what_cannot_be_executed_is_said_with_dockers_code(host: Host, program: str, code: int) -> None:
    started = host.launch(FOREVER)
    with pytest.raises(StartFailed) as failed:
        started.exec(program)
    assert failed.value.exit_code == code
    assert program in failed.value.message


def test_a_start_that_fails_leaves_nothing(host: Host) -> None:
    launch, program = host.launch_value("true")
    launch["config"]["process"]["args"] = ["nosuch"]
    with pytest.raises(StartFailed, match='exec: "nosuch": executable file not found in \\$PATH') as failed:
        host.wait(host.runtime.launch(launch, seccomp=program))
    assert failed.value.exit_code == 127
    assert host.cgroups() == []
    assert os.listdir(launch["state_dir"]) == []


def test_a_missing_bind_source_is_named(host: Host) -> None:
    launch, program = host.launch_value("true")
    launch["config"]["mounts"] = [
        *launch["config"]["mounts"],
        {"destination": "/x", "source": "/no/such/source", "type": "bind", "options": ["rbind"]},
    ]
    with pytest.raises(StartFailed, match='error mounting "/no/such/source" to rootfs at "/x"'):
        host.wait(host.runtime.launch(launch, seccomp=program))
    assert host.cgroups() == []


def test_gated_runs_nothing_until_it_begins(host: Host) -> None:
    started = host.launch("echo began", attach=True, gated=True)
    assert os.readlink(f"/proc/{started.handle.started['pid']}/exe").find("busybox") < 0
    host.wait(started.handle.begin())
    assert frames(started.output())[1] == b"began\n"
    assert started.end()["code"] == 0


def test_a_new_daemon_adopts_what_runs_and_learns_what_ended(host: Host) -> None:
    running, ended = host.launch(FOREVER), host.launch("read x; exit 4", open_stdin=True, attach=True)
    host.wait(host.runtime.close())
    host.wait(_send(ended.stream, b"\n"))
    eventually(lambda: (ended.state_dir / "exit.json").exists())
    runtime = host.new_runtime()
    handle = host.wait(runtime.adopt(running.launch["id"], str(running.state_dir)))
    assert isinstance(handle, ContainerHandle)
    host.adopted(handle)
    assert handle.started == running.handle.started
    running.handle = handle
    execed, stream = running.exec("echo", "hello")
    assert frames(host.wait(read_all(stream)))[1] == b"hello\n"
    assert host.wait(_of(execed.exit))["code"] == 0
    record = host.wait(runtime.adopt(ended.launch["id"], str(ended.state_dir)))
    assert isinstance(record, dict) and record["code"] == 4
    assert host.wait(runtime.adopt("0" * 64, str(host.directory / "never"))) is None


@pytest.mark.parametrize("adopted", [False, True])
def test_a_lost_monitor_takes_its_container_along(host: Host, adopted: bool) -> None:
    """The kernel kills the first process; whoever holds the connection, or the next daemon, does the rest."""
    started = host.launch(FOREVER)
    pid, monitor = started.handle.started["pid"], started.monitor()
    if adopted:
        host.wait(host.runtime.close())
    os.kill(monitor, signal.SIGKILL)
    if adopted:
        found = host.wait(host.new_runtime().adopt(started.launch["id"], str(started.state_dir)))
        assert isinstance(found, dict)
        record = found
    else:
        record = started.end()
    assert (record["code"], record["error"]) == (137, "monitor lost")
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert host.cgroups() == []


def test_a_lost_zygote_is_replaced_and_its_containers_run_on(host: Host) -> None:
    started = host.launch(FOREVER)
    os.kill(host.runtime._zygote_pid, signal.SIGKILL)
    assert host.launch("exit 6").end()["code"] == 6
    _, stream = started.exec("echo", "alive")
    assert frames(host.wait(read_all(stream)))[1] == b"alive\n"


def test_a_request_that_the_monitor_does_not_understand_ends_no_container(host: Host) -> None:
    """As a daemon of a later version might ask."""
    started = host.launch(FOREVER)
    for op, arguments in (("kill", {}), ("exec", {"id": 3}), ("later", {}), ([], {})):
        with pytest.raises(SystemFailure, match=r"does not understand|unknown request|No such"):
            host.wait(started.handle.link.request(op, **arguments))  # type: ignore[arg-type]
    _, stream = started.exec("echo", "alive")
    assert frames(host.wait(read_all(stream)))[1] == b"alive\n"
    assert "KeyError" in host.errors.read_text()
    host.errors.write_text("")


def test_pause_stops_every_process(host: Host) -> None:
    started = host.launch("while :; do echo x; sleep 0.01; done", attach=True)
    host.wait(started.handle.pause())

    async def quiet() -> bytes:
        loop = asyncio.get_running_loop()
        while True:  # what was under way
            try:
                await asyncio.wait_for(loop.sock_recv(started.stream, 65536), 0.2)
            except TimeoutError:
                return b""

    assert host.wait(quiet()) == b""
    host.wait(started.handle.resume())
    assert host.wait(asyncio.wait_for(_receive(started.stream), 5))


async def _receive(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 65536)


def test_pids_are_those_of_the_container(host: Host) -> None:
    started = host.launch("sleep 100 & sleep 100 & wait")
    eventually(lambda: len(host.wait(started.handle.pids())) == 3)
    assert started.handle.started["pid"] in host.wait(started.handle.pids())


def test_a_client_that_does_not_read_holds_the_program_up_and_one_that_leaves_does_not(host: Host) -> None:
    started = host.launch(
        "i=0; while [ $i -lt 3000 ]; do echo $i $(printf %01000d 0); i=$((i+1)); done; echo end", attach=True
    )
    with pytest.raises(TimeoutError):
        host.wait(asyncio.wait_for(_of(started.handle.exit), 1))
    started.stream.close()
    assert started.end()["code"] == 0


def test_init_reaps_and_hands_signals_on(host: Host) -> None:
    host.bundle.config["dockyard"] = {"init": True}
    started = host.launch(
        "trap 'echo term; exit 9' TERM; (sleep 0.05 &) ; echo up; while :; do sleep 0.05; done", attach=True
    )
    host.wait(_receive(started.stream))
    host.wait(started.handle.kill(signal.SIGTERM))
    assert started.end()["code"] == 9


def test_a_large_environment_and_a_deep_exec_root(host: Host, tmp_path: Path) -> None:
    """Bundles travel as memfds, sockets by their directory: neither 200 KiB nor 108 bytes is a limit."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    launch, program = host.launch_value("echo ${#BIG}")
    launch["config"]["process"]["env"] = [
        "PATH=/bin",
        *(f"V{i}={'x' * 100_000}" for i in range(10)),
        "BIG=" + "y" * 100_000,
    ]
    launch["state_dir"] = str(deep)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    handle = host.wait(host.runtime.launch(launch, seccomp=program, attached=[(theirs, False, True, True)]))
    assert frames(host.wait(read_all(ours)))[1] == b"100000\n"
    assert host.wait(_of(handle.exit))["code"] == 0


def test_work_is_done_in_a_process_of_its_own(host: Host) -> None:
    assert host.wait(host.runtime.call("dockyard.runtime.channel:close_all", {})) is None


def test_errors_of_workers_keep_their_kind(host: Host, tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match="not a function of dockyard"):
        host.wait(host.runtime.call("os:getpid", {}))
    assert "ValueError" in host.errors.read_text()
    host.errors.write_text("")


@pytest.mark.parametrize("kind", ["cgroup", "net", "mnt"])
def test_namespaces_of_its_own(host: Host, kind: str) -> None:
    started = host.launch(FOREVER)
    assert os.readlink(f"/proc/{started.handle.started['pid']}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def test_a_monitor_that_hangs_can_be_ended_and_its_container_with_it(host: Host) -> None:
    started = host.launch(FOREVER)
    monitor = started.monitor()
    os.kill(monitor, signal.SIGSTOP)
    host.wait(started.handle.kill(signal.SIGKILL))  # needs no monitor
    host.wait(started.handle.end_monitor())
    assert started.end()["error"] == "monitor lost"
    assert host.cgroups() == []


def test_an_exec_that_fails_before_its_first_step_leaves_one_monitor(host: Host) -> None:
    """What the child raises while it prepares must not travel up into the monitor's code, which it is a fork of."""
    started = host.launch(FOREVER)
    ours, theirs = socket.socketpair()
    process: Any = {"args": ["true"], "env": 7, "cwd": "/"}
    with pytest.raises(StartFailed):
        host.wait(started.handle.exec({"id": "x", "process": process, "open_stdin": False}, theirs))
    ours.close()
    _, stream = started.exec("echo", "still")
    assert frames(host.wait(read_all(stream)))[1] == b"still\n"


def used_by(pids: set[int], parent: Path) -> set[str]:
    """Spare groups in which one of the processes is."""
    return {p.name for p in parent.glob("spare-*") if pids & {int(n) for n in (p / "cgroup.procs").read_text().split()}}


@pytest.mark.skipif(cgroups.version() != 1, reason="spares have control groups on cgroup v1 only")
def test_groups_of_killed_spares_are_swept_and_those_in_use_stay(host: Host) -> None:
    parent = CGROUPS / "pids" / "dockyard"

    def in_use() -> set[str]:
        return used_by({int(line.split()[0]) for line in host.processes()}, parent)

    used = eventually(in_use, lambda found: len(found) >= zygote.SPARES)
    dead = [top / "dockyard" / "spare-99999999" for top in CGROUPS.iterdir() if (top / "dockyard/tasks").exists()]
    for directory in dead:
        directory.mkdir()
    host.new_runtime()
    assert not any(directory.exists() for directory in dead)
    assert used <= {path.name for path in parent.glob("spare-*")}
