"""The files of one log as one run of records.

Owns: reading from one file to the next, through rotation, compression and emptying; the place where a reader is, which
outlives it. Does not own: the files and their names (`files`), where to begin (`seek`), what records mean (`records`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dockyard.store.journal.files import Identity, LogFile, close_all, open_all, open_newer_than

_CHUNK: Final = 512 * 1024
_LONGEST: Final = 16 << 20  # a record longer than this is damage


class Place(NamedTuple):
    """Where a reader is: everything before it has been read."""

    file: Identity
    offset: int


class Tape:
    """Blocking, for one thread at a time. `open` before use; `close` at the end."""

    def __init__(self, path: str, chunk: int = _CHUNK) -> None:
        """`chunk`: bytes that `read` takes at once."""
        self._path = path
        self._chunk = self._size = chunk
        self._at = 0  # offset in files[0]
        self._head = 0  # of files[0], once it has a record
        self.files: list[LogFile] = []  # oldest first; the one being read is [0]

    @property
    def exists(self) -> bool:
        return bool(self.files)

    def open(self) -> None:
        """Open all files, at the beginning of the oldest. A log that does not exist has none."""
        self.close()
        self.files = open_all(self._path)

    def close(self) -> None:
        close_all(self.files)
        self.files = []
        self._at = self._head = 0

    def go_to(self, index: int, offset: int) -> None:
        """To an offset in one of the files; older ones count as read."""
        close_all(self.files[:index])
        self.files = self.files[index:]
        self._at, self._head = offset, 0

    def go_back_to(self, place: Place) -> bool:
        """To where an earlier reader was. False, and nothing changes, if that file is gone."""
        for index, file in enumerate(self.files):
            identity = file.identity()
            same = identity == place.file or (not place.file.head and identity.inode == place.file.inode)
            if same and place.offset <= file.size():
                self.go_to(index, place.offset)
                return True
        return False

    @property
    def place(self) -> Place | None:
        """Where we are; None while there is no file."""
        return Place(self.files[0].identity(), self._at) if self.files else None

    def read(self) -> bytes:
        """The next whole records; b"" at the end of all files."""
        while self.files:
            records = self._read()
            if records or len(self.files) == 1:
                return records
            self.go_to(1, 0)
        return b""

    def advance(self) -> bool:
        """At the end of all files: whether there is more after all, because the newest was rotated or emptied."""
        if not self.files:
            self.open()
            return bool(self.files)
        held = self.files[0]
        size, identity = held.size(), held.identity()
        if size < self._at or (self._head and identity.head and identity.head != self._head):
            self._at, self._head = 0, identity.head  # emptied in place
            return True
        self._head = identity.head
        if size > self._at and b"\n" in held.read(size - self._at, self._at):
            return True
        newer = open_newer_than(self._path, identity)
        self.files += newer
        return bool(newer)

    def _read(self) -> bytes:
        """Whole records from where we are in this file."""
        while True:
            data = self.files[0].read(self._size, self._at)
            end = data.rfind(b"\n") + 1
            if end:
                self._at += end
                self._size = self._chunk
                return data if end == len(data) else data[:end]
            if len(data) < self._size:
                return b""  # nothing, or a record that is being written
            if self._size >= _LONGEST:
                self._at += len(data)
            else:
                self._size *= 2
