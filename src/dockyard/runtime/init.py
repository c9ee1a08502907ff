"""The container's side of a start: from the clone to the user's program.

Owns: the order of steps of a container's first process (`run_init`) and of a process that joins a running container
(`run_exec`). Does not own: the steps themselves (`runtime.rootfs`, `program`, `network`), nor the parent's
side (`runtime.spawn`).

Both run in a forked child, never return, and speak with the parent over the socket `sync`: `T` with two descriptors
(terminal master and slave), `L` number (the descriptor of a filter that notifies; answered by `L`), `C` (created,
waiting at the gate), `E` code NUL text (failed), of an exec `P` number with a pidfd (it is this process from now on;
answered by `G`); the parent sends `N` when the network stands. A silent end of it
means that execve has happened. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from dockyard.linux import abi, calls, process, pty, scheduling
from dockyard.linux.title import set_title
from dockyard.runtime import devices, hooks, network, owners, program, rootfs, sysctls, users
from dockyard.runtime.cgroups import Cgroup, is_notation
from dockyard.runtime.job import Job, Place


def run_init(job: Job) -> NoReturn:
    """The first process of a container, fresh from clone."""
    _run(lambda _sync: job, job.sync, _init)


def run_exec(make_job: Callable[[socket.socket], Job], sync: socket.socket) -> NoReturn:
    """A further process for a running container; it makes its job itself."""
    _run(make_job, sync, _exec)


def _run(make_job: Callable[[socket.socket], Job], sync: socket.socket, steps: Callable[[Job], None]) -> NoReturn:
    step, told = "preparing", -1
    try:
        job = make_job(sync)
        told = job.told
        try:
            steps(job)
        finally:
            step = job.step
    except program.ProgramFailed as failed:
        _report(sync, told, failed.code, failed.message)
    except hooks.HookFailed as failed:
        _report(sync, told, program.FAILED, str(failed))
    except OSError as error:
        where = f"{step}: " + (f"{error.filename}: " if error.filename is not None else "")
        _report(sync, told, program.FAILED, where + (error.strerror or str(error)))
    except BaseException as error:  # nothing may travel up into the parent's code
        _report(sync, told, program.FAILED, f"{type(error).__name__}: {error}")
    os._exit(1)


def _report(sync: socket.socket, told: int, code: int, text: str) -> None:
    try:
        if told >= 0:
            os.write(told, text.encode("utf-8", "replace")[:4000])
        sync.send(b"E%d\0" % code + text.encode("utf-8", "replace")[:4000])
    except OSError:
        pass


def _init(job: Job) -> None:
    config, spec = job.config, job.process
    calls.prctl(abi.PR_SET_DUMPABLE, 0)
    if not job.detached:
        calls.prctl(abi.PR_SET_PDEATHSIG, signal.SIGKILL)
    program.seal()
    os.umask(0)
    os.setsid()
    job.step = "joining the control group"
    _set_oom_score(spec)
    if job.cgroup is not None:
        if is_notation(job.cgroup.path):
            _expect(job.sync, b"G")  # systemd puts us into it
        else:
            job.cgroup.join()
    job.step = "joining namespaces"
    for fd, flag in job.joins:
        process.setns(fd, flag)
    if job.mounts >= 0:
        rootfs.bring_along(job.rootfs)
        process.setns(job.mounts, abi.CLONE_NEWNS)
    if job.unshare_cgroup:
        process.unshare(abi.CLONE_NEWCGROUP)
    job.step = "mounting the root file system"
    linux = config.get("linux") or {}
    if job.users is not None:
        job.users.act()
    label = linux.get("mountLabel") or ""
    root = rootfs.mount_root(
        job.rootfs, job.target, linux.get("rootfsPropagation") or "", label, job.users, among_hosts=job.among_hosts
    )
    own_group = job.cgroup.path if job.cgroup is not None and not job.unshare_cgroup else ""
    rootfs.mount_all(root, config, job.sources, job.hierarchies, own_group, job.users, job.limited)
    own_dev = _has_own_dev(config.get("mounts") or [], root)
    if hooks.has_early(config):
        job.sync.send(b"M")
    job.step = "configuring the network"
    _expect(job.sync, b"N")  # from here on the device rules hold, too
    if job.new_network:  # a network namespace always gets its loopback device up
        network.configure_inside(job.network)
    job.step = "making devices"
    if own_dev:
        devices.make(root, linux.get("devices") or [], job.users, bound=job.limited)
    job.step = "running hooks"
    os.fchdir(root)  # where those of other runtimes are run, too
    _run_hooks(job, "createContainer", "creating")
    job.step = "changing the root"
    (rootfs.enter if job.among_hosts else rootfs.pivot if job.pivot else rootfs.move)(root)
    os.close(root)
    if config.get("hostname"):
        calls.sethostname(config["hostname"].encode())
    if config.get("domainname"):
        calls.setdomainname(config["domainname"].encode())
    job.step = "opening the terminal"
    slave = _open_terminal(job) if job.terminal else -1
    if slave >= 0 and own_dev:
        rootfs.bind_console(slave)
    if linux.get("personality"):
        scheduling.set_personality(linux["personality"]["domain"])
    sysctls.write(linux.get("sysctl") or {}, job.users)
    uid, gid, groups, home = program.resolve_user(spec)
    job.step = "giving files to the user"
    for tree in job.given:
        owners.give(tree, *((uid, gid) if job.users is None else (job.users.uid(uid), job.users.gid(gid))))
        os.close(tree)
    job.step = "entering the working directory"
    program.enter_directory(spec.get("cwd") or "/", uid, gid, create=True)
    job.step = "hiding paths"
    rootfs.make_read_only(linux.get("readonlyPaths") or [])
    rootfs.mask(linux.get("maskedPaths") or [], label)
    rootfs.dev_read_only(config.get("mounts") or [])
    if (config.get("root") or {}).get("readonly"):
        rootfs.root_read_only()
    rootfs.spread(linux.get("rootfsPropagation") or "")
    _become(job, slave, uid, gid, groups, home)


def _has_own_dev(entries: list[dict[str, Any]], root: int) -> bool:
    """Whether nodes may be made in /dev: a tmpfs, or the directory in the root if nothing is mounted there."""
    kinds = [entry.get("type") for entry in entries if entry["destination"].rstrip("/") == "/dev"]
    return "tmpfs" in kinds if kinds else not os.fstatvfs(root).f_flag & os.ST_RDONLY


def _exec(job: Job) -> None:
    """Two processes, one after the other. The first stands outside of the container's pid namespace and joins all else;
    the second is born in it, and with nothing of the host: what can be seen in there can be looked into by who has
    CAP_SYS_PTRACE (its root directory, its descriptors). It is the parent's child, too."""
    spec, place = job.process, job.place or Place()
    calls.prctl(abi.PR_SET_DUMPABLE, 0)
    program.seal()
    _set_oom_score(spec)
    affinity = spec.get("execCPUAffinity") or {}
    if affinity.get("initial"):
        scheduling.set_affinity(affinity["initial"])
    job.step = "joining the control group"
    doors = _open_doors(job.cgroup, job.part, place)
    job.step = "joining namespaces"
    job.users = users.Users.of_process(job.pidfd)
    numbers = (job.sync.fileno(), job.pidfd, job.gate, job.told, place.root, *(job.stdio or ()), *doors.all())
    process.close_others(*numbers, *range(3 + job.preserved))
    process.setns(job.pidfd, (_EXEC_NAMESPACES | abi.CLONE_NEWPID | place.namespaces) & ~place.shared)
    if place.root >= 0:
        rootfs.enter(place.root)
    _be_born(job, doors)
    os.setsid()
    if affinity.get("final"):
        scheduling.set_affinity(affinity["final"])
    job.step = "joining namespaces"
    if job.part and job.unshare_cgroup:
        process.unshare(abi.CLONE_NEWCGROUP)  # it sees its part as the root, where the container's limits are mounted
    slave = _open_terminal(job) if job.terminal else -1
    uid, gid, groups, home = program.resolve_user(spec)
    program.enter_directory(spec.get("cwd") or "/", uid, gid, create=False)
    _become(job, slave, uid, gid, groups, home)


def _be_born(job: Job, doors: _Doors) -> None:
    """Returns in the second process only, when it is in its control groups and the parent knows it."""
    try:
        pid, pidfd = process.clone(abi.CLONE_PARENT)
    except OSError as error:
        raise program.ProgramFailed(f"the container is ending: {os.strerror(error.errno or 0)}") from None
    job.step = "joining the control group"
    if pid == 0:
        _expect(job.sync, b"G")
        for door in doors.own:
            os.write(door, b"0")
        doors.close()
        return
    try:
        for door in doors.others:
            _send_through(door, doors.beside, pid)
        job.sync.sendmsg([b"P%d" % pid], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", pidfd))])
    except BaseException:
        process.pidfd_send_signal(pidfd, signal.SIGKILL)
        raise
    os._exit(0)


class _Doors:
    """The files to write a process's number into, so that it is in the container's control groups.

    `own`: v1's `tasks`, where a process of one thread writes itself. Through `cgroup.procs` a whole process is moved,
    also if it is the writer: under a lock that every fork and exit of the host respects, which takes milliseconds to
    get (RCU). `others`: `cgroup.procs`, for another process to write. `beside`: of the group beside them, or -1.
    """

    def __init__(self, directories: Sequence[str], beside: str) -> None:
        self.own: list[int] = []
        self.others: list[int] = []
        for directory in directories:
            try:
                self.own.append(os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                self.others.append(os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        self.beside = os.open(f"{beside}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) if beside else -1

    def all(self) -> list[int]:
        return [*self.own, *self.others, self.beside]

    def close(self) -> None:
        for fd in self.all():
            if fd >= 0:
                os.close(fd)


def _open_doors(cgroup: Cgroup | None, part: str, place: Place) -> _Doors:
    """Those of the container's groups (and their part of that name, made now), or of those that `place` names."""
    directories = place.groups
    if cgroup is not None and not directories:
        own = cgroup.part(part) if part else ""
        if own:
            os.mkdir(own, 0o755)
        unique = dict.fromkeys(cgroup.directories().values())
        directories = [own if own.startswith(f"{directory}/") else directory for directory in unique]
    return _Doors(directories, place.beside)


def _send_through(door: int, beside: int, pid: int) -> None:
    try:
        os.write(door, b"%d" % pid)
    except OSError as error:
        if error.errno != errno.EBUSY or beside < 0:
            raise
        os.write(beside, b"%d" % pid)


_EXEC_NAMESPACES = abi.CLONE_NEWNS | abi.CLONE_NEWNET | abi.CLONE_NEWIPC | abi.CLONE_NEWUTS | abi.CLONE_NEWCGROUP


def _become(job: Job, slave: int, uid: int, gid: int, groups: list[int], home: bytes) -> None:
    """From a process that stands in its namespaces to the user's program."""
    spec = job.process
    job.step = "becoming the program"
    _install_stdio(job, slave, uid)
    calls.close_range_cloexec(3 + job.preserved)
    program.set_limits(spec.get("rlimits") or [])
    _schedule(spec)
    if job.users is not None:
        job.step = "entering the user namespace"
        for group in (gid, *groups):
            job.users.gid(group)
        job.users.enter(own_mounts=job.pidfd < 0 and job.mounts < 0 and not job.among_hosts)
    _make_keyring(job)
    program.drop_privileges(spec, job.seccomp, uid, gid, groups, lambda fd: _tell_listener(job.sync, fd))
    os.umask((spec.get("user") or {}).get("umask", 0o022))
    environ = program.environment(spec, home)
    if job.gate >= 0:
        program.check(spec.get("args") or [], environ)  # what can be found out is told now: nobody listens later
        job.sync.send(b"C")
        if not os.read(job.gate, 1):
            os._exit(1)
    if job.pidfd < 0:
        _run_hooks(job, "startContainer", "created")
    calls.prctl(abi.PR_SET_PDEATHSIG, 0 if job.detached or job.pidfd >= 0 else signal.SIGKILL)
    if job.init:
        _split_off(spec.get("args") or [], slave >= 0, spec.get("selinuxLabel") or "")
    elif slave >= 0:
        pty.make_controlling(0)
    program.reset_signals()
    program.execute(spec.get("args") or [], environ)


def _tell_listener(sync: socket.socket, fd: int) -> None:
    """The parent takes a copy of `fd` and sends it to the listener. From here on each call may be one that is notified:
    those up to the answer are write(2) and read(2), and the listener has the descriptor by then."""
    os.write(sync.fileno(), b"L%d" % fd)
    if os.read(sync.fileno(), 1) != b"L":
        os._exit(1)
    os.close(fd)


def _make_keyring(job: Job) -> None:
    if not job.new_keyring:
        return
    if label := job.process.get("selinuxLabel"):
        program.label_keyring(label)
    try:
        calls.join_session_keyring(b"_ses.container")
    except OSError:
        pass  # a kernel without keyrings, or a quota: the program then shares none of ours, only root's


def _run_hooks(job: Job, name: str, status: str) -> None:
    """Those that the container's first process runs. Its pid is told as the container sees it."""
    if (job.config.get("hooks") or {}).get(name):
        hooks.run(job.config, name, {**job.state, "status": status, "pid": os.getpid()})


def _split_off(args: list[str], terminal: bool, label: str) -> None:
    """`--init`: this process stays as PID 1, hands signals on and reaps; only the child returns."""
    # before the fork: the program may look at once
    calls.prctl(abi.PR_SET_NAME, b"dockyard-init")
    set_title(os.fsencode(" ".join(["dockyard-init", "--", *args])))
    child = os.fork()  # clone3 is beyond the default seccomp profile, which holds already
    if child == 0:
        os.setsid()
        if terminal:
            pty.make_controlling(0)
        return
    if label:
        program.relabel_self(label)
    os.closerange(0, 1024)
    everything = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
    signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    while True:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                os._exit(1)
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
        number = signal.sigwaitinfo(everything).si_signo
        if number != signal.SIGCHLD:
            try:
                os.kill(child, number)
            except ProcessLookupError:
                continue


def _install_stdio(job: Job, slave: int, uid: int) -> None:
    """Put stdin, stdout and stderr in their places and give them to the container's user."""
    uid = uid if job.users is None else job.users.uid(uid)
    for number in (0, 1, 2):
        os.dup2(slave if job.stdio is None else job.stdio[number], number)
        if is_null(number):
            _reopen_null(number)
        elif uid:
            try:
                os.fchown(number, uid, -1)
            except OSError:
                continue  # a read-only or foreign descriptor keeps its owner
    if slave > 2:
        os.close(slave)


def is_null(fd: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)


def _reopen_null(number: int) -> None:
    """The container's own /dev/null instead of the host's, whose mode and owner root in here could change. Where it has
    made something else of that, what is to be read is an empty pipe."""
    mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
    try:
        own = os.open("/dev/null", mode | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        own = -1
    if own >= 0 and is_null(own):
        fcntl.fcntl(own, fcntl.F_SETFL, 0)
        os.dup2(own, number)
    elif mode == os.O_RDONLY:
        empty, other = os.pipe()
        os.dup2(empty, number)
        os.close(empty)
        os.close(other)
    if own >= 0:
        os.close(own)


def _open_terminal(job: Job) -> int:
    """A terminal of the container's own devpts; the master goes to the parent, the slave is returned."""
    master, slave, _ = pty.open_pair("/dev/pts/ptmx")
    if job.console_size:
        pty.set_size(master, job.console_size[0], job.console_size[1])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("ii", master, slave))]
    job.sync.sendmsg([b"T"], rights)
    os.close(master)
    return slave


def _expect(sync: socket.socket, message: bytes) -> None:
    if sync.recv(16) != message:
        os._exit(1)  # the parent gave up


def _schedule(spec: dict[str, Any]) -> None:
    if spec.get("scheduler"):
        scheduling.set_scheduler(spec["scheduler"])
    if spec.get("ioPriority"):
        scheduling.set_io_priority(spec["ioPriority"])
    if spec.get("memoryPolicy"):  # of linux, put here by who asks for it
        scheduling.set_memory_policy(spec["memoryPolicy"])


def _set_oom_score(spec: dict[str, Any]) -> None:
    """Through the host's procfs, still visible, never through one that the image could have put there (S6)."""
    value = spec.get("oomScoreAdj")
    if value is None:
        return
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        if calls.filesystem_type(fd) != abi.PROC_SUPER_MAGIC:
            raise OSError(22, "/proc/self/oom_score_adj is not on procfs")
        os.write(fd, str(value).encode())
    except PermissionError:
        pass  # lowering it needs CAP_SYS_RESOURCE, which an engine in a container may lack
    finally:
        os.close(fd)
