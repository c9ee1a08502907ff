"""A directory as a tar, while it is walked: the build context on its way to the daemon.

Owns: the walk (sorted, as `.dockerignore` says), the tar's entries, pieces of a size that suits a socket. Does not own:
the rules of `.dockerignore` (`proto.dockerignore`), which directory is meant and which Dockerfile (`context`).

As docker's client does it: everything belongs to 0:0, symbolic links stay links, files with several names become hard
links, sockets and devices are left out. Only what the daemon can use is sent: no access times, no fractions of seconds.
tarfile takes 60 µs a file; this writer takes 15, of which most is reading the file (20,000 files: 0.3 s, not 1.2 s).
Format: POSIX ustar with pax records (pax(1)) where a name or a size does not fit and for file capabilities.
"""

from __future__ import annotations

import os
import stat

from dockyard.edge.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Protocol

    class Rules(Protocol):
        """`proto.dockerignore.Ignore`."""

        def excluded(self, path: str) -> bool: ...

        def prunable(self, directory: str) -> bool: ...


_PIECE = 1 << 20  # bytes handed on at a time
_SMALL = 1 << 16  # files up to here are read in one go
_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_END = bytes(2 * _BLOCK)
_MAX_SIZE = 1 << 33  # what eleven octal digits hold
_TAIL = b"ustar\x0000".ljust(8 + 32 + 32, b"\0") + b"0000000\x000000000\0"  # magic, no names of owners, no device
_CAPABILITY = "security.capability"
_CONSTANT = sum(_TAIL) + 8 * 32  # the checksum's own field counts as spaces
_REGULAR, _HARD, _SYMBOLIC, _DIRECTORY, _FIFO, _PAX = b"0", b"1", b"2", b"5", b"6", b"x"


class Packer:
    """The tar of one directory. Iterate it once; `files` and `bytes` count what has been packed so far."""

    def __init__(
        self,
        root: str,
        rules: Rules | None = None,
        always: Collection[str] = (),
        extra: dict[str, bytes] | None = None,
    ) -> None:
        """`root` "": nothing but `extra`. `always`: paths that are sent whatever `rules` say. `extra`: files that come
        first and replace what the directory has under their names."""
        self.root = root
        self.rules = rules
        self.always = frozenset(always)
        self.extra = extra or {}
        self.files = 0
        self.bytes = 0
        self._names: dict[tuple[int, int], str] = {}  # files with several names: where the first of them went
        # Directories that hold something of `always`: looked into even if the rules leave them out.
        self._ways = {each[:at] for each in self.always for at, letter in enumerate(each) if letter == "/"}

    def __iter__(self) -> Iterator[bytes]:
        """Pieces of about 1 MiB. CliError naming the file that cannot be read."""
        held: list[bytes] = []
        size = 0
        for part in self._parts():
            held.append(part)
            size += len(part)
            if size >= _PIECE:
                self.bytes += size
                yield b"".join(held)
                held, size = [], 0
        self.bytes += size + len(_END)
        yield b"".join([*held, _END])

    def _parts(self) -> Iterator[bytes]:
        for name, data in self.extra.items():
            yield from _entry(name, 0o644, _REGULAR, size=len(data))
            yield data
            yield _padding(len(data))
            self.files += 1
        if self.root:
            yield from self._directory(self.root, "")

    def _directory(self, path: str, prefix: str) -> Iterator[bytes]:
        for entry in _listed(path):
            name = f"{prefix}{entry.name}"
            if name in self.extra:
                continue
            wanted = self.rules is None or name in self.always or not self.rules.excluded(name)
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # gone since the listing
            if stat.S_ISDIR(status.st_mode):
                if wanted:
                    self.files += 1
                    yield from _entry(name + "/", status.st_mode, _DIRECTORY, mtime=status.st_mtime)
                elif name not in self._ways and self.rules is not None and self.rules.prunable(name):
                    continue
                yield from self._directory(entry.path, name + "/")
            elif wanted:
                yield from self._file(entry.path, name, status)

    def _file(self, path: str, name: str, status: os.stat_result) -> Iterator[bytes]:
        mode, mtime = status.st_mode, status.st_mtime
        if stat.S_ISREG(mode):
            if status.st_nlink > 1:
                first = self._names.setdefault((status.st_dev, status.st_ino), name)
                if first != name:
                    yield from _entry(name, mode, _HARD, link=first, mtime=mtime)
                    return
            yield from _regular(path, name, status)
        elif stat.S_ISLNK(mode):
            try:
                target = os.readlink(path)
            except FileNotFoundError:
                return
            yield from _entry(name, 0o777, _SYMBOLIC, link=target, mtime=mtime)
        elif stat.S_ISFIFO(mode):
            yield from _entry(name, mode, _FIFO, mtime=mtime)
        else:
            return
        self.files += 1


def _listed(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=_name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(path, error) from None


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _regular(path: str, name: str, status: os.stat_result) -> Iterator[bytes]:
    """A file as long as it was when it was looked at. CliError if it has become shorter since."""
    size = status.st_size
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        yield from _entry(name, status.st_mode, _REGULAR, size=size, mtime=status.st_mtime, capability=_capability(fd))
        left = size
        while left:
            data = os.read(fd, min(left, _PIECE))
            if not data:
                raise CliError(f"{path} became shorter while it was being sent: build again when nothing writes to it")
            left -= len(data)
            yield data
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(fd)
    if size % _BLOCK:
        yield _padding(size)


def _unreadable(path: str, error: OSError) -> CliError:
    return CliError(f"error checking context: cannot read {path}: {(error.strerror or str(error)).lower()}")


def _capability(fd: int) -> bytes | None:
    """A program's file capabilities (capabilities(7)): the one extended attribute that docker's contexts carry."""
    try:
        return os.getxattr(fd, _CAPABILITY)
    except OSError:
        return None


def _padding(size: int) -> bytes:
    return _ZEROS[: -size % _BLOCK]


def _entry(
    name: str,
    mode: int,
    kind: bytes,
    *,
    size: int = 0,
    mtime: float = 0,
    link: str = "",
    capability: bytes | None = None,
) -> Iterator[bytes]:
    """One header, behind a pax header where it does not hold everything."""
    path, target = os.fsencode(name), os.fsencode(link)
    records = b""
    if len(path) > 100:
        records += _record(b"path", path)
    if len(target) > 100:
        records += _record(b"linkpath", target)
    if size >= _MAX_SIZE:
        records += _record(b"size", b"%d" % size)
    if not 0 <= mtime < _MAX_SIZE:
        records += _record(b"mtime", b"%d" % mtime)
    if capability is not None:
        records += _record(b"SCHILY.xattr." + _CAPABILITY.encode(), capability)
    if records:
        yield _header(b"pax/" + path[-90:], 0o644, _PAX, len(records), 0, b"")
        yield records
        yield _padding(len(records))
    shown = int(mtime) if 0 <= mtime < _MAX_SIZE else 0
    yield _header(path[:100], mode & 0o7777, kind, size if size < _MAX_SIZE else 0, shown, target[:100])


def _header(path: bytes, mode: int, kind: bytes, size: int, mtime: int, target: bytes) -> bytes:
    numbers = b"%07o\x000000000\x000000000\0%011o\0%011o\0" % (mode, size, mtime)
    # NULs count nothing: only what is written is added up.
    checksum = sum(path) + sum(numbers) + sum(kind) + sum(target) + _CONSTANT
    return b"%b%b%06o\0 %b%b%b" % (path.ljust(100, b"\0"), numbers, checksum, kind, target.ljust(100, b"\0"), _REST)


_REST = _TAIL.ljust(_BLOCK - 257, b"\0")


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %b=%b\n" % (length, key, value)
