"""A short-lived process for one blocking piece of work: unpack, pack, compare.

Owns: running `package.module:function(**arguments, fds=…)` in a fork of the zygote and sending its result back.
Does not own: the work. What the function needs is imported here, after the fork and before it touches anything.

The answer is one JSON object over a stream socket, then its end: {"result": …} or {"error", "kind"}. When the daemon
closes its side (the request was cancelled, the daemon died), SIGIO ends the worker. Standard library only by itself.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

from dockyard.linux import abi, calls
from dockyard.runtime import channel


def main(fds: list[int], site_paths: list[str]) -> NoReturn:
    """`fds`: the answer's socket, the request in a memfd, then the function's own descriptors."""
    gc.enable()
    os.setsid()
    calls.keep_heap()
    calls.prctl(abi.PR_SET_NAME, b"dockyard-work")
    answer = socket.socket(fileno=fds[0])
    _die_with(answer)
    request = json.loads(channel.unseal(fds[1]))
    sys.path.extend(site_paths)
    try:
        reply: dict[str, Any] = {"result": _run(request["function"], request["arguments"], fds[2:])}
    except BaseException as error:
        kind = getattr(error, "kind", None)
        reply = {"error": _told(error), "kind": kind.value if kind is not None else None}
        if kind is None and not isinstance(error, OSError):
            traceback.print_exc()
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        answer.sendall(json.dumps(reply).encode())
    except OSError:
        os._exit(1)
    os._exit(0)


def _told(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {os.fsdecode(error.filename)}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _run(function: str, arguments: dict[str, Any], fds: list[int]) -> Any:
    module, _, name = function.partition(":")
    if not module.startswith("dockyard."):
        raise ValueError(f"{function} is not a function of dockyard's")
    return getattr(importlib.import_module(module), name)(**arguments, fds=fds)


def _die_with(answer: socket.socket) -> None:
    """SIGIO, whose default action ends a process, when the other side hangs up."""
    fcntl.fcntl(answer, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(answer, fcntl.F_SETFL, fcntl.fcntl(answer, fcntl.F_GETFL) | os.O_ASYNC)
