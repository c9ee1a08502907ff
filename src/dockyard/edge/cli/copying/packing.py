"""A file or tree of this host as a tar, owners and all, for `cp`.

Owns: the walk and its entries, streamed. Does not own: build contexts, which are another kind of tar
(`edge.cli.building.packing`), the tar format (`proto.tarformat`).
"""

from __future__ import annotations

import os
import stat

from dockyard.edge.cli.errors import CliError
from dockyard.proto import tarformat as fmt
from dockyard.proto.tarformat import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 1 << 18  # bytes
_CAPABILITY = b"security.capability"
_KINDS = {
    stat.S_IFREG: fmt.FILE, stat.S_IFDIR: fmt.DIRECTORY, stat.S_IFLNK: fmt.SYMLINK, stat.S_IFCHR: fmt.CHARACTER,
    stat.S_IFBLK: fmt.BLOCK_DEVICE, stat.S_IFIFO: fmt.FIFO,
}  # fmt: skip


def pack(path: str, name: str) -> Iterator[bytes]:
    """The tar of what lies at `path`, called `name` there, in pieces. CliError naming what cannot be read."""
    held: list[bytes] = []
    size = 0
    for part in _Packing().entries(path, name):
        held.append(part)
        size += len(part)
        if size >= _PIECE:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join([*held, bytes(2 * fmt.BLOCK)])


class _Packing:
    def __init__(self) -> None:
        self._links: dict[tuple[int, int], bytes] = {}  # files with several names: where the first of them went

    def entries(self, path: str, name: str) -> Iterator[bytes]:
        waiting = [(path, name)]
        while waiting:
            path, name = waiting.pop()
            try:
                found = os.lstat(path)
                if stat.S_ISDIR(found.st_mode):
                    yield fmt.make_header(_entry(os.fsencode(name) + b"/", found))
                    inside = sorted(os.listdir(path), reverse=True)
                    waiting += [(os.path.join(path, each), f"{name}/{each}") for each in inside]
                elif not stat.S_ISSOCK(found.st_mode):
                    yield from self._leaf(path, os.fsencode(name), found)
            except OSError as error:
                raise CliError(f"{path}: {(error.strerror or str(error)).lower()}") from None

    def _leaf(self, path: str, name: bytes, found: os.stat_result) -> Iterator[bytes]:
        entry = _entry(name, found)
        if found.st_nlink > 1:
            first = self._links.setdefault((found.st_dev, found.st_ino), name)
            if first != name:
                entry.kind, entry.link = fmt.HARDLINK, first
                yield fmt.make_header(entry)
                return
        if entry.kind == fmt.SYMLINK:
            entry.link = os.fsencode(os.readlink(path))
        elif entry.kind in (fmt.CHARACTER, fmt.BLOCK_DEVICE):
            entry.major, entry.minor = os.major(found.st_rdev), os.minor(found.st_rdev)
        elif entry.kind == fmt.FILE:
            yield from _file(path, entry)
            return
        yield fmt.make_header(entry)


def _entry(name: bytes, found: os.stat_result) -> Entry:
    kind = _KINDS[stat.S_IFMT(found.st_mode)]
    return Entry(name, kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, 0, found.st_mtime_ns)


def _file(path: str, entry: Entry) -> Iterator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        entry.size = left = os.fstat(fd).st_size
        try:
            entry.xattrs = {_CAPABILITY: os.getxattr(fd, _CAPABILITY)}
        except OSError:
            pass  # it has none
        yield fmt.make_header(entry)
        while left:
            data = os.read(fd, min(left, _PIECE))
            if not data:
                raise CliError(f"{path} became shorter while it was being copied")
            left -= len(data)
            yield data
        yield fmt.padding(entry.size)
    finally:
        os.close(fd)
