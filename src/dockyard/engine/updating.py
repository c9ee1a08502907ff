"""Change a container's settings in place.

Owns: the order of an update (limits, restart policy; of ours: its unhealthy part, the maximum run time, labels,
environment), and that it is on disk before it counts. Does not own: the rules of limits (`resources`), what the
settings do.

Limits of a running container are changed first, and put back if the kernel refuses one of them or the disk the new
settings. Labels and policies count at once, the environment for every exec from now on and for the program from its
next start.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from dockyard.engine import extensions, resources, validation
from dockyard.engine.container import Container
from dockyard.engine.context import Context
from dockyard.model.container import ContainerConfig, HostConfig, RestartPolicy
from dockyard.model.errors import Conflict, InvalidArgument, NotFound
from dockyard.model.lifecycle import State
from dockyard.runtime.bundle import cgroup_path
from dockyard.runtime.bundle.resources import oci_resources
from dockyard.runtime.cgroups import open_cgroup


class Update(Struct):
    """What is to be changed; None: stays."""

    restart_policy: RestartPolicy | None = None  # without its name: only `on_unhealthy` counts
    on_unhealthy: bool | None = None
    maximum_runtime: int | None = None  # ns; 0: none any more
    labels: dict[str, str | None] | None = None  # None takes a label away
    env: list[str] | None = None  # "NAME=value" sets, "NAME" takes away
    resources: dict[str, Any] = field(default_factory=dict)  # of `resources.UPDATABLE`


async def update(context: Context, container: Container, ref: str, change: Update) -> list[str]:
    """Make the changes, all or none of them; returns warnings. InvalidArgument, Conflict in Docker's words."""
    async with container.lock:
        if container.removed:
            raise NotFound(f"No such container: {ref}")
        if container.state in (State.REMOVING, State.DEAD):
            raise Conflict('cannot update container: Container is marked for removal and cannot be "update".')
        spec = container.spec
        config, host = _config(spec.config, change), _host(spec.host, change)
        _check(config, host, change)
        facts = context.cgroups
        host, warnings = resources.updated(host, change.resources, cpus=os.cpu_count() or 1, facts=facts)
        changed = replace(spec, config=config, host=host)
        limited = bool(change.resources) and container.handle is not None
        try:
            if limited:
                await _limit(container, host)
            await context.store.save_spec(container.id, changed)
        except BaseException:
            if limited:
                await _limit(container, spec.host)
            raise
        container.spec = changed
    for tell in context.changed:
        tell(container)
    context.publish(container, "update")
    return warnings


async def _limit(container: Container, host: HostConfig) -> None:
    """Write the limits into the control group of a running container. InvalidArgument if the kernel refuses one."""
    path = (container.handle.cgroup if container.handle else "") or cgroup_path(container.id, host)
    try:
        await asyncio.to_thread(lambda: open_cgroup(path).update(oci_resources(host)))
    except OSError as error:
        raise InvalidArgument(f"Cannot update container {container.id}: {error.strerror or error}") from error


def _config(config: ContainerConfig, change: Update) -> ContainerConfig:
    if change.labels is not None:
        config = replace(config, labels=merge_labels(config.labels, change.labels))
    if change.env is not None:
        config = replace(config, env=merge_env(config.env, change.env))
    return config


def _host(host: HostConfig, change: Update) -> HostConfig:
    policy = host.restart_policy
    if change.restart_policy is not None and change.restart_policy.name:
        policy = replace(change.restart_policy, on_unhealthy=policy.on_unhealthy)
    if change.on_unhealthy is not None:
        policy = replace(policy, on_unhealthy=change.on_unhealthy)
    host = replace(host, restart_policy=policy)
    if change.maximum_runtime is not None:
        host = replace(host, maximum_runtime=change.maximum_runtime)
    return extensions.apply(change.labels, host)


def _check(config: ContainerConfig, host: HostConfig, change: Update) -> None:
    policy = host.restart_policy
    if host.auto_remove and (policy.name not in ("", "no") or policy.on_unhealthy):
        raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
    if (change.labels or {}).get(extensions.LEASE) is not None:
        raise InvalidArgument(f"label {extensions.LEASE} can be taken away but not changed")
    validation.check_update(config, host)


def merge_labels(labels: Mapping[str, str] | None, change: Mapping[str, str | None]) -> dict[str, str]:
    """Labels with some set and some (None) taken away."""
    merged = {**(labels or {}), **change}
    return {name: value for name, value in merged.items() if value is not None}


def merge_env(env: Sequence[str] | None, change: Sequence[str]) -> list[str]:
    """An environment with some variables set ("NAME=value", in their old places) and some ("NAME") taken away."""
    wanted = {entry.partition("=")[0]: entry for entry in change}
    merged = {entry.partition("=")[0]: entry for entry in env or ()} | wanted
    return [entry for entry in merged.values() if "=" in entry]
