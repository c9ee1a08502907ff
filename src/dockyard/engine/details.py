"""What a container's settings come down to on this host: for `inspect`.

Owns: `Ground`: where its file system lies, which paths are hidden or read-only. Does not own: making any of it
(`store.snapshots`, `runtime.bundle`), Docker's names for it (`edge.api.bodies`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dockyard.engine import links
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.model.errors import DockyardError
from dockyard.runtime.bundle.security import parse_security_options, system_paths


class Ground(NamedTuple):
    driver: str  # of the snapshots
    lower: list[str]  # an overlay's layers, the topmost first
    upper: str | None  # its writable layer; None for any other driver
    work: str
    merged: str  # where the host sees it put together: the root of its first process, "" when there is none
    masked_paths: list[str] | None  # None: nothing is masked because it is privileged
    readonly_paths: list[str] | None
    apparmor_profile: str = ""
    links: Sequence[tuple[str, str]] = ()  # (the other's name, its alias)


def ground(context: Context, container: Container) -> Ground:
    """See `Containers.ground`. Reads no disk."""
    masked, readonly = _paths(container)
    rest = (masked, readonly, context.bundler.apparmor_profile(container.host), links.shown(context, container))
    driver = context.snapshots.driver
    try:
        rootfs = context.snapshots.rootfs(container.id)
    except DockyardError:  # its writable layer got lost
        rootfs = {"type": ""}
    if rootfs["type"] != "overlay":
        return Ground(driver, [], None, "", "", *rest)
    base = rootfs["base"]
    merged = f"/proc/{container.status.pid}/root" if container.running else ""
    lower = [f"{base}/{name}" for name in rootfs["lower"]]
    upper, work = f"{base}/{rootfs['upper']}", f"{base}/{rootfs['work']}"
    return Ground(driver, lower, upper, work, merged, *rest)


def _paths(container: Container) -> tuple[list[str] | None, list[str] | None]:
    host = container.host
    if host.privileged:
        return host.masked_paths, host.readonly_paths
    masked, readonly = system_paths(host, parse_security_options(host.security_opt or ()), ())
    return masked, readonly
