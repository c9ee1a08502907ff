"""A program on a pseudo-terminal: type, read what appears, resize.

Owns: `Terminal`. Does not own: what the program is.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from typing import Self


class Terminal:
    """Runs a command as the session leader of a new terminal. Use as a context manager."""

    def __init__(self, argv: Sequence[str], env: dict[str, str], rows: int = 24, columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        self._set_size(rows, columns)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *argv], stdin=slave, stdout=slave, stderr=slave, env=env
        )
        os.close(slave)
        self.seen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        self._set_size(rows, columns)  # the kernel sends SIGWINCH to the foreground

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(seconds, 0))
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False  # EIO: the last writer has closed the terminal
        self.seen += data
        return bool(data)

    def expect(self, pattern: bytes, seconds: float = 15.0) -> re.Match[bytes]:
        """Wait for a pattern in what was not matched yet; it and all before it count as read. AssertionError if not."""
        end = time.monotonic() + seconds
        while True:
            match = re.search(pattern, self.seen)
            if match:
                self.seen = self.seen[match.end() :]
                return match
            left = end - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"never saw {pattern!r} on the terminal, but {self.seen!r}")

    def finish(self, seconds: float = 15.0) -> int:
        """Read to the end and return the exit code."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._read(0.1):
            if self.process.poll() is not None and not self._pending():
                break
        return self.process.wait(max(end - time.monotonic(), 0.1))

    def _pending(self) -> bool:
        return bool(select.select([self._master], [], [], 0.05)[0])
