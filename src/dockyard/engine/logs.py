"""A container's log as a client asks for it.

Owns: which containers can be read, and putting records into the stream that clients expect. Does not own: the file
(`store.journal`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from msgspec import Struct


class LogRequest(Struct):
    """What of a log is wanted. Times in ns since the epoch, None: no limit."""

    stdout: bool = True
    stderr: bool = True
    since: int | None = None
    until: int | None = None
    timestamps: bool = False
    details: bool = False
    tail: int | None = None  # the last N records; None: all
    follow: bool = False


class LogStream(NamedTuple):
    """`chunks`: raw text when `tty`, otherwise frames (8-byte header: stream 1 or 2, three zeros, length)."""

    tty: bool
    chunks: AsyncIterator[bytes]


class Logs:
    def read(self, ref: str, request: LogRequest) -> LogStream:
        """Raises InvalidArgument if neither stream is wanted, NotServed for a driver that cannot be read.

        Close the iterator (`aclose`) when the client goes away.
        """
        raise NotImplementedError
