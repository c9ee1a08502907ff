"""The short-lived process that makes one container on its monitor's behalf.

Owns: reading the launch, taking the published ports, making the container as the monitor's child (`runtime.spawn` with
`sibling`), writing `state.json`, handing the monitor what it must keep. Then it ends, and with it goes the memory that
all of that took: the monitor stays as lean as the zygote forked it.
Does not own: the container's life (`runtime.monitor`).

The report is one message: {"pid", "start_time", "started_at", "cgroup", "own_pids", "terminal", "networked"} with
descriptors (terminal master and slave; sync socket when gated; the sockets of the ports), or {"error", "code"}.
Standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from typing import Any, NoReturn

from dockyard.linux import process
from dockyard.runtime import channel, network, spawn

REFUSED = -1  # the code of a failure that is no fault of the request


def run(
    report: socket.socket, launch: int, seccomp: int, directory: int, stdio: tuple[int, int, int] | None, gate: int
) -> NoReturn:
    """`launch` and `seccomp` are memfds (or -1), `directory` the container's run directory."""
    ports: list[socket.socket] = []
    try:
        wanted = json.loads(channel.unseal(launch))
        program = channel.unseal(seccomp) if seccomp >= 0 else None
        if wanted["network"] is not None:
            ports = network.bind_ports(wanted["network"])
        spawned = spawn.spawn_container(wanted, stdio, program, gate=gate, sibling=True)
        _hand_over(report, wanted, directory, spawned, ports, gate >= 0)
    except spawn.SpawnFailed as failed:
        channel.send(report, {"error": failed.message, "code": failed.code})
    except network.PortUnavailable as error:
        channel.send(report, {"error": str(error), "code": REFUSED})
    except OSError as error:
        channel.send(report, {"error": spawn.describe(error), "code": REFUSED})
    except BaseException as error:
        traceback.print_exc()
        channel.send(report, {"error": f"{type(error).__name__}: {error}", "code": REFUSED})
    os._exit(0)


def _hand_over(
    report: socket.socket,
    wanted: dict[str, Any],
    directory: int,
    spawned: spawn.Spawned,
    ports: list[socket.socket],
    gated: bool,
) -> None:
    state = {
        "pid": spawned.pid,
        "start_time": process.start_time(spawned.pid),
        "started_at": time.time_ns(),
        "cgroup": spawned.cgroup.path if spawned.cgroup else "",
    }
    monitor = os.getppid()
    record = {
        **state,
        "id": wanted["id"],
        "monitor": monitor,
        "monitor_start_time": process.start_time(monitor),
        "network": wanted["network"],
    }
    channel.write_record(directory, "state.json", record)
    namespaces = wanted["config"]["linux"].get("namespaces") or []
    state["own_pids"] = any(entry["type"] == "pid" for entry in namespaces)
    state["terminal"] = spawned.master >= 0
    state["networked"] = wanted["network"] is not None
    fds = [spawned.master, spawned.slave] if spawned.master >= 0 else []
    if gated:
        fds.append(spawned.sync.fileno())
    channel.send(report, state, [*fds, *(port.fileno() for port in ports)])
