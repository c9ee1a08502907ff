"""The forkserver: a lean process that forks monitors and workers, and does nothing else.

Owns: one thread, no asyncio, a heap that is frozen before the first fork so that children share its pages.
Does not own: what its children do. It ends when the daemon's socket does; its children live on.

Executed fresh by the daemon as `python -I -S` out of detached read-only clones of the interpreter's and the packages'
directories (`runtime.client`), so that nothing of it can be overwritten from a container (S1). Standard library only.

Requests, one message each, never answered by the zygote itself:
{"op": "launch", …} for `monitor.main`, {"op": "call"} for `worker.main`, with the descriptors of each.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import traceback

from dockyard.linux import abi, calls, process
from dockyard.runtime import channel, monitor, worker


def serve(control: socket.socket, site_paths: list[str]) -> None:
    """Fork for every request until the daemon is gone."""
    gc.collect()
    gc.freeze()
    while True:
        received = channel.receive_raw(control)
        if received is None:
            return
        data, fds = received
        pid, pidfd = process.clone()
        if pid == 0:
            _child(control, data, fds, site_paths)
        os.close(pidfd)
        channel.close_all(fds)


def _child(control: socket.socket, data: bytes, fds: list[int], site_paths: list[str]) -> None:
    try:
        message = json.loads(data)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        if message["op"] == "launch":
            monitor.main(message, fds)
        else:
            worker.main(fds, site_paths)
    except BaseException:
        traceback.print_exc()  # on the host's ground: to the daemon's log
    finally:
        os._exit(1)


def _settle() -> None:
    """What every child inherits: a session of our own, no ignored signals but Python's, the default mask and limits."""
    os.setsid()
    os.umask(0o022)
    os.chdir("/")
    calls.prctl(abi.PR_SET_NAME, b"dockyard-zygote")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTTOU, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    try:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    except OSError:
        pass  # not allowed to leave what the daemon was given


def main() -> None:
    """argv: the control socket's descriptor, then the site-packages directories for workers."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    _settle()
    serve(control, sys.argv[2:])
    os._exit(0)


if __name__ == "__main__":
    main()
