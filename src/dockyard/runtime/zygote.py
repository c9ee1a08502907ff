"""The forkserver: a lean process that forks monitors and workers, and does nothing else.

Owns: one thread, no asyncio, a heap that is frozen before the first fork so that children share its pages.
Does not own: what its children do. It ends when the daemon's socket does; its children live on.

Executed fresh by the daemon as `python -I -S` out of detached read-only clones of the interpreter's and the packages'
directories (`runtime.client`), so that nothing of it can be overwritten from a container (S1). Standard library only.

Requests, one message each, neither read nor answered by the zygote itself: `CALL` with the descriptors of
`worker.main`, anything else is for `monitor.main`.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback

from dockyard.linux import abi, calls, process, signals
from dockyard.linux.nfnetlink import SharedElements
from dockyard.runtime import channel, monitor, worker
from dockyard.runtime.cgroups import open_cgroup

CALL = b"call"


def serve(control: socket.socket, site_paths: list[str], rules: SharedElements | None) -> None:
    """Fork for every request until the daemon is gone. `rules`: the one socket for published ports, shared by all."""
    open_cgroup("/dockyard")  # what it finds out about the host, every child knows
    gc.collect()
    gc.freeze()
    gc.disable()
    while True:
        received = channel.receive_raw(control)
        if received is None:
            return
        data, fds = received
        pid, pidfd = process.clone()
        if pid == 0:
            _child(control, data, fds, site_paths, rules)
        os.close(pidfd)
        channel.close_all(fds)


def _child(
    control: socket.socket, request: bytes, fds: list[int], site_paths: list[str], rules: SharedElements | None
) -> None:
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        if request == CALL:
            gc.enable()
            worker.main(fds, site_paths)
        else:
            monitor.main(request, fds, rules)
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
