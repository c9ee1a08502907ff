"""The parent's side of a start: everything that must happen in the host's namespaces.

Owns: the control group, the clone, the network's host side, the order of all that happens until the program runs, and
undoing it when a step fails. Does not own: what is opened for the child beforehand (`runtime.sources`,
`runtime.namespaces`), what is said with it (`runtime.following`), what it does (`runtime.init`), what follows the start
(`runtime.monitor`, `runtime.oci`). Standard library only.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from dockyard.linux import abi, process
from dockyard.linux.nfnetlink import SharedElements
from dockyard.runtime import following, hooks, namespaces, network, sources, sysctls
from dockyard.runtime.cgroups import Cgroup, is_notation, open_cgroup
from dockyard.runtime.following import Spawned, SpawnFailed
from dockyard.runtime.init import run_init
from dockyard.runtime.job import Job

_SMALL_MEMORY = 64 << 20  # bytes


def _device(kind: str, major: int, minor: int, access: str = "rwm") -> dict[str, Any]:
    return {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}


_DEFAULT_DEVICES = (  # what every container may use, as with the other OCI runtimes: mknod of all, default nodes, ptys
    _device("c", -1, -1, "m"),
    _device("b", -1, -1, "m"),
    *(_device("c", 1, minor) for minor in (3, 5, 7, 8, 9)),
    *(_device("c", 5, minor) for minor in (0, 1, 2)),
    _device("c", 136, -1),
)


def spawn_container(
    launch: dict[str, Any],
    stdio: tuple[int, int, int] | None,
    seccomp: bytes | None,
    gate: int = -1,
    *,
    told: int = -1,
    detached: bool = False,
    sibling: bool = False,
    preserved: int = 0,
    on_created: Callable[[int], None] | None = None,
    rules: SharedElements | None = None,
    place: Cgroup | None = None,
    on_going: Callable[[Spawned], None] | None = None,
    on_listener: Callable[[int, int], None] | None = None,
) -> Spawned:
    """Make the container of a `Launch`. Raises SpawnFailed.

    `detached`: it outlives the calling process. `sibling`: its first process becomes a child of the caller's parent.
    `told`: a FIFO that is told what fails behind the gate, and is closed when the program runs.
    `preserved`: so many inherited descriptors from 3 on stay open.
    `on_created(pid)` is called when the namespaces exist and the root has not been changed yet (OCI hooks); what it
    raises ends the container. `rules`: the zygote's socket for published ports. `place`: a cgroup that the caller is in
    already and that becomes the container's if it fits: joining one waits for an RCU grace period of 5 to 10 ms.
    `on_going(spawned)` is called while the child is on its way to its program: time for what has to be done anyway.
    `on_listener(pid, fd)` is lent the descriptor of a filter that notifies.

    Afterwards further children of the calling process are born in the container's pid namespace.
    """
    config = launch["config"]
    if reason := sysctls.refusal(config["linux"].get("sysctl") or {}, config["linux"].get("namespaces") or []):
        raise SpawnFailed(reason)
    job = _container_job(launch, stdio, seccomp, gate)
    job.detached = detached
    job.preserved = preserved
    job.told = told
    job.on_listener = on_listener
    opened: list[int] = []
    try:
        flags = namespaces.prepare(config, job, opened) | (abi.CLONE_PARENT if sibling else 0)
        sources.open_sources(config, job)
        opened.extend((*job.sources.values(), *job.given))
        if place is not None and _fits(place, config):
            return _spawn_in_place(job, flags, config, place, on_created, on_going, rules)
        cgroup = _make_cgroup(config, job.limited)
        try:
            group = cgroup or (open_cgroup("/") if job.limited else None)
            job.hierarchies = group.hierarchies() if group else []
            return _clone_container(job, flags, cgroup, on_created, on_going, rules)
        except BaseException:
            if cgroup:
                _forget(cgroup)
            raise
    except OSError as error:
        raise SpawnFailed(following.describe(error)) from error
    finally:
        if job.held is not None:
            job.held.close()
        for fd in opened:
            os.close(fd)


def _container_job(launch: dict[str, Any], stdio: tuple[int, int, int] | None, seccomp: bytes | None, gate: int) -> Job:
    config = launch["config"]
    job = Job()
    job.config = config
    job.process = config["process"]
    job.rootfs = dict(launch["rootfs"])
    job.target = launch["state_dir"]
    job.network = launch["network"]
    job.seccomp = seccomp
    job.stdio = stdio
    job.terminal = bool(config["process"].get("terminal"))
    size = config["process"].get("consoleSize")
    job.console_size = [size["height"], size["width"]] if size else None
    job.init = bool((config.get("dockyard") or {}).get("init"))
    job.gate = gate
    job.state = {
        "ociVersion": config.get("ociVersion", ""),
        "id": launch["id"],
        "bundle": launch.get("bundle") or launch["state_dir"],
        "annotations": config.get("annotations") or {},
    }
    options = launch.get("options") or {}
    job.pivot, job.new_keyring = options.get("pivot", True), options.get("new_keyring", True)
    job.limited = options.get("limited", False)
    return job


def _make_cgroup(config: dict[str, Any], limited: bool) -> Cgroup | None:
    path = config["linux"].get("cgroupsPath")
    if not path:
        return None
    cgroup = open_cgroup(path)
    try:
        cgroup.create()
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.EBUSY):  # else it is somebody else's
            _forget(cgroup)
        raise
    try:
        if not is_notation(path):  # a scope begins with a process in it (`Cgroup.adopt`)
            _limit(cgroup, config, limited)
    except BaseException:
        _forget(cgroup)
        raise
    return cgroup


def _limit(cgroup: Cgroup, config: dict[str, Any], limited: bool = False) -> None:
    """`limited`: nothing but the user's own rights is between it and devices: rules need root of the host."""
    if limited:
        cgroup.update(config["linux"].get("resources") or {})
    else:
        cgroup.limit(_resources(config))


def _resources(config: dict[str, Any]) -> dict[str, Any]:
    resources = dict(config["linux"].get("resources") or {})
    resources["devices"] = [*(resources.get("devices") or []), *_DEFAULT_DEVICES]
    return resources


def _fits(place: Cgroup, config: dict[str, Any]) -> bool:
    """Whether `place` can become the cgroup that `config` asks for. With little memory it cannot: what the caller, in
    it too until it ends, has used would count."""
    path = (config["linux"].get("cgroupsPath") or "").strip("/")
    memory = ((config["linux"].get("resources") or {}).get("memory") or {}).get("limit") or 0
    return os.path.dirname(path) == os.path.dirname(place.path) and not 0 < memory < _SMALL_MEMORY


def _spawn_in_place(
    job: Job,
    flags: int,
    config: dict[str, Any],
    place: Cgroup,
    on_created: Callable[[int], None] | None,
    on_going: Callable[[Spawned], None] | None,
    rules: SharedElements | None,
) -> Spawned:
    """The caller's own cgroup gets the container's name, the child is born in it, then come the limits."""
    name = place.path
    place.rename(config["linux"]["cgroupsPath"])
    try:
        job.hierarchies = place.hierarchies()

        def limit_then(pid: int) -> None:  # not before the clone: the caller, in the group too, counts until it ends
            _limit(place, config)
            if on_created is not None:
                on_created(pid)

        return _clone_container(job, flags, place, limit_then, on_going, rules, place=name)
    except BaseException:
        place.rename(name)
        raise


def _clone_container(
    job: Job,
    flags: int,
    cgroup: Cgroup | None,
    on_created: Callable[[int], None] | None,
    on_going: Callable[[Spawned], None] | None,
    rules: SharedElements | None,
    *,
    place: str = "",
) -> Spawned:
    """`place`: the child is in `cgroup` because the caller is, and this was the group's name."""
    plan = job.network
    into = -1 if cgroup is None or place else cgroup.descriptor()
    job.cgroup = cgroup if into < 0 and not place else None
    ours, job.sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid, pidfd = process.clone(flags, into)
    except OSError:
        ours.close()
        job.sync.close()
        raise
    finally:
        if into >= 0:
            os.close(into)
    if pid == 0:
        ours.close()
        run_init(job)
    job.sync.close()
    spawned = Spawned(pid, pidfd, ours, cgroup)
    spawned.place = place
    spawned.on_listener = job.on_listener
    attached = False
    try:
        if job.cgroup is not None and job.cgroup.adopt(pid, _resources(job.config)):
            following.tell(ours, b"G")
        if plan is not None:
            network.attach_host(plan, job.held.pid if job.held is not None and job.new_network else pid, rules)
            attached = True
        if on_created is not None:
            if hooks.has_early(job.config):
                following.await_mounts(spawned)
            on_created(pid)
        following.tell(ours, b"N")
        if on_going is not None:
            on_going(spawned)
        following.await_program(spawned)
    except BaseException as error:
        report = following.report(spawned) if isinstance(error, OSError) else None
        following.abandon(spawned)
        if attached and plan is not None:
            network.detach_host(plan, rules)
        if report is not None:
            raise report from error
        raise
    return spawned


def _forget(cgroup: Cgroup) -> None:
    try:
        cgroup.kill()
        cgroup.remove()
    except OSError:
        pass  # swept at the daemon's next start: it carries the container's ID
