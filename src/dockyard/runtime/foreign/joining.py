"""A further process in a container of another runtime: `entering.spawn_sealed_exec`'s counterpart, for the monitor.

Owns: a child that reads the spec, resolves the user, calls `exec --detach` and tells the pid; the exec'd process is
then a child of the monitor. Does not own: the process's streams and end (`runtime.monitor`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from typing import Any, NoReturn

from dockyard.linux import abi, calls, process
from dockyard.runtime import channel, program
from dockyard.runtime.following import Spawned, SpawnFailed, describe
from dockyard.runtime.foreign.command import Command, Console, give_streams, own_mounts
from dockyard.runtime.foreign.preparing import plain_process
from dockyard.runtime.users import Users

_REAPING = 5.0  # s
_PATIENCE = 30.0  # s; the monitor does nothing else meanwhile


def spawn_exec(
    command: Command,
    identity: str,
    init: int,
    spec: int,
    stdio: tuple[int, int, int] | None,
    part: str,
) -> Spawned:
    """Run the process of the ExecSpec in the memfd `spec` in the container `identity`, whose first process is `init`.

    `part`: a directory of the container's control group for it, or "". It is moved there when it runs: what it has
    started by then is not in it. Raises SpawnFailed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child, pidfd = process.clone()
    if child == 0:
        ours.close()
        _run(command, identity, init, spec, stdio, theirs)
    theirs.close()
    ours.settimeout(_PATIENCE)
    try:
        spawned = _hear(ours)
    except TimeoutError:
        os.killpg(child, signal.SIGKILL)
        raise SpawnFailed(f"the OCI runtime did not start the process within {_PATIENCE:.0f} s") from None
    finally:
        ours.close()
        os.waitpid(child, 0)
        os.close(pidfd)
    if part:
        _move(spawned.pid, part)
    return spawned


def _hear(ours: socket.socket) -> Spawned:
    message, ancillary, _, _ = ours.recvmsg(8192, 64, socket.MSG_CMSG_CLOEXEC)
    if message[:1] == b"P":
        pid = int(message[1:])
        spawned = Spawned(pid, os.pidfd_open(pid), ours, None)
        if ancillary:
            spawned.master, spawned.slave = struct.unpack("ii", ancillary[0][2])
        return spawned
    code, _, text = message[1:].partition(b"\0")
    raise SpawnFailed(text.decode("utf-8", "replace") or "the process was not made", int(code or b"128"))


def _move(pid: int, part: str) -> None:
    try:
        os.mkdir(part, 0o755)
        with open(f"{part}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(pid))
    except OSError:
        pass  # it has ended already, or the group takes no parts: then only the process itself can be ended


def _run(
    command: Command,
    identity: str,
    init: int,
    spec: int,
    stdio: tuple[int, int, int] | None,
    theirs: socket.socket,
) -> NoReturn:
    code, text = 128, ""
    try:
        os.setsid()
        calls.prctl(abi.PR_SET_CHILD_SUBREAPER, 1)  # what is left of an exec that fails is ours, not the monitor's
        own_mounts()
        wanted = json.loads(channel.unseal(spec))
        pid, terminal = _call(command, identity, init, wanted, stdio)
        theirs.sendmsg([b"P%d" % pid], channel.rights(terminal))
        os._exit(0)
    except SpawnFailed as failed:
        code, text = failed.code, failed.message
    except program.ProgramFailed as failed:
        code, text = failed.code, failed.message
    except OSError as error:
        text = describe(error)
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
    _reap()
    try:
        theirs.send(b"E%d\0" % code + text.encode("utf-8", "replace")[:4000])
    finally:
        os._exit(1)


def _reap() -> None:
    """Wait for the children that the runtime left: while one of them is not reaped, its container cannot end."""
    deadline = time.monotonic() + _REAPING
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.002)


def _users(init: int) -> Users | None:
    pidfd = os.pidfd_open(init)
    try:
        return Users.of_process(pidfd)
    finally:
        os.close(pidfd)


def _call(
    command: Command, identity: str, init: int, wanted: dict[str, Any], stdio: tuple[int, int, int] | None
) -> tuple[int, tuple[int, ...]]:
    name = f"exec-{wanted['id'][:12]}"
    files = [f"{command.directory}/{name}.{kind}" for kind in ("process", "pid")]
    users = _users(init)
    give_streams(stdio, users)
    root = os.open(f"/proc/{init}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    spec = plain_process(wanted["process"], root, users)
    os.close(root)
    console = None
    try:
        fd = os.open(files[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(spec, file)
        options = ["--detach", "--process", files[0], "--pid-file", files[1]]
        if spec.get("terminal"):
            console = Console(command.directory, f"{name}.sock")
            options += ["--console-socket", console.path]
        command.call("exec", *options, identity, stdio=stdio, log=f"{name}.log")
        size = spec.get("consoleSize")
        terminal = console.terminal([size["height"], size["width"]] if size else None) if console is not None else ()
        with open(files[1], encoding="ascii") as file:
            return int(file.read()), terminal
    finally:
        if console is not None:
            console.close()
        for path in files:
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
