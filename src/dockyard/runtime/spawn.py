"""The parent's side of a start: everything that must happen in the host's namespaces.

Owns: opening bind sources and namespaces to join, the control group, the clone, the network's host side, the
conversation with the child until its program runs, and undoing all of it when a step fails.
Does not own: what the child does (`runtime.init`), what follows the start (`runtime.monitor`, `runtime.oci`).
Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

from dockyard.linux import abi, mounts, process
from dockyard.linux.nfnetlink import SharedElements
from dockyard.runtime import channel, hooks, namespaces, network, sysctls
from dockyard.runtime.cgroups import Cgroup, is_notation, open_cgroup
from dockyard.runtime.init import Job, Place, run_exec, run_init
from dockyard.runtime.places import open_part

_BUFFER = 8192
_SMALL_MEMORY = 64 << 20  # bytes
_PATIENCE = 30.0  # s that an exec may take: its monitor waits for it, and the whole container for its monitor


def _device(kind: str, major: int, minor: int, access: str = "rwm") -> dict[str, Any]:
    return {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}


_DEFAULT_DEVICES = (  # what every container may use, as with the other OCI runtimes: mknod of all, default nodes, ptys
    _device("c", -1, -1, "m"),
    _device("b", -1, -1, "m"),
    *(_device("c", 1, minor) for minor in (3, 5, 7, 8, 9)),
    *(_device("c", 5, minor) for minor in (0, 1, 2)),
    _device("c", 136, -1),
)


class SpawnFailed(Exception):
    """The container or the process could not be made; nothing of it is left. `code` as Docker's exit code."""

    def __init__(self, message: str, code: int = 128) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Spawned:
    """A child whose program runs, or (with a gate) is about to."""

    __slots__ = ("cgroup", "master", "on_listener", "pid", "pidfd", "place", "slave", "sync")

    def __init__(self, pid: int, pidfd: int, sync: socket.socket, cgroup: Cgroup | None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.sync = sync
        self.cgroup = cgroup
        self.place = ""  # the name of the cgroup before it became the container's
        self.master = -1  # terminal, or -1
        self.slave = -1
        self.on_listener: Callable[[int, int], None] | None = None


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
        _open_sources(config, job)
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
        raise SpawnFailed(describe(error)) from error
    finally:
        if job.held is not None:
            job.held.close()
        for fd in opened:
            os.close(fd)


def describe(error: OSError) -> str:
    """An OSError's text without "[Errno N]", with the file that it names."""
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename is not None else text


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


def _open_sources(config: dict[str, Any], job: Job) -> None:
    for index, entry in enumerate(config.get("mounts") or []):
        options = entry.get("options") or []
        recursive = "rbind" in options
        if not recursive and "bind" not in options and entry.get("type") != "bind":
            continue
        job.sources[index] = open_bind_source(entry, recursive)
        if (entry.get("dockyard") or {}).get("chown"):
            job.given.append(open_bind_source(entry, False))
        if job.users is not None and (entry.get("dockyard") or {}).get("remap"):
            for tree in (job.sources[index], *(job.given[-1:] if entry["dockyard"].get("chown") else ())):
                mounts.set_attributes(tree, abi.MOUNT_ATTR_IDMAP, userns=job.users.namespace)


def open_bind_source(entry: dict[str, Any], recursive: bool) -> int:
    """A detached copy of what the mount `entry` binds. SpawnFailed in Docker's words."""
    source, destination, own = entry["source"], entry["destination"], entry.get("dockyard") or {}
    try:
        if "namespace" in own:
            return _open_elsewhere(own["namespace"], source, recursive)
        return _open_source(source, own.get("subpath") or "", recursive)
    except OSError as error:
        reason = str(error.strerror if "subpath" in str(error) else os.strerror(error.errno or 0).lower())
        raise SpawnFailed(f'error mounting "{source}" to rootfs at "{destination}": {reason}') from error


def _open_elsewhere(namespace: str, source: str, recursive: bool) -> int:
    """A detached copy of what lies at `source` in another mount namespace: the kernel copies only out of one's own."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    home, root = os.open("/proc/self/ns/mnt", flags), os.open("/", flags | os.O_DIRECTORY)
    try:
        there = os.open(namespace, flags)
        try:
            process.setns(there, abi.CLONE_NEWNS)
        finally:
            os.close(there)
        try:
            return mounts.open_tree(abi.AT_FDCWD, source, recursive=recursive)
        finally:
            process.setns(home, abi.CLONE_NEWNS)
            os.fchdir(root)
    finally:
        os.close(home)
        os.close(root)


def _open_source(source: str, subpath: str, recursive: bool) -> int:
    """A detached copy of the tree at `source`, or of what lies at `subpath` inside it."""
    if not subpath:
        return mounts.open_tree(abi.AT_FDCWD, source, recursive=recursive)
    whole = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        part = open_part(whole, subpath, source)
    finally:
        os.close(whole)
    try:
        return mounts.open_tree(part, "", recursive=recursive)
    finally:
        os.close(part)


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
            _tell(ours, b"G")
        if plan is not None:
            try:
                network.attach_host(plan, job.held.pid if job.held is not None and job.new_network else pid, rules)
            except OSError:
                _raise_report(spawned)
                raise
            attached = True
        if on_created is not None:
            if hooks.has_early(job.config):
                _await_mounts(spawned)
            on_created(pid)
        _tell(ours, b"N")
        if on_going is not None:
            on_going(spawned)
        await_program(spawned)
    except BaseException:
        abandon(spawned)
        if attached and plan is not None:
            network.detach_host(plan, rules)
        raise
    return spawned


def _receive(sync: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """A message and what came with it. A child that ends before it reads what we sent has its end told first, as an
    error that passes, and then what it said."""
    for _ in range(2):
        try:
            return sync.recvmsg(_BUFFER, 64)[:2]
        except ConnectionResetError:
            continue
    return b"", []


def _await_mounts(spawned: Spawned) -> None:
    """Hooks may add mounts of their own to those of the container. Raises SpawnFailed with the child's report."""
    message, _ = _receive(spawned.sync)
    if message != b"M":
        code, _, text = message[1:].partition(b"\0")
        raise SpawnFailed(text.decode("utf-8", "replace") or "the container's first process ended", int(code or 128))


def _tell(sync: socket.socket, message: bytes) -> None:
    try:
        sync.send(message)
    except OSError:
        pass  # the child has failed already: its report is in the socket


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
    Children of the calling process must be born in the container's pid namespace already.
    """

    def job(sync: socket.socket) -> Job:
        made = _exec_job(spec, init_pidfd, cgroup, stdio, seccomp, preserved, sync)
        made.place = place
        return made

    return _clone_exec(job, cgroup, on_listener)


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

    return _clone_exec(job, None)


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
    on_listener: Callable[[int, int], None] | None = None,
) -> Spawned:
    """Fork; the child makes its job and runs it."""
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
    ours.settimeout(_PATIENCE)
    try:
        await_program(spawned)
    except TimeoutError:
        abandon(spawned)
        raise SpawnFailed(f"the process did not get to its program within {_PATIENCE:.0f} s") from None
    except BaseException:
        abandon(spawned)
        raise
    return spawned


def enter_pid_namespace(pidfd: int) -> None:
    """Let the caller's children be born in the pid namespace of the process `pidfd`."""
    process.setns(pidfd, abi.CLONE_NEWPID)


def await_program(spawned: Spawned) -> None:
    """Follow the child until its program runs or waits at the gate. Raises SpawnFailed with its report."""
    while True:
        message, ancillary = _receive(spawned.sync)
        if message == b"T":
            spawned.master, spawned.slave = struct.unpack("ii", ancillary[0][2])
            os.set_inheritable(spawned.master, False)
            os.set_inheritable(spawned.slave, False)
        elif message[:1] == b"L":
            _lend_listener(spawned, int(message[1:]))
        elif message == b"C":
            return
        elif not message:
            spawned.sync.close()
            return
        elif message[:1] == b"E":
            code, _, text = message[1:].partition(b"\0")
            raise SpawnFailed(text.decode("utf-8", "replace"), int(code))


def _raise_report(spawned: Spawned) -> None:
    """What the child has said if it is gone: that is why the others fail that do something to it."""
    poll = select.poll()
    poll.register(spawned.pidfd, select.POLLIN)
    if poll.poll(0):
        await_program(spawned)


def _lend_listener(spawned: Spawned, number: int) -> None:
    fd = process.pidfd_getfd(spawned.pidfd, number)
    try:
        if spawned.on_listener is not None:
            spawned.on_listener(spawned.pid, fd)
    finally:
        os.close(fd)
    _tell(spawned.sync, b"L")


def abandon(spawned: Spawned) -> None:
    """End a child that did not get to its program and let go of its descriptors."""
    spawned.sync.close()
    try:
        process.pidfd_send_signal(spawned.pidfd, 9)
    except ProcessLookupError:
        pass
    try:
        os.waitpid(spawned.pid, 0)
    except ChildProcessError:
        pass
    for fd in (spawned.pidfd, spawned.master, spawned.slave):
        if fd >= 0:
            os.close(fd)


def _forget(cgroup: Cgroup) -> None:
    try:
        cgroup.kill()
        cgroup.remove()
    except OSError:
        pass  # swept at the daemon's next start: it carries the container's ID
