"""The start of a container by another runtime: `spawn.spawn_container`'s counterpart, in the setup process.

Owns: create, the network on the namespace that it made, start, and undoing all of it when a step fails.
Does not own: the bundle (`preparing`), the container's life (`runtime.monitor`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from dockyard.linux import abi, process
from dockyard.linux.nfnetlink import SharedElements
from dockyard.runtime import network, program
from dockyard.runtime.cgroups import open_cgroup
from dockyard.runtime.following import Spawned, SpawnFailed, describe
from dockyard.runtime.foreign.command import Command, Console, give_streams, own_mounts
from dockyard.runtime.foreign.preparing import prepare


def spawn(
    launch: dict[str, Any],
    stdio: tuple[int, int, int] | None,
    rules: SharedElements | None,
    on_going: Callable[[Spawned], None],
) -> Spawned:
    """Make the container of a `Launch` with `launch["runtime"]`; its first process becomes a child of the caller's
    parent, a subreaper. `on_going(spawned)` is called before the program runs. Raises SpawnFailed."""
    directory = launch["state_dir"]
    command = Command(launch["runtime"], directory)
    try:
        bundle, users = prepare(launch)
        give_streams(stdio, users)
        return _create(launch, command, bundle, stdio, rules, on_going)
    except program.ProgramFailed as failed:
        raise SpawnFailed(failed.message, failed.code) from failed
    except OSError as error:
        raise SpawnFailed(describe(error)) from error


def _create(
    launch: dict[str, Any],
    command: Command,
    bundle: str,
    stdio: tuple[int, int, int] | None,
    rules: SharedElements | None,
    on_going: Callable[[Spawned], None],
) -> Spawned:
    plan, attached = launch["network"], False
    console = Console(command.directory, "console.sock") if stdio is None else None
    options = ["--console-socket", console.path] if console is not None else []
    try:
        options += ["--bundle", bundle, "--pid-file", f"{command.directory}/init.pid"]
        command.call("create", *options, launch["id"], stdio=stdio)
        spawned = _found(command.directory, launch)
        if console is not None:
            size = launch["stdio"]["console_size"]
            spawned.master, spawned.slave = console.terminal(size)
        if plan is not None:
            network.attach_host(plan, spawned.pid, rules)
            attached = True
            _configure(plan, spawned.pidfd)
        on_going(spawned)
        command.call("start", launch["id"])
    except BaseException:
        forget(command, launch["id"])
        if attached:
            network.detach_host(plan, rules)
        raise
    finally:
        if console is not None:
            console.close()
    return spawned


def forget(command: Command, identity: str) -> None:
    """Let the runtime take away what it has of the container, whatever state that is in; done by a child."""
    child = os.fork()
    if child == 0:
        try:
            own_mounts()
            command.call("delete", "--force", identity)
        except (SpawnFailed, OSError):
            pass  # it did not get that far, or has forgotten it: the group is killed and removed by ourselves
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _found(directory: str, launch: dict[str, Any]) -> Spawned:
    path = launch["config"]["linux"].get("cgroupsPath")
    with open(f"{directory}/init.pid", encoding="ascii") as file:
        pid = int(file.read())
    return Spawned(pid, os.pidfd_open(pid), socket.socket(), open_cgroup(path) if path else None)


def _configure(plan: dict[str, Any], pidfd: int) -> None:
    """The container's side of the network, by a child that joins its namespace."""
    read, write = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        message = b""
        try:
            process.setns(pidfd, abi.CLONE_NEWNET)
            network.configure_inside(plan)  # type: ignore[arg-type]
        except BaseException as error:
            message = (describe(error) if isinstance(error, OSError) else repr(error)).encode() or b"?"
        os.write(write, message)
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        failure = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if failure or status:
        raise SpawnFailed(f"configuring the network: {failure.decode(errors='replace') or status}")
