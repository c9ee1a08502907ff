"""What a monitor leaves when it is lost, and taking it away.

Owns: the kernel objects of a container whose monitor was killed: its processes, control group, published ports. A
container whose monitor is gone ends as 137 with `monitor lost`.
Does not own: the files of the container (engine, store).
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from dockyard.linux import process
from dockyard.runtime import cgroups, network, setup
from dockyard.runtime.cgroups import open_cgroup
from dockyard.runtime.launch import ExitRecord

LOST = "monitor lost"


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_exit(state_dir: str) -> ExitRecord | None:
    """The exit record that a monitor left, if it did."""
    found = _read(f"{state_dir}/exit.json")
    if found is None:
        return None
    return ExitRecord(
        code=found["code"], finished_at=found["finished_at"], oom_killed=found["oom_killed"], error=found["error"]
    )


def control_group(state_dir: str) -> str:
    """The cgroupsPath of a running container as it was started, whatever the daemon's driver is by now."""
    return str((_read(f"{state_dir}/state.json") or {}).get("cgroup") or "")


def read_state(state_dir: str) -> dict[str, Any]:
    """What was written down of a running container when it was started; {} if it is not there."""
    return _read(f"{state_dir}/state.json") or {}


def is_stopped(state_dir: str) -> bool:
    """Whether a container's monitor was stopped by a signal."""
    state = read_state(state_dir)
    pid = state.get("monitor") or 0
    return bool(pid) and process.is_stopped(pid, state.get("monitor_start_time") or 0)


def take_over(state_dir: str) -> ExitRecord:
    """The connection to a monitor has ended: its record, or, when it was lost, the container's end by our own hand."""
    record = read_exit(state_dir)
    if record is not None:
        return record
    state = _read(f"{state_dir}/state.json")
    if state is not None:
        _end_monitor(state)
        record = read_exit(state_dir)
        if record is not None:
            return record
        _kill_first(state)
        _clear(state.get("cgroup") or "", state.get("network"))
    return ExitRecord(code=137, finished_at=time.time_ns(), oom_killed=False, error=LOST)


def end_monitor(state_dir: str) -> None:
    """SIGKILL the monitor of a container, and with it the container's first process."""
    state = _read(f"{state_dir}/state.json")
    if state is not None:
        _end_monitor(state)


def _end_monitor(state: dict[str, Any]) -> None:
    """A monitor that lives but does not speak is no monitor."""
    _kill(state.get("monitor") or 0, state.get("monitor_start_time") or 0)


def _kill_first(state: dict[str, Any]) -> None:
    _kill(state["pid"], state["start_time"])


def _kill(pid: int, started: int) -> None:
    """SIGKILL exactly that process and wait until it is gone."""
    try:
        fd = process.open_process(pid, started)
    except (OSError, ValueError):
        return
    try:
        process.pidfd_send_signal(fd, 9)
        for _ in range(2000):
            if process.start_time(pid) != started or _is_zombie(pid):
                return
            time.sleep(0.001)
    except OSError:
        return  # gone
    finally:
        os.close(fd)


def _is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return stat.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")


def sweep_spares() -> None:
    """Remove the control groups of spare monitors that were killed together with their setup processes."""
    cgroups.sweep(setup.PARENT, setup.SPARE)


def clear(config: dict[str, Any], plan: dict[str, Any] | None, state_dir: str) -> None:
    """After a start whose monitor ended without a word."""
    state = _read(f"{state_dir}/state.json")
    if state is not None:
        _end_monitor(state)
        _kill_first(state)
    _clear((config.get("linux") or {}).get("cgroupsPath") or "", plan)


def _clear(path: str, plan: dict[str, Any] | None) -> None:
    if path:
        cgroup = open_cgroup(path)
        try:
            cgroup.kill()
            cgroup.remove()
        except OSError:
            pass  # gone already, or in the way of nobody: the daemon's next start sweeps
    if plan is not None:
        try:
            network.detach_host(plan)  # type: ignore[arg-type]
        except OSError:
            pass  # the table or the bridge is gone, and the ports with it
