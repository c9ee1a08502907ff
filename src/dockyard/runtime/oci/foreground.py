"""A container or exec in the foreground: signals handed on, a terminal carried over, the exit code returned.

Owns: waiting for one process and, with a terminal, relaying between ours and the container's.
Does not own: making the process (`runtime.oci.launching`).
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

from dockyard.linux import process, pty
from dockyard.runtime.following import Spawned
from dockyard.runtime.oci.readiness import Readiness

_KEPT = {signal.SIGCHLD, signal.SIGURG, signal.SIGKILL, signal.SIGSTOP, signal.SIGWINCH, signal.SIGPIPE}


def hand_on_signals(spawned: Spawned) -> None:
    """From now on all signals but a few go to the process."""

    def hand_on(number: int, _frame: FrameType | None) -> None:
        try:
            process.pidfd_send_signal(spawned.pidfd, number)
        except ProcessLookupError:
            pass

    for number in set(signal.Signals) - _KEPT:
        signal.signal(number, hand_on)


def follow(spawned: Spawned, ready: Readiness | None = None) -> int:
    """Wait for the process; its exit code, 128+N for signal N. Signals are handed on to it, and, from `ready`, what it
    says of itself."""
    hand_on_signals(spawned)
    if spawned.master >= 0:
        os.close(spawned.slave)
        _relay(spawned, ready)
    if ready is not None:
        _hand_on(spawned.pidfd, ready)
    _, status = os.waitpid(spawned.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _hand_on(pidfd: int, ready: Readiness) -> None:
    """Until the process has ended."""
    import select

    ended = False
    while not ended:
        found, _, _ = select.select([pidfd, ready.fileno()], [], [])
        ended = pidfd in found
        ready.hand_on()
    ready.close()


def _relay(spawned: Spawned, ready: Readiness | None) -> None:
    """Between stdin/stdout and the terminal, until the other side is closed."""
    import select
    import termios

    before = _raw(0)
    master = spawned.master
    signal.signal(signal.SIGWINCH, lambda _number, _frame: _copy_size(master))
    _copy_size(master)
    inputs = [0, master, *([ready.fileno()] if ready is not None else [])]
    try:
        while True:
            found, _, _ = select.select(inputs, [], [])
            if ready is not None and ready.fileno() in found:
                ready.hand_on()
            if master in found and not _pass(master, 1):
                return
            if 0 in found and not _pass(0, master):
                inputs.remove(0)
    finally:
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
        os.close(master)


def _pass(source: int, target: int) -> bool:
    """One read and its writes; False at the end of either."""
    try:
        data = os.read(source, 32768)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
    except OSError:  # EIO: nobody has the terminal open any more
        return False
    return bool(data)


def _raw(fd: int) -> list[Any] | None:
    import termios
    import tty

    if not os.isatty(fd):
        return None
    before: list[Any] = termios.tcgetattr(fd)
    tty.setraw(fd)
    return before


def _copy_size(master: int) -> None:
    try:
        columns, lines = os.get_terminal_size(0)
        pty.set_size(master, lines, columns)
    except OSError:
        pass  # ours is no terminal
