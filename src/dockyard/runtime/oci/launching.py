"""create, start, exec, kill and delete of the OCI command.

Owns: the life of a container that has no monitor: its first process is a child of this command and, when this ends, of
whoever reaps orphans (conmon, a containerd shim). A FIFO holds it between create and start.
Does not own: namespaces, mounts and exec (`runtime.spawn`, `runtime.init`), the command line (`runtime.oci.commands`).
"""

from __future__ import annotations

import array
import binascii
import json
import os
import socket
import sys
import time
from typing import Any, NamedTuple

from dockyard.linux import abi, process, seccomp
from dockyard.runtime import entering, following, hooks, spawn
from dockyard.runtime.cgroups import is_notation
from dockyard.runtime.job import Place
from dockyard.runtime.launch import DirectoryRootfs, Launch
from dockyard.runtime.oci import hostmounts, netdevices, notifying, readiness, resctrl, subgroups
from dockyard.runtime.oci.configuration import load_bundle
from dockyard.runtime.oci.containers import CREATED, RUNNING, STOPPED, Container, is_fifo, write_whole
from dockyard.runtime.oci.errors import OciError
from dockyard.runtime.oci.readiness import Readiness

_STDIO = (0, 1, 2)
_ENTERED = (("pid", abi.CLONE_NEWPID), ("time", abi.CLONE_NEWTIME))  # of the command's children, while it makes one


class Wanted(NamedTuple):
    """Options that create, run and exec share."""

    pid_file: str = ""
    console_socket: str = ""
    preserved: int = 0  # descriptors from 3 on that the process keeps
    no_pivot: bool = False
    no_new_keyring: bool = False
    foreground: bool = False  # somebody follows the process here; a terminal then needs no console socket
    systemd: bool = False  # makes the control group
    limited: bool = False  # this process is root of a user namespace only (`rootless`)
    entered: bool = False  # which is the container's already
    groups: tuple[str, ...] = ()  # of exec: parts of the container's control group to be in
    listening: tuple[str, ...] = ()  # variables that tell it which of those are sockets to listen at


def create(
    root: str, identity: str, bundle: str, wanted: Wanted, file: str = "config.json"
) -> tuple[Container, following.Spawned]:
    """Make a container that waits for `start`. Raises OciError; then nothing of it is left. `file`: its configuration,
    relative to the bundle."""
    bundle = os.path.abspath(bundle)
    config = load_bundle(bundle, file)
    _check_terminal(config["process"], wanted)
    container = Container(root, identity)
    container.make_directory()
    try:
        return container, _create(container, config, bundle, wanted)
    except BaseException:
        _forget(container)
        raise


def _create(container: Container, config: dict[str, Any], bundle: str, wanted: Wanted) -> following.Spawned:
    linux = config["linux"]
    if wanted.limited:
        from dockyard.runtime.oci import rootless

        rootless.settle(config, container.id, entered=wanted.entered)
        config["process"]["keepGroups"] = rootless.keeps_groups()
    else:
        linux["cgroupsPath"] = _cgroups_path(linux.get("cgroupsPath") or "", container, wanted.systemd)
        config["process"]["keepGroups"] = False
    config["process"]["memoryPolicy"] = linux.get("memoryPolicy")
    program = _compile(container, config)
    write_whole(container.file("config.json"), json.dumps(config).encode())
    told_of = (*wanted.listening, *readiness.make_place(container, config))
    if told_of:  # of this process alone: no exec inherits it
        config["process"]["env"] = [*(config["process"].get("env") or []), *told_of]
    os.mkfifo(container.file("exec.fifo"), 0o600)
    gate = os.open(container.file("exec.fifo"), os.O_RDWR | os.O_CLOEXEC)
    os.mkfifo(container.file("error.fifo"), 0o600)
    told = os.open(container.file("error.fifo"), os.O_RDWR | os.O_CLOEXEC)
    path = config["root"]["path"]
    if path == "/":
        os.mkdir(container.file("root"), 0o700)
    # The root is mounted over itself: hooks look for it there, and mount into it.
    target = path if path != "/" else container.file("root")
    rootfs: DirectoryRootfs = {"type": "directory", "path": path, "owned": True}
    if hostmounts.needed(linux):
        rootfs["tree"] = hostmounts.detach(container, path, target)
    launch: Launch = {
        "id": container.id,
        "config": config,
        "rootfs": rootfs,
        "stdio": {"tty": False, "open_stdin": True, "stdin_once": False, "console_size": None},
        "log": None,
        "network": None,
        "state_dir": target,
        "bundle": bundle,
        "options": {
            "pivot": not wanted.no_pivot,
            "new_keyring": not wanted.no_new_keyring,
            "limited": wanted.limited,
        },
    }
    ours = [(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), flag) for name, flag in _ENTERED]

    rdt = resctrl.make(resctrl.mount_point(), container.id, linux["intelRdt"]) if linux.get("intelRdt") else None

    def on_created(pid: int) -> None:
        for fd, flag in ours:
            _return(fd, flag, wanted.limited and not hooks.has_early(config))
        _save(container, config, bundle, pid, rdt)
        if linux.get("netDevices"):
            netdevices.move(linux["netDevices"], pid)
        state = {**container.document(), "status": "creating"}
        for name in hooks.EARLY:
            hooks.run(config, name, state, bundle)

    terminal = bool(config["process"].get("terminal"))
    try:
        spawned = spawn.spawn_container(
            dict(launch),
            None if terminal else _STDIO,
            program,
            gate,
            told=told,
            detached=True,
            preserved=wanted.preserved,
            on_created=on_created,
            on_listener=lambda pid, fd: notifying.send(config, {**container.document(), "status": "creating"}, pid, fd),
        )
    except BaseException as failed:
        if rdt:
            resctrl.remove(rdt)
        if isinstance(failed, following.SpawnFailed | hooks.HookFailed):
            raise OciError(str(failed)) from None
        raise
    finally:
        os.close(gate)
        os.close(told)
        if "tree" in rootfs:
            os.close(rootfs["tree"])
        for fd, _ in ours:
            os.close(fd)
    try:
        _hand_over(spawned, wanted)
    except BaseException:
        destroy(container)
        raise
    return spawned


def _return(fd: int, flag: int, hookless: bool) -> None:
    """Let further children be born in our own namespace again: hooks are no processes of the container. Who may not
    (`hookless`: and need not) has none after this."""
    try:
        process.setns(fd, flag)
    except PermissionError:
        if not hookless:
            raise hooks.HookFailed(
                "hooks: not without root, where a pid namespace is joined or a time namespace is made"
            ) from None


def _cgroups_path(path: str, container: Container, by_systemd: bool) -> str:
    """linux.cgroupsPath, or what stands for none. There may be containers with this ID in other --root directories."""
    root = os.path.dirname(container.directory)
    own = f"{container.id}-{binascii.crc32(os.path.abspath(root).encode()):08x}"
    if not by_systemd:
        if is_notation(path):
            raise OciError(f"linux.cgroupsPath: {path!r} is systemd's notation, which needs --systemd-cgroup")
        return path or f"/dockyard-runtime-{own}"
    if path and not is_notation(path):
        raise OciError(
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{path}" instead'
        )
    return path or f"system.slice:dockyard-runtime:{own}"


def _compile(container: Container, config: dict[str, Any]) -> bytes | None:
    """Compile linux.seccomp and keep the program for execs."""
    profile = config["linux"].get("seccomp")
    if not profile:
        return None
    try:
        config["process"]["seccompListener"] = notifying.check(profile)
        program = seccomp.compile(profile, listening=True)
        config["process"]["seccompFlags"] = seccomp.flags_of(profile)
    except seccomp.SeccompError as error:
        raise OciError(str(error)) from None
    write_whole(container.file("seccomp.bpf"), program)
    return program


def _save(container: Container, config: dict[str, Any], bundle: str, pid: int, rdt: dict[str, Any] | None) -> None:
    container.save(
        {
            "ociVersion": config["ociVersion"],
            "id": container.id,
            "pid": pid,
            "start_time": process.start_time(pid),
            "bundle": bundle,
            "rootfs": config["root"]["path"],
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "cgroup": config["linux"]["cgroupsPath"],
            "annotations": config.get("annotations") or {},
            "resctrl": rdt,
        }
    )


def start(container: Container, follower: int = 0) -> Readiness | None:
    """Let a created container execute its program, and wait until that is ready where somebody wants to be told of it.
    Raises OciError. `follower`: the process that stays with it, if there is one; then that has to hand on what the
    container says of itself.
    """
    status = container.status()
    if status == STOPPED:
        raise OciError(f"cannot start a container that has stopped: {container.id}")
    if status != CREATED:
        raise OciError(f"cannot start an already running container: {container.id}")
    fifo = container.file("exec.fifo")
    if not is_fifo(fifo):
        raise OciError(f"{fifo} is not a FIFO")
    try:
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise OciError(f"cannot start a container that has stopped: {container.id}") from None
    pid = container.state["pid"]
    ready = readiness.listen(container, follower or pid)
    pidfd = container.open_process() if ready and not follower else -1
    errors = os.open(container.file("error.fifo"), os.O_RDONLY | os.O_CLOEXEC)
    os.unlink(fifo)
    os.write(fd, b"s")
    os.close(fd)
    with open(errors, "rb") as file:  # ends when the program runs
        failure = file.read().decode(errors="replace")
    if failure:
        raise OciError(failure)
    # A short program may be over by now: what has been started was running, with that pid.
    state = {**container.document(), "status": RUNNING, "pid": pid}
    try:
        hooks.run(container.config, "poststart", state, container.state["bundle"])
    except hooks.HookFailed as failed:
        raise OciError(str(failed)) from None
    if ready is None or follower:
        return ready
    ready.wait(pidfd)
    os.close(pidfd)
    return None


def execute(container: Container, spec: dict[str, Any], wanted: Wanted) -> following.Spawned:
    """Run a further process in a running container. Raises OciError."""
    if container.status() == STOPPED:
        raise OciError(f"cannot exec in a stopped container: {container.id}")
    _check_terminal(spec, wanted)
    config = container.config
    for name in ("seccompFlags", "seccompListener", "keepGroups", "memoryPolicy"):
        spec[name] = config["process"].get(name)
    pidfd = container.open_process()
    try:
        place = _place(container, config, wanted)
        if container.state.get("resctrl"):
            resctrl.join(container.state["resctrl"])
        stdio = None if spec.get("terminal") else _STDIO
        program = container.seccomp()
        spawned = entering.spawn_exec(
            spec, pidfd, container.cgroup(), stdio, program, wanted.preserved, place,
            on_listener=lambda pid, fd: notifying.send(config, container.document(), pid, fd),
        )  # fmt: skip
    except following.SpawnFailed as failed:
        raise OciError(failed.message, failed.code if failed.code in (126, 127) else 255) from None
    except OSError as error:
        raise OciError(f"cannot exec in container {container.id}: {following.describe(error)}") from None
    finally:
        os.close(pidfd)
    try:
        _hand_over(spawned, wanted)
    except BaseException:
        following.abandon(spawned)
        raise
    return spawned


def _place(container: Container, config: dict[str, Any], wanted: Wanted) -> Place:
    pid = container.state["pid"]
    kinds = {entry["type"] for entry in config["linux"].get("namespaces") or []}
    place = Place(abi.CLONE_NEWTIME if "time" in kinds else 0, _shared_namespaces(pid) if wanted.limited else 0)
    cgroup = container.cgroup()
    if cgroup is not None:
        place.groups, place.beside = subgroups.find(cgroup, pid, wanted.groups)
    elif wanted.groups:
        container.needed_cgroup()
    if hostmounts.needed(config["linux"]):
        place.root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return place


def _shared_namespaces(pid: int) -> int:
    """Those of a process that are ours, which may belong to the host: then they cannot even be joined."""
    shared = 0
    for kind, flag in process.NAMESPACE_FLAGS.items():
        name = {"network": "net", "mount": "mnt"}.get(kind, kind)
        if os.stat(f"/proc/{pid}/ns/{name}").st_ino == os.stat(f"/proc/self/ns/{name}").st_ino:
            shared |= flag
    return shared


def kill(container: Container, number: int, everyone: bool) -> None:
    """Signal the first process, or every process in the control group. Raises OciError if it does not run."""
    cgroup = container.cgroup()
    if everyone and cgroup is not None:
        for pid in cgroup.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return
    if container.status() == STOPPED:
        raise OciError(f"container not running: {container.id}")
    pidfd = container.open_process()
    try:
        process.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        raise OciError(f"container not running: {container.id}") from None
    finally:
        os.close(pidfd)


def delete(container: Container, force: bool) -> None:
    """Take a stopped (or created) container away; `force`: any. Raises OciError."""
    status = container.status()
    if status not in (STOPPED, CREATED) and not force:
        raise OciError(f"cannot delete container {container.id} that is not stopped: {status}")
    destroy(container)


def destroy(container: Container) -> None:
    """End every process of the container, remove what is its own, run poststop hooks. Raises what those fail with."""
    config = container.config if os.path.exists(container.file("config.json")) else {}
    state = {**container.document(), "status": STOPPED, "pid": 0}
    _end(container)
    if container.state.get("resctrl"):
        resctrl.remove(container.state["resctrl"])
    _forget(container)
    for index in range(len((config.get("hooks") or {}).get("poststop") or ())):  # one that fails stops no other
        one = {"hooks": {"poststop": [config["hooks"]["poststop"][index]]}}
        try:
            hooks.run(one, "poststop", state, state["bundle"] or "/")
        except (hooks.HookFailed, OSError) as failed:
            print(f"dockyard-runtime: warning: {failed}", file=sys.stderr)


def _forget(container: Container) -> None:
    hostmounts.take_away(container)
    readiness.forget(container)
    container.forget()


def _end(container: Container) -> None:
    if container.status() != STOPPED:
        kill(container, 9, everyone=False)
    cgroup = container.cgroup()
    if cgroup is None:
        return
    cgroup.kill()
    for attempt in range(200):
        try:
            cgroup.remove()
            break
        except OSError:
            if attempt == 199:
                raise OciError(f"cannot remove the control group {cgroup.path}: processes live in it") from None
            time.sleep(0.01)
    for _ in range(500):
        if container.status() == STOPPED:
            return
        time.sleep(0.01)


def _check_terminal(spec: dict[str, Any], wanted: Wanted) -> None:
    if spec.get("terminal") and not wanted.console_socket and not wanted.foreground:
        raise OciError("process.terminal: nobody follows a detached container's terminal here: use --console-socket")
    if wanted.console_socket and not spec.get("terminal"):
        raise OciError("--console-socket: process.terminal is not set")


def _hand_over(spawned: following.Spawned, wanted: Wanted) -> None:
    """The terminal's master to the console socket; the pid into the pid file."""
    if wanted.console_socket and spawned.master >= 0:
        _send_terminal(wanted.console_socket, spawned.master)
        os.close(spawned.master)
        os.close(spawned.slave)
        spawned.master = spawned.slave = -1
    if wanted.pid_file:
        write_whole(os.path.abspath(wanted.pid_file), str(spawned.pid).encode(), 0o644)


def _send_terminal(path: str, master: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))]
            sock.sendmsg([b"/dev/ptmx"], rights)
        except OSError as error:
            raise OciError(f"--console-socket: {path}: {error.strerror}") from None
