"""From a fork of the zygote to a monitor: the process that makes the container is begun, watched and reaped.

Owns: `main` and `wait` (a spare), which the zygote calls in its child and which never return. Does not own: making the
container (`setup`), what the monitor then does (`monitor`). Standard library only.
"""

from __future__ import annotations

import marshal
import os
import select
import socket
import traceback
from typing import NoReturn

from dockyard.linux import abi, calls, process
from dockyard.linux.nfnetlink import SharedElements
from dockyard.runtime import channel, setup
from dockyard.runtime.cgroups import open_cgroup, version
from dockyard.runtime.monitor import NAME, Monitor
from dockyard.runtime.setup import Made


def main(request: bytes, fds: list[int], rules: SharedElements | None) -> NoReturn:
    """The zygote's child. `request`: JSON {"state_dir", "tty", "open_stdin", "stdin_once", "gated", "seccomp": bool,
    "log": LogSpec | None, "attached": [[stdin, stdout, stderr], …]}, not read here. `fds`: control socket, Launch in a
    memfd, the seccomp program in a memfd if there is one, the streams of those attached."""
    _become_monitor(NAME)
    report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid, pidfd = process.clone()
    if pid == 0:
        report.close()
        setup.run(request, fds, theirs, rules)
    theirs.close()
    channel.close_all(fds)
    _watch_over(_Setup(pid, pidfd, report, spare=False), rules)


def wait(spare: socket.socket, rules: SharedElements | None) -> NoReturn:
    """As `main`, made ready before there is a request: it comes over `spare`."""
    _become_monitor(b"dockyard-spare")
    report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid, pidfd = process.clone()
    if pid == 0:
        report.close()
        setup.wait(spare, theirs, rules)
    theirs.close()
    spare.close()
    _watch_over(_Setup(pid, pidfd, report, spare=True), rules)


def _become_monitor(name: bytes) -> None:
    os.setsid()
    calls.prctl(abi.PR_SET_NAME, name)
    calls.prctl(abi.PR_SET_CHILD_SUBREAPER, 1)


class _Setup:
    """The setup process, a child of ours."""

    def __init__(self, pid: int, pidfd: int, report: socket.socket, *, spare: bool) -> None:
        self._pid = pid
        self.pidfd = pidfd
        self._report = report
        self._spare = spare

    def receive(self) -> tuple[bytes, list[int]] | None:
        """Its next message, None if it ended without. The socket's end alone does not tell: the container's first
        process may hold a copy."""
        poll = select.poll()
        poll.register(self._report, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        poll.poll()
        self._report.setblocking(False)
        try:
            return channel.receive_raw(self._report)
        except BlockingIOError:
            return None

    def reap(self, placed: bool) -> None:
        """It has ended. `placed`: the group that it waited in is the container's now; else the group goes."""
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            pass  # the container has ended already, and all strangers were reaped
        os.close(self.pidfd)
        self._report.close()
        if self._spare and not placed and version() == 1:
            try:
                open_cgroup(setup.spare_cgroup(self._pid)).remove()
            except OSError:
                traceback.print_exc()  # the daemon's next start sweeps


def _watch_over(making: _Setup, rules: SharedElements | None) -> NoReturn:
    """Become the monitor of what the setup process makes. Without a container there is nothing to do: the daemon has
    been told why, or sees the control socket's end; one that is half made dies with us."""
    received = making.receive()
    if received is None:
        making.reap(placed=False)
        os._exit(1)
    calls.prctl(abi.PR_SET_NAME, NAME)
    made, fds = Made(*marshal.loads(received[0])), received[1]
    control = socket.socket(fileno=fds.pop(0))
    seccomp = fds.pop(0) if made.seccomp else -1
    attached = [fds.pop(0) for _ in made.attached]
    monitor = Monitor(made, fds, seccomp, rules)
    monitor.prepare(control, attached)
    going = making.receive()
    if going is None:
        making.reap(placed=False)
        os._exit(1)
    monitor.start(going[1])

    def reap(_events: int) -> None:
        monitor.unwatch(making.pidfd)
        making.reap(made.placed)

    monitor.watch(making.pidfd, select.EPOLLIN, reap)
    monitor.run()
    os._exit(0)
