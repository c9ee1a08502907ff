"""Rotated log files, compressed by a child of their own.

Owns: the compressed form and the child that makes it. Does not own: which files there are and their names (`writer`),
reading it (`files`).

The form is gzip (RFC 1952) that any tool reads: one member for each MiB of records, each with an extra field (`DY`)
that says how long the member is and which file it was made of, so that a reader finds its way without unpacking all.

Runs in every container's monitor, so: standard library only. The child has the lowest priority, keeps nothing open but
its two files, and dies with the monitor; what it has not finished is begun anew later.
"""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Callable
from struct import Struct

from dockyard.linux import abi, calls, process

BLOCK = 1 << 20  # bytes of records in a member
HEAD = 256  # bytes of a file's first record that tell it from others
# gzip: magic, method, flags (FEXTRA), time, xfl, os, length of the extra field; then "DY", its length, and: bytes of
# the whole member, bytes of it unpacked, inode and head of the file it was made of.
HEADER = Struct("<HBBIBBH2sHIIQI")
_TRAILER = Struct("<II")
MAGIC, MARK = 0x8B1F, b"DY"
_EXTRA = 20  # bytes of the extra field behind its name and length
_LEVEL = 6


def head_of(data: bytes) -> int:
    """What tells a log file from others with its inode number: a checksum of its beginning (`data`: its first `HEAD`
    bytes); 0 while it has no record. Records begin with their text and end with their time."""
    end = data.find(b"\n") + 1
    if not end and len(data) < HEAD:
        return 0
    return zlib.crc32(data[:end] if end else data) or 1


def pack(source: int, target: int) -> None:
    """Compress all of the file `source` into `target`. OSError."""
    status = os.fstat(source)
    head = head_of(os.pread(source, HEAD, 0))
    at = 0
    while True:
        data = os.pread(source, BLOCK, at)
        if not data and at:
            break
        _write(target, _member(data, status.st_ino, head))
        at += len(data)
        if not data:
            break
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))  # when its last record was written


def _member(data: bytes, inode: int, head: int) -> bytes:
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(data) + deflate.flush()
    total = HEADER.size + len(body) + _TRAILER.size
    header = HEADER.pack(MAGIC, 8, 4, 0, 0, 255, _EXTRA + 4, MARK, _EXTRA, total, len(data), inode, head)
    return header + body + _TRAILER.pack(zlib.crc32(data), len(data))


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Packer:
    """A child that compresses one file. `pidfd` becomes readable when it has ended."""

    def __init__(self, source: str, target: str, clone: Callable[[], tuple[int, int]] = process.clone) -> None:
        """Begin to compress `source` into `target` (a temporary name). `clone`: as `process.clone`. OSError."""
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self.inode = os.fstat(fd).st_ino
            self.target = target
            parent = os.getpid()
            self.pid, self.pidfd = clone()
            if self.pid == 0:
                _run(fd, target, parent)
        finally:
            os.close(fd)

    def finish(self, *, kill: bool) -> bool:
        """Reap the child, which has ended or (`kill`) ends now; whether it has done its work."""
        if kill:
            process.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            status = -1
        os.close(self.pidfd)
        return status == 0


def _run(source: int, target: str, parent: int) -> None:
    """The child: never returns."""
    code = 1
    try:
        calls.prctl(abi.PR_SET_PDEATHSIG, signal.SIGKILL)
        calls.prctl(abi.PR_SET_NAME, b"dockyard-pack")
        if os.getppid() != parent:
            return
        process.close_others(source, 2)  # what else is open is the monitor's: streams, sockets, published ports
        os.nice(19)
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        pack(source, out)
        code = 0
    finally:
        os._exit(code)
