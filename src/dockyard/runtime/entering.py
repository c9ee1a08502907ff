"""The parent's side of an exec: a further process in a container that runs.

Owns: the fork and following it until the program runs. Does not own: what the child does (`runtime.init`), what becomes
of its streams (`runtime.monitor`, `runtime.oci`). Standard library only.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

from dockyard.linux import process
from dockyard.runtime import channel, following
from dockyard.runtime.cgroups import Cgroup, open_cgroup
from dockyard.runtime.following import Spawned, SpawnFailed
from dockyard.runtime.init import run_exec
from dockyard.runtime.job import Job, Place

_PATIENCE = 30.0  # s that an exec may take where its monitor waits for it, and the whole container for its monitor


def spawn_exec(
    spec: dict[str, Any],
    init_pidfd: int,
    cgroup: Cgroup | None,
    stdio: tuple[int, int, int] | None,
    seccomp: bytes | None,
    preserved: int = 0,
    place: Place | None = None,
    on_listener: Callable[[int, int], None] | None = None,
) -> Spawned:
    """Run a further process in the container whose first process is `init_pidfd`. Raises SpawnFailed.

    `place`: where it goes, if not as in every container. `on_listener`: as of `spawn_container`.
    """

    def job(sync: socket.socket) -> Job:
        made = _exec_job(spec, init_pidfd, cgroup, stdio, seccomp, preserved, sync)
        made.place = place
        return made

    return _clone_exec(job, cgroup, on_listener=on_listener)


def spawn_sealed_exec(
    spec: int, init_pidfd: int, cgroup: str, stdio: tuple[int, int, int] | None, seccomp: int, part: str = ""
) -> Spawned:
    """As `spawn_exec`, for a caller whose memory is to stay as it is.

    `spec`: an ExecSpec in a memfd, `seccomp`: a program in a memfd or -1, `cgroup`: a path or "". The child reads them.
    `part`: it is born in a part of the group of that name (`Cgroup.part`), which is left behind if it fails.
    """

    def job(sync: socket.socket) -> Job:
        wanted = json.loads(channel.unseal(spec))
        program = channel.unseal(seccomp) if seccomp >= 0 else None  # also for a privileged exec, as in Docker
        group = open_cgroup(cgroup) if cgroup else None
        made = _exec_job(wanted["process"], init_pidfd, group, stdio, program, 0, sync)
        made.part, made.unshare_cgroup = part, wanted.get("own_cgroups", False)
        return made

    return _clone_exec(job, None, _PATIENCE)


def _exec_job(
    spec: dict[str, Any],
    init_pidfd: int,
    cgroup: Cgroup | None,
    stdio: tuple[int, int, int] | None,
    seccomp: bytes | None,
    preserved: int,
    sync: socket.socket,
) -> Job:
    job = Job()
    job.sync = sync
    job.preserved = preserved
    job.process = spec
    job.cgroup = cgroup
    job.seccomp = seccomp
    job.stdio = stdio
    job.terminal = bool(spec.get("terminal"))
    size = spec.get("consoleSize")
    job.console_size = [size["height"], size["width"]] if size else None
    job.pidfd = init_pidfd
    return job


def _clone_exec(
    make_job: Callable[[socket.socket], Job],
    cgroup: Cgroup | None,
    patience: float | None = None,
    on_listener: Callable[[int, int], None] | None = None,
) -> Spawned:
    """Fork; the child makes its job and runs it. `patience`: how long it may take (s); it waits while the container is
    frozen."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid, pidfd = process.clone()
    except OSError as error:
        ours.close()
        theirs.close()
        raise SpawnFailed(f"the container is ending: {error.strerror}") from error
    if pid == 0:
        ours.close()
        run_exec(make_job, theirs)
    theirs.close()
    spawned = Spawned(pid, pidfd, ours, cgroup)
    spawned.on_listener = on_listener
    ours.settimeout(patience)
    try:
        following.await_birth(spawned)
        following.await_program(spawned)
    except TimeoutError:
        following.abandon(spawned)
        raise SpawnFailed(f"the process did not get to its program within {patience:.0f} s") from None
    except BaseException:
        following.abandon(spawned)
        raise
    return spawned
