"""The end of a container, in its monitor: what it had on the host is taken away.

Owns: the network's rules, what another runtime keeps, the control group, poststop hooks. Does not own: streams, log and
record (`runtime.monitor`). Standard library only.
"""

from __future__ import annotations

import json
import os
import traceback
from typing import Any

from dockyard.linux.nfnetlink import SharedElements
from dockyard.runtime import hooks, network
from dockyard.runtime.cgroups import Cgroup
from dockyard.runtime.foreign import making
from dockyard.runtime.foreign.command import Command
from dockyard.runtime.setup import Made


def detach_network(directory: int, rules: SharedElements | None) -> None:
    """The plan was the setup process's to read; state.json has it. A container that ends has memory to spend."""
    fd = os.open("state.json", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        network.detach_host(json.loads(os.read(fd, os.fstat(fd).st_size))["network"], rules)
    except OSError:
        traceback.print_exc()  # the container has ended all the same; the daemon's next start sweeps
    finally:
        os.close(fd)


def take_away(made: Made, cgroup: Cgroup | None) -> bool:
    """Everything else. Whether the kernel has killed in it for lack of memory."""
    killed = cgroup is not None and cgroup.oom_kills(made.started["started_at"]) > 0
    if made.runtime is not None:
        making.forget(Command(made.runtime, made.directory), made.identity)
    if cgroup is not None:
        try:
            cgroup.remove()
        except OSError:
            cgroup.kill()
            cgroup.remove()
    if made.poststop is not None:
        _run_poststop(made.poststop)
    return killed


def _run_poststop(wanted: dict[str, Any]) -> None:
    """The container is gone: a hook that fails changes nothing any more (OCI runtime-spec, runtime.md)."""
    try:
        hooks.run(wanted, "poststop", wanted["state"])
    except (OSError, hooks.HookFailed):
        traceback.print_exc()
