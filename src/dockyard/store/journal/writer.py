"""Write a container's output into a log file in Docker's json-file format.

Owns: cutting two byte streams into records, their encoding, and rotation of the file. One record a line:
`{"log":"text\\n","stream":"stdout","attrs":{…},"time":"2026-01-01T00:00:00.5Z"}`; `attrs` only when there are some.
A line longer than 16 KiB becomes several records, all but the last without the newline; an unterminated rest is kept
until its newline, 16 KiB or the end. Bytes that are not UTF-8 become U+FFFD.
Does not own: reading (`reader`), the compressed form (`packing`), nor which process holds the pipe.

Runs in every container's monitor, so: standard library only, one write(2) a chunk, nothing kept but the two rests.
A log that cannot be written (full disk) never stops the container: the chunk is dropped and counted, and the log goes
on when there is room.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from json.encoder import encode_basestring as quote  # the C encoder where there is one
from typing import TYPE_CHECKING, Literal

from dockyard.linux import process
from dockyard.store.journal.packing import Packer

if TYPE_CHECKING:
    from dockyard.model.journal import LogSpec

PIECE = 16 * 1024  # Docker's limit for one record's text, in bytes
Stream = Literal["stdout", "stderr"]


def format_time(now_ns: int) -> str:
    """RFC 3339 with nanoseconds as Go's time.RFC3339Nano prints it: UTC, trailing zeros of the fraction dropped."""
    seconds, fraction = divmod(now_ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


class Host:
    """What a log needs of the process it is in. This one cannot wait for children: compression is settled at the next
    rotation."""

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call back when `fd` is ready."""

    def unwatch(self, fd: int) -> None:
        """No longer."""

    def clone(self) -> tuple[int, int]:
        """As `process.clone`, outside every container."""
        return process.clone()

    def log_trouble(self, text: str) -> None:
        """The log cannot be written, or can be again: told once each time."""


class LogWriter:
    """The log of one container. Not thread-safe. Never raises for a file it cannot write: see `dropped`."""

    __slots__ = (
        "_attrs", "_compress", "_fd", "_host", "_max_file", "_max_size", "_packer", "_partial_since", "_path", "_rest",
        "_size", "_unsaid", "dropped",
    )  # fmt: skip

    def __init__(self, spec: LogSpec, host: Host | None = None) -> None:
        """Open `spec["path"]` for appending (0640). Driver "none" keeps nothing.

        `spec["max_size"]`: rotate before the first record that would begin at or after this many bytes (0: never), as
        Docker counts; `spec["max_file"]`: how many files to keep, the current one included (`path`, `path.1`, …);
        `spec["compress"]`: rotated ones are compressed by a child (`path.1.gz`, …)."""
        self._host = host or Host()
        self._compress = bool(spec.get("compress"))
        self._packer: Packer | None = None
        self._path = spec["path"] if spec["driver"] != "none" else ""
        self._max_size = spec["max_size"]
        self._max_file = max(1, spec["max_file"])
        self._attrs = _encode_attrs(spec["attrs"])
        self._rest: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        self._partial_since: dict[Stream, str] = {}
        self._fd = -1
        self._size = 0
        self.dropped = 0  # bytes of records that could not be written
        self._unsaid = 0  # those since the log could last be written
        if self._path:
            self._open(os.O_APPEND)
            self._end_torn_record()
            if self._compress:  # what an earlier monitor has left
                _unlink(f"{self._path}.packing")
                self._pack_next()

    @property
    def child(self) -> int:
        """The pid of the child that compresses, 0 if there is none."""
        return self._packer.pid if self._packer is not None else 0

    def write(self, stream: Stream, data: bytes, now_ns: int) -> None:
        """Add what was read from `stream`; `now_ns` (wall clock, ns since the epoch) stamps its records."""
        if not self._path:
            return
        if rest := self._rest[stream]:
            data = rest + data
        end = data.rfind(b"\n") + 1
        if len(data) - end >= PIECE or _has_long_line(data, end):
            self._rest[stream] = self._write_pieces(stream, data, now_ns)
            return
        self._rest[stream] = data[end:]
        if not end:
            return
        if stream in self._partial_since:  # the first line ends one whose beginning is written already
            first = data.index(b"\n") + 1
            self._emit(self._encode(stream, data[:first], self._partial_since.pop(stream)))
            data, end = data[first:], end - first
        if end:
            self._emit(self._encode(stream, data[:end], format_time(now_ns)))

    def close(self, now_ns: int | None = None) -> None:
        """Write what is left of unterminated lines and close the file. May be called twice."""
        stamp = format_time(time.time_ns() if now_ns is None else now_ns)
        for stream, rest in self._rest.items():
            if rest and self._path:
                self._emit(self._encode(stream, rest, self._partial_since.pop(stream, stamp)))
            self._rest[stream] = b""
        self._settle(kill=True)
        self._path = ""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write_pieces(self, stream: Stream, data: bytes, now_ns: int) -> bytes:
        """Write `data`, in which some line is too long for one record; return the unterminated rest."""
        now = format_time(now_ns)
        records = []
        at = 0
        while True:
            end = data.find(b"\n", at, at + PIECE) + 1
            if not end and len(data) - at < PIECE:
                break
            if end:
                stamp = self._partial_since.pop(stream, now)
            else:  # Docker gives all pieces of a line the time of the first
                end = at + PIECE
                stamp = self._partial_since.setdefault(stream, now)
            records.append(self._encode(stream, data[at:end], stamp))
            at = end
        self._emit("".join(records))
        return data[at:]

    def _encode(self, stream: Stream, data: bytes, stamp: str) -> str:
        """Records of the lines in `data` (the last may lack its newline)."""
        text = data.decode("utf-8", "replace")
        tail = f'","stream":"{stream}"{self._attrs},"time":"{stamp}"}}\n'
        if "\\" not in text:
            # Every backslash in the quoted text is then the encoder's, so each `\n` is a line's end: two passes in C
            # over the whole chunk instead of one call a line.
            body = quote(text)[1:-1]
            if body.endswith("\\n"):
                body = body[:-2]
                return '{"log":"' + body.replace("\\n", "\\n" + tail + '{"log":"') + "\\n" + tail
            return '{"log":"' + body.replace("\\n", "\\n" + tail + '{"log":"') + tail
        lines = text.split("\n")
        last = lines.pop()
        records = ['{"log":' + quote(line)[:-1] + "\\n" + tail for line in lines]
        if last:
            records.append('{"log":' + quote(last)[:-1] + tail)
        return "".join(records)

    def _emit(self, records: str) -> None:
        data = records.encode()
        if not self._max_size:
            self._append(data)
            return
        at = 0
        while at < len(data):
            if self._size >= self._max_size:
                self._rotate()
            # The record that crosses the limit still belongs to this file.
            end = data.find(b"\n", min(at + max(self._max_size - self._size, 1), len(data)) - 1) + 1 or len(data)
            self._append(data[at:end])
            at = end

    def _append(self, data: bytes) -> None:
        if self._fd < 0:
            self._open(os.O_APPEND)
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, data[done:] if done else data)
        except OSError as error:
            self.dropped += len(data)
            if not self._unsaid:
                self._host.log_trouble(f"output is not logged: {error.strerror}: {self._path}")
            self._unsaid += len(data)
            if done:
                self._cut_back()
            return
        self._size += done
        if self._unsaid:
            self._host.log_trouble(f"output is logged again; {self._unsaid} bytes of records are missing: {self._path}")
            self._unsaid = 0

    def _cut_back(self) -> None:
        """Take back the part of a batch that a full disk let through, so that no record is torn."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._size = os.fstat(self._fd).st_size

    def _open(self, how: int) -> None:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | how
            self._fd = os.open(self._path, flags, 0o640)
            self._size = os.fstat(self._fd).st_size
        except OSError:
            self._fd = -1
            self._size = 0

    def _end_torn_record(self) -> None:
        """A record cut off by a power loss must not swallow the first one of ours."""
        if self._fd >= 0 and self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            self._append(b"\n")

    def _rotate(self) -> None:
        """path.(n-2) → path.(n-1), …, path → path.1, and a new path. With one file it is emptied instead."""
        if self._packer is not None and _has_ended(self._packer.pidfd):
            self._settle(kill=False)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._max_file > 1:
            for ending in ("", ".gz"):
                _unlink(f"{self._path}.{self._max_file - 1}{ending}")
            for number in range(self._max_file - 1, 1, -1):
                for ending in ("", ".gz"):
                    _rename(f"{self._path}.{number - 1}{ending}", f"{self._path}.{number}{ending}")
            _rename(self._path, f"{self._path}.1")
        self._open(os.O_TRUNC)
        self._pack_next()

    # compression ----------------------------------------------------------------------------------------------------

    def _pack_next(self) -> None:
        """Let a child compress the oldest file that is not, unless one is at work. We go on meanwhile."""
        if not self._compress or self._packer is not None:
            return
        for number in range(self._max_file - 1, 0, -1):
            name = f"{self._path}.{number}"
            if not os.path.exists(name):
                continue
            try:
                self._packer = Packer(name, f"{self._path}.packing", self._host.clone)
            except OSError:
                return  # it stays as it is
            self._host.watch(self._packer.pidfd, select.EPOLLIN, lambda _events: self._packed())
            return

    def _packed(self) -> None:
        if self._settle(kill=False):
            self._pack_next()

    def _settle(self, *, kill: bool) -> bool:
        """The child has ended (`kill`: ends now): put its work in the place of the file, whatever its name is now.
        False if it has failed: it is tried again after the next rotation."""
        packer, self._packer = self._packer, None
        if packer is None:
            return False
        self._host.unwatch(packer.pidfd)
        done = packer.finish(kill=kill)
        if done:
            for number in range(1, self._max_file):
                name = f"{self._path}.{number}"
                if _inode(name) == packer.inode:
                    _rename(packer.target, f"{name}.gz")
                    _unlink(name)
                    return True
        _unlink(packer.target)  # not finished, or the file was rotated out meanwhile
        return done


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _rename(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except OSError:
        pass  # it is not there


def _unlink(name: str) -> None:
    try:
        os.unlink(name)
    except OSError:
        pass


def _inode(name: str) -> int:
    try:
        return os.lstat(name).st_ino
    except OSError:
        return 0


def _has_long_line(data: bytes, end: int) -> bool:
    """Whether a line in `data[:end]` (which ends in a newline) has `PIECE` bytes or more before its newline."""
    at = 0
    while end - at > PIECE:
        cut = data.rfind(b"\n", at, at + PIECE)
        if cut < 0:
            return True
        at = cut + 1
    return False


def _encode_attrs(attrs: dict[str, str]) -> str:
    if not attrs:
        return ""
    return ',"attrs":{' + ",".join(f"{quote(key)}:{quote(value)}" for key, value in sorted(attrs.items())) + "}"
