"""The short-lived process that makes one container on its monitor's behalf.

Owns: reading the request and the launch, taking the published ports, the pipes, the socket that the monitor listens
on, making the container as the monitor's child (`runtime.spawn` with `sibling`), writing `state.json`, telling the
daemon how it went. What the monitor must keep it hands over. Then it ends, and with it goes the memory that all of that
took: the monitor stays as lean as the zygote forked it.
Does not own: the container's life (`runtime.monitor`).

To the daemon: {"event": "started", "pid", "start_time", "started_at", "monitor"} or {"event": "failed", "error",
"code"}. To the monitor, which is the same program: a `Made` tuple in marshal's format, with descriptors. Standard
library only.
"""

from __future__ import annotations

import json
import marshal
import os
import select
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from dockyard.linux import abi, calls, process
from dockyard.linux.nfnetlink import SharedElements
from dockyard.runtime import cgroups, channel, following, hooks, network, spawn
from dockyard.runtime.foreign import making

SPARE = "spare-"
PARENT = "/dockyard"  # the parent of the cgroups of containers that ask for no other
GOING = b"going"
REFUSED = -1  # the code of a failure that is no fault of the request


class Made(NamedTuple):
    """What the monitor learns of the container it watches, while that is still on its way to its program.

    Descriptors come beside it, in this order: control socket, [seccomp program,] the streams of those attached, run
    directory, listening socket, [gate,] [without a terminal: stdin or /dev/null, stdout, stderr,] the sockets of the
    ports. A second message, `GOING`, says that the program runs (or is at the gate); with it come [the sync socket if
    gated,] [terminal master, slave]. Without it there is no container.
    """

    pid: int
    started: dict[str, int]  # StartedRecord
    cgroup: str  # path, "" for none
    placed: bool  # that cgroup was the setup process's own
    networked: bool
    seccomp: bool
    gated: bool
    tty: bool
    open_stdin: bool
    stdin_once: bool
    log: dict[str, Any] | None
    attached: list[list[bool]]
    identity: str  # with `runtime`: the container's name there
    runtime: dict[str, Any] | None  # another runtime that has made it (`launch.RuntimeProgram`)
    directory: str  # with `runtime`: the path of the run directory
    poststop: dict[str, Any] | None  # {"hooks": {"poststop"}, "state"}


def wait(spare: socket.socket, report: socket.socket, rules: SharedElements | None) -> NoReturn:
    """As `run`, for a request that is still to come over `spare`; its end means that none will."""
    place = _take_place()
    received = channel.receive_raw(spare)
    if received is None:
        os._exit(0)
    spare.close()
    calls.prctl(abi.PR_SET_NAME, b"dockyard-mon")
    run(*received, report, rules, place)


def _take_place() -> cgroups.Cgroup | None:
    """A control group for the container to come, the calling process in it; None where there is none to be had."""
    if cgroups.version() != 1:
        return None
    place = cgroups.open_cgroup(spare_cgroup(os.getpid()))
    try:
        place.create()
        place.join()
    except OSError:
        return None  # the container will join its group the slow way
    return place


def spare_cgroup(pid: int) -> str:
    """Where the spare setup process `pid` waits. Its monitor removes what is left of it."""
    return f"{PARENT}/{SPARE}{pid}"


def run(
    request: bytes,
    fds: list[int],
    report: socket.socket,
    rules: SharedElements | None,
    place: cgroups.Cgroup | None = None,
) -> NoReturn:
    """`request` and `fds` as the zygote got them: see `becoming.main`. `place`: see `spawn_container`."""
    options = json.loads(request)
    control = socket.socket(fileno=fds[0])
    failure: dict[str, Any] = {"event": "failed", "code": REFUSED}
    directory = os.open(options["state_dir"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _expect_daemon(control)
        launch = json.loads(channel.unseal(fds[1]))
        program = channel.content(fds[2]) if options["seccomp"] else None
        started = _make(options, launch, program, _Ground(directory, report, [fds[0], *fds[2:]]), rules, place)
        try:
            channel.send(control, {"event": "started", **started, "monitor": os.getppid()})
        except OSError:
            pass  # the daemon is gone: the next one finds the monitor
        os._exit(0)
    except following.SpawnFailed as failed:
        failure |= {"error": failed.message, "code": failed.code}
    except hooks.HookFailed as error:
        failure |= {"error": str(error), "code": 128}
    except network.PortUnavailable as error:
        failure["error"] = str(error)
    except OSError as error:
        failure["error"] = following.describe(error)
    except BaseException as error:
        traceback.print_exc()
        failure["error"] = f"{type(error).__name__}: {error}"
    for name in ("monitor.sock", "exec.fifo", "state.json"):
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            continue
    try:
        channel.send(control, failure)
    finally:
        os._exit(1)


def _expect_daemon(control: socket.socket) -> None:
    """A daemon that died since it asked would not know of the container: nothing is begun for it."""
    poll = select.poll()
    poll.register(control, select.POLLHUP)
    if poll.poll(0):
        raise OSError(32, "the daemon is gone")


class _Ground(NamedTuple):
    """Where a container is made: its run directory, the way to its monitor, what the daemon gave for the monitor."""

    directory: int
    report: socket.socket
    given: list[int]


def _make(
    options: dict[str, Any],
    launch: dict[str, Any],
    program: bytes | None,
    ground: _Ground,
    rules: SharedElements | None,
    place: cgroups.Cgroup | None,
) -> dict[str, int]:
    """Make the container and hand it to the monitor; a StartedRecord."""
    ports = network.bind_ports(launch["network"]) if launch["network"] is not None else []
    listener = channel.listen(ground.directory, "monitor.sock")
    kept = [*ground.given, ground.directory, listener.fileno()]
    gate = -1
    if options["gated"]:
        os.mkfifo("exec.fifo", 0o600, dir_fd=ground.directory)
        gate = os.open("exec.fifo", os.O_RDWR | os.O_CLOEXEC, dir_fd=ground.directory)
        kept.append(gate)
    theirs, ours = (None, None) if options["tty"] else make_pipes(options["open_stdin"])
    kept += ours or ()
    kept += [port.fileno() for port in ports]
    started: dict[str, int] = {}

    def hand_over(spawned: following.Spawned) -> None:
        started.update(pid=spawned.pid, start_time=process.start_time(spawned.pid), started_at=time.time_ns())
        _write_state(ground.directory, launch, started, spawned.cgroup.path if spawned.cgroup else "")
        made = _made(options, launch, spawned, started)
        ground.report.sendmsg([marshal.dumps(tuple(made))], channel.rights(kept))

    if launch.get("runtime"):
        if gate >= 0:
            raise following.SpawnFailed("a start in two steps works with the runtime dockyard only")
        if place is not None:
            cgroups.open_cgroup(PARENT).join()  # the other runtime may not know all hierarchies, and stay where we are
        spawned = making.spawn(launch, theirs, rules, hand_over)
    else:
        before = _hooks_to_run(launch) if launch["config"].get("hooks") else None
        spawned = spawn.spawn_container(
            launch, theirs, program, gate, sibling=True, rules=rules, place=place, on_created=before, on_going=hand_over
        )
    if launch["config"].get("hooks") and not launch.get("runtime"):
        hooks.run(launch["config"], "poststart", {**_state(launch), "status": "running", "pid": spawned.pid})
    last = [spawned.sync.fileno()] if gate >= 0 else []
    last += [spawned.master, spawned.slave] if spawned.master >= 0 else []
    ground.report.sendmsg([GOING], channel.rights(last))
    return started


def _state(launch: dict[str, Any]) -> dict[str, Any]:
    config = launch["config"]
    known = {"ociVersion": config["ociVersion"], "id": launch["id"], "bundle": launch["state_dir"]}
    return {**known, "annotations": config.get("annotations") or {}}


def _hooks_to_run(launch: dict[str, Any]) -> Callable[[int], None]:
    """What runs the hooks that come when the namespaces are there, itself in our own pid namespace."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def run(pid: int) -> None:
        process.setns(own, abi.CLONE_NEWPID)
        for name in ("prestart", "createRuntime"):
            hooks.run(launch["config"], name, {**_state(launch), "status": "creating", "pid": pid})

    return run


def _made(options: dict[str, Any], launch: dict[str, Any], spawned: following.Spawned, started: dict[str, int]) -> Made:
    return Made(
        pid=spawned.pid,
        started=started,
        cgroup=spawned.cgroup.path if spawned.cgroup else "",
        placed=bool(spawned.place),
        networked=launch["network"] is not None,
        seccomp=options["seccomp"],
        gated=options["gated"],
        tty=options["tty"],
        open_stdin=options["open_stdin"],
        stdin_once=options["stdin_once"],
        log=options["log"],
        attached=options["attached"],
        identity=launch["id"] if launch.get("runtime") else "",
        runtime=launch.get("runtime"),
        directory=launch["state_dir"] if launch.get("runtime") else "",
        poststop=_poststop(launch),
    )


def _poststop(launch: dict[str, Any]) -> dict[str, Any] | None:
    wanted = (launch["config"].get("hooks") or {}).get("poststop")
    if not wanted or launch.get("runtime"):
        return None
    return {"hooks": {"poststop": wanted}, "state": {**_state(launch), "status": "stopped", "pid": 0}}


def _write_state(directory: int, launch: dict[str, Any], started: dict[str, int], cgroup: str) -> None:
    monitor = os.getppid()
    record = {
        **started,
        "id": launch["id"],
        "cgroup": cgroup,
        "network": launch["network"],
        "monitor": monitor,
        "monitor_start_time": process.start_time(monitor),
    }
    channel.write_record(directory, "state.json", record)


def make_pipes(open_stdin: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(the process's stdin, stdout, stderr; our ends of them). Without stdin: /dev/null on both sides."""
    stdout, stderr = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    if open_stdin:
        stdin = os.pipe2(os.O_CLOEXEC)
        return (stdin[0], stdout[1], stderr[1]), (stdin[1], stdout[0], stderr[0])
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    return (null, stdout[1], stderr[1]), (os.dup(null), stdout[0], stderr[0])
