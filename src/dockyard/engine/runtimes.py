"""The OCI runtimes that a container may name.

Owns: which there are: ours, those of the configuration, and runc and crun where they are installed. Does not own: what
they do (`dockyard.runtime`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dockyard.model.container import HostConfig
from dockyard.model.errors import InvalidArgument
from dockyard.runtime.launch import RuntimeProgram

OURS: Final = "dockyard"
_USUAL: Final = ("runc", "crun")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class OciRuntime:
    """A program with runc's command line, and words that come before the command."""

    path: str
    args: tuple[str, ...] = ()


def known(configured: Mapping[str, OciRuntime]) -> dict[str, OciRuntime]:
    """Every runtime by its name; what is configured comes before what is found."""
    found = {name: path for name in _USUAL if (path := shutil.which(name, path=_PATH))}
    return {OURS: OciRuntime("dockyard-runtime"), **{n: OciRuntime(p) for n, p in found.items()}, **configured}


def program(runtimes: Mapping[str, OciRuntime], name: str, *, systemd: bool = False) -> RuntimeProgram | None:
    """What makes the containers of the runtime `name`, None for ours; `systemd`: in scopes of systemd's.
    InvalidArgument if it is unknown."""
    if name in ("", OURS):
        return None
    if name not in runtimes:
        raise InvalidArgument(f"unknown or invalid runtime name: {name}")
    runtime = runtimes[name]
    path = runtime.path if os.path.isabs(runtime.path) else shutil.which(runtime.path, path=_PATH) or runtime.path
    return RuntimeProgram(path=path, args=[*runtime.args, *(["--systemd-cgroup"] if systemd else [])])


def check(host: HostConfig) -> None:
    """InvalidArgument for what only our own runtime can do."""
    if host.runtime not in ("", OURS) and host.init:
        raise InvalidArgument(f"--init works with the runtime {OURS} only, not with {host.runtime}")
