"""A build context as it is kept: an index, small files one after another in one file, large ones by themselves.

Owns: `SpoolTree` (the index, looked at as a tree) and its form on disk; `SpoolWriter` (filled from a tar, entry by
entry). Does not own: reading the tar (`store.builds.context`), making files of it (`store.builds.copying`).

    <directory>/index    the entries (msgpack)
    <directory>/spool    the contents of small files
    <directory>/big/N    a file of 256 KiB and more, with its mode and time: layers hard-link it

A context of twenty thousand files is two files here: no inode is made until a step copies them, and none at all when
every step is cached. Names are hostile, but nothing is made under them: they are keys.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from dockyard.model.errors import InvalidArgument
from dockyard.proto import tarformat as fmt
from dockyard.proto.dockerignore import Ignore
from dockyard.proto.tarformat import Entry, TarError
from dockyard.store.bytestream import write_all
from dockyard.store.layertree import allowed_xattr, clean
from dockyard.store.treeview import Found, TreeView

BIG: Final = 256 << 10  # bytes from which on a file lies by itself
MAX_ENTRIES: Final = 1_000_000
_KINDS: Final = {
    fmt.FILE: stat.S_IFREG, fmt.DIRECTORY: stat.S_IFDIR, fmt.SYMLINK: stat.S_IFLNK, fmt.FIFO: stat.S_IFIFO,
}  # fmt: skip


class Item(Struct, array_like=True):
    """One entry. `place`: offset in the spool; of a large file -1 - N."""

    mode: int  # with the type
    mtime: int = 0  # ns
    size: int = 0
    place: int = 0
    link: bytes = b""
    digest: bytes = b""
    xattrs: dict[bytes, bytes] | None = None


class SpoolTree(TreeView):
    """A context. Everything belongs to root. Immutable but for `keep`."""

    def __init__(self, directory: str, items: dict[bytes, Item], spool: int) -> None:
        """`spool`: a descriptor of its file, taken over."""
        self.directory = directory
        self.items = items
        self._spool = spool
        self._big = -1
        self._saved = True
        self._children: dict[bytes, list[bytes]] = {}
        self._list()

    def _list(self) -> None:
        children: dict[bytes, list[bytes]] = {b"": []}
        for path, item in self.items.items():
            if stat.S_ISDIR(item.mode):
                children.setdefault(path, [])
        for path in self.items:
            head, _, name = path.rpartition(b"/")
            children[head].append(name)
        for names in children.values():
            names.sort()
        self._children = children

    @classmethod
    def load(cls, directory: str) -> SpoolTree:
        """What lies in `directory`. OSError."""
        with open(f"{directory}/index", "rb") as file:
            raw = msgspec.msgpack.decode(file.read(), type=list[tuple[bytes, Item]])
        return cls(directory, dict(raw), os.open(f"{directory}/spool", os.O_RDONLY | os.O_CLOEXEC))

    def save(self) -> None:
        """Write the index, if it has changed, for processes that load it."""
        if not self._saved:
            write_index(self.directory, self.items)
            self._saved = True

    def close(self) -> None:
        """A tree may be used several times in `with`: `dispose` ends it."""

    def dispose(self) -> None:
        """Give the descriptors back. It is of no use any more."""
        for fd in (self._spool, self._big):
            if fd >= 0:
                os.close(fd)
        self._spool = self._big = -1

    def __del__(self) -> None:
        self.dispose()

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Drop every file of which `wanted` does not want the path, and directories that nothing is left of."""
        gone = {p for p, item in self.items.items() if not stat.S_ISDIR(item.mode) and not wanted(os.fsdecode(p))}
        for path in sorted(self.items, key=lambda path: -path.count(b"/")):
            if stat.S_ISDIR(self.items[path].mode) and not wanted(os.fsdecode(path)):
                names = self._children.get(path, [])
                if all(path + b"/" + name in gone for name in names):
                    gone.add(path)
        if gone:
            self.items = {path: item for path, item in self.items.items() if path not in gone}
            self._list()
            self._saved = False

    def excluding(self, ignore: Ignore) -> None:
        """`keep` what an ignore file leaves."""
        self.keep(lambda path: not ignore.excluded(path))

    # --- as a tree -------------------------------------------------------------------------------------------------

    def root(self) -> Found | None:
        return Found(b"", _status(Item(stat.S_IFDIR | 0o755)))

    def child(self, path: bytes, name: bytes) -> Found | None:
        full = path + b"/" + name if path else name
        item = self.items.get(full)
        return Found(full, _status(item)) if item is not None else None

    def names(self, path: bytes) -> list[bytes]:
        return self._children.get(path, [])

    def read_link(self, found: Found) -> bytes:
        return self.items[found.path].link

    def open(self, found: Found) -> int:
        item = self.items[found.path]
        if item.place < 0:
            return os.open(self._name(item), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory())
        fd = os.memfd_create("dockyard-file", os.MFD_CLOEXEC)
        write_all(fd)(memoryview(self.content(found) or b""))
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def content(self, found: Found) -> bytes | None:
        item = self.items[found.path]
        if item.place < 0:
            return None
        data = os.pread(self._spool, item.size, item.place) if item.size else b""
        if len(data) != item.size:
            raise OSError(5, "the build context is damaged")
        return data

    def digest(self, found: Found) -> bytes | None:
        return self.items[found.path].digest or None

    def link_source(self, found: Found) -> tuple[int, bytes] | None:
        item = self.items[found.path]
        return (self._directory(), self._name(item)) if item.place < 0 and item.xattrs is None else None

    def xattrs(self, found: Found) -> dict[bytes, bytes]:
        return self.items[found.path].xattrs or {} if found.path else {}

    def _directory(self) -> int:
        if self._big < 0:
            self._big = os.open(f"{self.directory}/big", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._big

    @staticmethod
    def _name(item: Item) -> bytes:
        return b"%d" % (-1 - item.place)


def write_index(directory: str, items: dict[bytes, Item]) -> None:
    """Make or replace the index of a spool."""
    with open(f"{directory}/index", "wb", opener=lambda p, f: os.open(p, f | os.O_CLOEXEC, 0o600)) as file:
        file.write(msgspec.msgpack.encode(list(items.items())))


def _status(item: Item) -> os.stat_result:
    seconds, inode = item.mtime // 1_000_000_000, -item.place if item.place < 0 else 0
    moment = item.mtime / 1e9
    nlink = 1
    return os.stat_result((
        item.mode, inode, -1 if inode else 0, nlink, 0, 0, item.size, seconds, seconds, seconds,
        moment, moment, moment, item.mtime, item.mtime, item.mtime, 4096, 0, 0,
    ))  # fmt: skip


class SpoolWriter:
    """Takes entries of a tar. Later ones of the same name replace earlier ones, as in a directory they would."""

    def __init__(self, directory: str, latest: int | None = None) -> None:
        """`directory`: exists and is empty. `latest`: ns; nothing is younger."""
        self._directory = directory
        self._latest = latest
        os.mkdir(f"{directory}/big", 0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._spool = os.open(f"{directory}/spool", flags, 0o600)
        self._write = write_all(self._spool)
        self._pending: list[bytes] = []
        self._pending_size = self._offset = self._number = 0
        self._view = _Growing()
        self.size = 0

    @property
    def items(self) -> dict[bytes, Item]:
        return self._view.items

    def close(self) -> None:
        os.close(self._spool)

    def finish(self) -> None:
        """Write what is still in memory, and the index."""
        self._flush()
        write_index(self._directory, self.items)

    def add(self, entry: Entry, payload: Callable[[Callable[[memoryview], object]], object]) -> None:
        """Take an entry; `payload(write)` hands its content to `write`. TarError for what cannot be in a context."""
        path = self._place(clean(entry.name))
        if not path:
            return
        if entry.kind == fmt.HARDLINK:
            target = self._view.items.get(self._place(clean(entry.link)))
            if target is None or stat.S_ISDIR(target.mode):
                raise TarError(f"its target {entry.link[:200]!r} is not in the archive")
            self._put(path, target)
            return
        kind = _KINDS.get(entry.kind)
        if kind is None:
            raise TarError("devices cannot be in a build context")
        moment = entry.mtime_ns if self._latest is None else min(entry.mtime_ns, self._latest)
        item = Item(kind | entry.mode & 0o7777, moment)
        if entry.kind == fmt.SYMLINK:
            if not entry.link:
                raise TarError("a symbolic link to nothing")
            item.mode, item.link = kind | 0o777, entry.link
        elif entry.kind == fmt.FILE:
            self._content(item, entry, payload)
        self._put(path, item)

    def _place(self, path: bytes) -> bytes:
        """Where the entry really lies: its directory's links followed, missing directories made."""
        if not path:
            return b""
        if any(len(part) > 255 for part in path.split(b"/")) or len(path) > 4095:
            raise TarError("its name is too long")
        head, _, name = path.rpartition(b"/")
        if head and not self._view.is_directory(head):
            try:
                head = self._view.resolve(head)
            except OSError:
                raise TarError("its directory is a loop of symbolic links") from None
            done = b""
            for part in head.split(b"/") if head else ():
                done = done + b"/" + part if done else part
                there = self._view.items.get(done)
                if there is None:
                    self._put(done, Item(stat.S_IFDIR | 0o755, self._latest or 0))
                elif not stat.S_ISDIR(there.mode):
                    raise TarError("what should be its directory is something else")
        return head + b"/" + name if head else name

    def _put(self, path: bytes, item: Item) -> None:
        items = self._view.items
        old = items.get(path)
        if old is not None and stat.S_ISDIR(old.mode) and not stat.S_ISDIR(item.mode):
            for below in [p for p in items if p.startswith(path + b"/")]:
                del items[below]
        items[path] = item
        if len(items) > MAX_ENTRIES:
            raise InvalidArgument(f"build context: more than {MAX_ENTRIES} files")

    def _content(self, item: Item, entry: Entry, payload: Callable[[Callable[[memoryview], object]], object]) -> None:
        item.size = entry.size
        self.size += entry.size
        hasher = hashlib.sha256()
        if entry.size >= BIG:
            self._number += 1
            item.place = -1 - self._number
            self._large(item, payload, hasher)
        elif entry.size:
            parts: list[bytes] = []
            payload(lambda view: parts.append(bytes(view)))
            data = b"".join(parts)
            hasher.update(data)
            item.place = self._offset
            self._offset += len(data)
            self._pending.append(data)
            self._pending_size += len(data)
            if self._pending_size > 1 << 20:
                self._flush()
        kept = {key: value for key, value in (entry.xattrs or {}).items() if allowed_xattr(key)}
        for key in sorted(kept):
            hasher.update(b"\0" + key + b"\0" + kept[key])
        item.xattrs = kept or None
        item.digest = hasher.digest()

    def _large(
        self, item: Item, payload: Callable[[Callable[[memoryview], object]], object], hasher: hashlib._Hash
    ) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(f"{self._directory}/big/{self._number}", flags, 0o600)
        try:
            write = write_all(fd)

            def both(view: memoryview) -> None:
                hasher.update(view)
                write(view)

            payload(both)
            os.fchmod(fd, stat.S_IMODE(item.mode))
            os.utime(fd, ns=(item.mtime, item.mtime))
        finally:
            os.close(fd)

    def _flush(self) -> None:
        self._write(memoryview(b"".join(self._pending)))
        self._pending.clear()
        self._pending_size = 0


class _Growing(TreeView):
    """What there is so far, for links on the way to an entry."""

    def __init__(self) -> None:
        self.items: dict[bytes, Item] = {}

    def close(self) -> None:
        pass

    def is_directory(self, path: bytes) -> bool:
        item = self.items.get(path)
        return item is not None and stat.S_ISDIR(item.mode)

    def root(self) -> Found | None:
        return None

    def child(self, path: bytes, name: bytes) -> Found | None:
        full = path + b"/" + name if path else name
        item = self.items.get(full)
        return Found(full, _status(item)) if item is not None else None

    def names(self, path: bytes) -> list[bytes]:
        raise NotImplementedError  # nobody lists it

    def read_link(self, found: Found) -> bytes:
        return self.items[found.path].link

    def open(self, found: Found) -> int:
        raise NotImplementedError

    def link_source(self, found: Found) -> tuple[int, bytes] | None:
        return None

    def xattrs(self, found: Found) -> dict[bytes, bytes]:
        return {}
