"""The forkserver: a lean process that forks monitors and workers, and does nothing else.

Owns: one thread, no asyncio, a heap that is frozen before the first fork so that children share its pages.
Does not own: what its children do. It ends when the daemon's socket does; its children live on.

Executed fresh by the daemon as `python -I -S` out of a detached read-only clone of the interpreter's directory, our own
modules out of sealed memory (`runtime.launcher`), so that nothing of it can be overwritten from a container (S1) and an
upgrade beneath a running daemon changes nothing in it and its children. Standard library only.

Requests, one message each, neither read nor answered by the zygote itself: `CALL` with the descriptors of
`worker.main`, anything else is for `becoming.main`.
"""

from __future__ import annotations

import functools
import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from dockyard.linux import abi, calls, process, signals
from dockyard.linux.nfnetlink import SharedElements
from dockyard.runtime import becoming, channel, worker
from dockyard.runtime.cgroups import open_cgroup

CALL = b"call"
SPARES = 2  # monitors that wait for a request, their setup process in a cgroup already


def serve(control: socket.socket, site_paths: list[str], rules: SharedElements | None) -> None:
    """Fork for every request until the daemon is gone. `rules`: the one socket for published ports, shared by all."""
    open_cgroup("/dockyard")  # what it finds out about the host, every child knows
    gc.collect()
    gc.freeze()
    gc.disable()
    spares: list[socket.socket] = []
    ready = select.poll()
    ready.register(control, select.POLLIN)
    while True:
        while len(spares) < SPARES and not ready.poll(0):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            _fork([control, ours, *spares], functools.partial(becoming.wait, theirs, rules))
            theirs.close()
            spares.append(ours)
        received = channel.receive_raw(control)
        if received is None:
            return
        request, fds = received
        if request == CALL:
            _fork([control, *spares], functools.partial(worker.main, fds, site_paths))
        elif not _hand_to_spare(spares, request, fds):
            _fork([control, *spares], functools.partial(becoming.main, request, fds, rules))
        channel.close_all(fds)


def _hand_to_spare(spares: list[socket.socket], request: bytes, fds: list[int]) -> bool:
    """Give a request to a monitor that waits for one. False if there is none, or it died."""
    if not spares:
        return False
    spare = spares.pop(0)
    try:
        spare.sendmsg([request], channel.rights(fds), socket.MSG_NOSIGNAL)
        return True
    except OSError:
        return False
    finally:
        spare.close()


def _fork(foreign: list[socket.socket], child: Callable[[], NoReturn]) -> None:
    """Fork `child`, without the sockets that are not its business."""
    pid, pidfd = process.clone()
    if pid:
        os.close(pidfd)
        return
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for sock in foreign:
            sock.close()
        child()
    except BaseException:
        traceback.print_exc()  # on the host's ground
    finally:
        os._exit(1)


def _settle(errors: str) -> None:
    """What every child inherits: a session of our own, no ignored signals but Python's, the default mask and limits.

    stdout and stderr are a file of the exec root: the daemon's own are not ours to hold open, for we may outlive it.
    """
    os.setsid()
    fd = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    calls.prctl(abi.PR_SET_DUMPABLE, 0)
    calls.keep_heap_small()  # every monitor pays for what stays
    os.umask(0o022)
    os.chdir("/")
    calls.prctl(abi.PR_SET_NAME, b"dockyard-zygote")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signals.default_all()  # what the daemon was started with is not for containers
    calls.default_internal_signals()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    try:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    except OSError:
        pass  # not allowed to leave what the daemon was given


def main() -> None:
    """argv: the control socket's descriptor, the file for errors, the site-packages directories for workers."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    _settle(sys.argv[2])
    try:
        rules = SharedElements()
    except OSError:
        rules = None  # a kernel without nftables: a start that publishes ports says so
    serve(control, sys.argv[3:], rules)
    os._exit(0)


if __name__ == "__main__":
    main()
