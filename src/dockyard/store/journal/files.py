"""The files of one log: which there are, and reading at any place in them, compressed or not.

Owns: names of rotated files (`path`, `path.1`, `path.2.gz`, …), what tells one file from another while it is renamed
and compressed, random access. Does not own: records (`records`), where to read (`reader`), writing (`writer`).
"""

from __future__ import annotations

import os
import tempfile
import zlib
from typing import Final, NamedTuple, Protocol

from dockyard.store.journal.packing import HEAD, HEADER, MAGIC, MARK, head_of

_TRIES: Final = 8  # how often the files are listed anew because a rotation came between
_STEP: Final = 256 * 1024


class Identity(NamedTuple):
    """What stays of a log file when it is renamed or compressed. Inode numbers are used again, so its beginning counts
    too (`packing.head_of`; 0: it has no record yet)."""

    inode: int
    head: int


class LogFile(Protocol):
    """One file of records, open for reading."""

    def size(self) -> int:
        """Bytes of records in it now."""

    def read(self, count: int, at: int) -> bytes:
        """At most `count` bytes from offset `at` of the records; b"" only at the end (or behind damage)."""

    def identity(self) -> Identity: ...

    def close(self) -> None: ...


class PlainFile:
    """A file of records as they are."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, count: int, at: int) -> bytes:
        return os.pread(self._fd, count, at)

    def identity(self) -> Identity:
        return Identity(os.fstat(self._fd).st_ino, head_of(os.pread(self._fd, HEAD, 0)))

    def close(self) -> None:
        os.close(self._fd)


class _Member(NamedTuple):
    at: int  # in the file
    length: int
    start: int  # of its records
    unpacked: int


class PackedFile:
    """A file that `packing` has compressed: one member is unpacked at a time."""

    def __init__(self, fd: int, members: list[_Member], identity: Identity) -> None:
        self._fd, self._members, self._identity = fd, members, identity
        self._last: tuple[_Member, bytes] | None = None

    def size(self) -> int:
        last = self._members[-1]
        return last.start + last.unpacked

    def read(self, count: int, at: int) -> bytes:
        parts = []
        for member in self._members:
            begin = at - member.start
            if begin >= member.unpacked:
                continue
            if begin < 0 or count <= 0:
                break
            part = self._unpack(member)[begin : begin + count]
            if not part:
                break  # damaged
            parts.append(part)
            at += len(part)
            count -= len(part)
        return b"".join(parts)

    def _unpack(self, member: _Member) -> bytes:
        if self._last is None or self._last[0] is not member:
            try:
                packed = os.pread(self._fd, member.length, member.at)
                data = zlib.decompress(packed[HEADER.size : -8], -zlib.MAX_WBITS, member.unpacked)
            except zlib.error:
                data = b""
            self._last = (member, data)
        return self._last[1]

    def identity(self) -> Identity:
        return self._identity

    def close(self) -> None:
        os.close(self._fd)


def open_file(path: str) -> LogFile:
    """The file at `path`, compressed if its name ends in .gz. OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not path.endswith(".gz"):
        return PlainFile(fd)
    try:
        return _open_packed(fd)
    except BaseException:
        os.close(fd)
        raise


def _open_packed(fd: int) -> LogFile:
    members: list[_Member] = []
    identity = Identity(0, 0)
    at = start = 0
    while len(header := os.pread(fd, HEADER.size, at)) == HEADER.size:
        magic, _, flags, *_, mark, _, length, unpacked, inode, head = HEADER.unpack(header)
        if magic != MAGIC or not flags & 4 or mark != MARK or length <= HEADER.size:
            break
        identity = Identity(inode, head)
        members.append(_Member(at, length, start, unpacked))
        at += length
        start += unpacked
    if members:
        return PackedFile(fd, members, identity)
    return _unpack_foreign(fd)


def _unpack_foreign(fd: int) -> LogFile:
    """A gzip file that somebody else has made, unpacked into a file without a name. Its damaged end is left out."""
    with tempfile.TemporaryFile() as target:
        inflate = zlib.decompressobj(31)
        at = 0
        while data := os.pread(fd, _STEP, at):
            at += len(data)
            while data:
                try:
                    target.write(inflate.decompress(data))
                except zlib.error:
                    at = 1 << 62
                    break
                data = inflate.unused_data
                if inflate.eof:
                    inflate = zlib.decompressobj(31)
        target.flush()
        os.close(fd)
        return PlainFile(os.dup(target.fileno()))


def open_all(path: str) -> list[LogFile]:
    """All files of the log at `path`, oldest first, each once, whatever is renamed meanwhile."""
    for attempt in range(_TRIES):
        files = _open_newest_first(path)
        try:
            unchanged = not files or os.stat(path).st_ino == files[0].identity().inode
        except OSError:
            unchanged = False  # a rotation is under way
        if unchanged or attempt == _TRIES - 1:
            break
        close_all(files)
    files.reverse()
    return files


def _open_newest_first(path: str) -> list[LogFile]:
    """Names move towards greater numbers: in this order no file can be missed, only met twice."""
    files: list[LogFile] = []
    seen: set[Identity] = set()
    for number in (0, *_numbers(path)):
        found = _open_number(path, number)
        if found is None:
            continue
        identity = found.identity()
        if identity in seen:
            found.close()
            continue
        seen.add(identity)
        files.append(found)
    return files


def _open_number(path: str, number: int) -> LogFile | None:
    plain = f"{path}.{number}"
    names = [plain, f"{plain}.gz", plain] if number else [path]  # again: it was moved here meanwhile
    for name in names:
        try:
            return open_file(name)
        except OSError:
            continue
    return None


def _numbers(path: str) -> list[int]:
    """Numbers of the rotated files, and the one that a rotation may just be making."""
    directory, base = os.path.split(path)
    numbers = set()
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    for name in names:
        head, _, number = name.removesuffix(".gz").rpartition(".")
        if head == base and number.isascii() and number.isdigit():
            numbers.add(int(number))
    return sorted(numbers | {max(numbers, default=0) + 1})


def open_newer_than(path: str, identity: Identity) -> list[LogFile]:
    """The files behind the one with this identity, oldest first; all of them when it is gone."""
    files = open_all(path)
    identities = [file.identity() for file in files]
    if identity in identities:
        cut = identities.index(identity) + 1
        close_all(files[:cut])
        files = files[cut:]
    return files


def close_all(files: list[LogFile]) -> None:
    for file in files:
        file.close()
