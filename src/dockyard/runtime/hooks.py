"""OCI hooks: programs that a bundle wants run at points of its container's life.

Owns: running them in order, the state on stdin, timeouts, what a failing one said. Does not own: when they are run, nor
in whose namespaces: the caller stands there (createContainer and startContainer are run by the container's first
process, which can import nothing any more). Standard library only. Source: OCI runtime-spec 1.2, config.md.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from typing import Any, NoReturn

_OUTPUT = 500  # characters of what it said that an error tells
_READ = 1 << 16
_TICK = 10.0  # ms
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


EARLY = ("prestart", "createRuntime")  # run by the parent when the mounts are there and the root is still the host's


class HookFailed(Exception):
    """The message names the hook and what it said."""


def has_early(config: dict[str, Any]) -> bool:
    """Whether there is one of `EARLY`."""
    return any((config.get("hooks") or {}).get(name) for name in EARLY)


def run(config: dict[str, Any], name: str, state: dict[str, Any], directory: str = "") -> None:
    """Run `config.hooks[name]`, the state as JSON on stdin. Raises HookFailed at the first that fails.

    `directory`: the working directory, "" for the caller's.
    """
    for index, hook in enumerate((config.get("hooks") or {}).get(name) or ()):
        _run_one(hook, f"hooks.{name}[{index}]", json.dumps(state).encode(), directory)


def _run_one(hook: dict[str, Any], field: str, state: bytes, directory: str) -> None:
    path = hook["path"]
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    in_read, in_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(hook, in_read, out_write, directory)
    os.close(in_read)
    os.close(out_write)
    try:
        status, output = _follow(pid, in_write, out_read, state, hook.get("timeout"))
    finally:
        os.close(out_read)
    text = output.decode(errors="replace").strip().replace("\n", " ")[-_OUTPUT:]
    if status is None:
        raise HookFailed(f"{field}: {path}: timed out after {hook['timeout']} seconds")
    if status:
        how = f"ended with {status}" if status > 0 else f"was killed by signal {-status}"
        raise HookFailed(f"{field}: {path} {how}: {text}")


def _become(hook: dict[str, Any], stdin: int, output: int, directory: str) -> NoReturn:
    try:
        os.setsid()
        for number, fd in ((0, stdin), (1, output), (2, output)):
            os.dup2(fd, number)
        if directory:
            os.chdir(directory)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execve(hook["path"], hook.get("args") or [hook["path"]], _environment(hook))
    except OSError as error:
        os.write(2, (error.strerror or str(error)).encode())
    finally:
        os._exit(127)


def _environment(hook: dict[str, Any]) -> dict[str, str]:
    """`env`; without one ours, as with runc and crun: hooks are often scripts that need a PATH."""
    if hook.get("env") is not None:
        return dict(entry.partition("=")[::2] for entry in hook["env"])
    ours = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}  # that is for us
    return {"PATH": _PATH, **ours}


def _follow(pid: int, stdin: int, output: int, state: bytes, timeout: float | None) -> tuple[int | None, bytes]:
    """(exit code, -N for signal N, None if it took too long; what it said). Only the hook itself is waited for."""
    deadline = time.monotonic() + timeout if timeout else None
    poll, said = select.poll(), b""
    try:
        pidfd = os.pidfd_open(pid)
        poll.register(pidfd, select.POLLIN)
    except OSError:
        pidfd = -1  # the container's own system call filter: its end is looked for now and then
    poll.register(output, select.POLLIN)
    poll.register(stdin, select.POLLOUT)
    os.set_blocking(stdin, False)
    writing = True
    try:
        while True:
            left = max(deadline - time.monotonic(), 0) * 1000 if deadline is not None else None
            ready = dict(poll.poll(left if pidfd >= 0 else _TICK))
            if pidfd < 0 and not ready and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                ready = {pidfd: select.POLLIN}
            if not ready and deadline is not None and time.monotonic() >= deadline:
                _kill(pid)
                return None, said
            if stdin in ready and writing:
                state = _write(stdin, state)
                if not state:
                    poll.unregister(stdin)
                    os.close(stdin)
                    writing = False
            if output in ready:
                part = os.read(output, _READ)
                said = (said + part)[-_READ:]
                if not part:
                    poll.unregister(output)
            elif pidfd in ready:  # and there is nothing more to read
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said
    finally:
        if pidfd >= 0:
            os.close(pidfd)
        if writing:
            os.close(stdin)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # the group is there once the hook has got that far
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os.waitpid(pid, 0)


def _write(fd: int, data: bytes) -> bytes:
    """What is still to be written; nothing if nobody reads."""
    try:
        return data[os.write(fd, data) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return b""
