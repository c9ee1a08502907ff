"""What all trees can be asked that builds read files from: layers on top of each other, a context in a spool.

Owns: `TreeView`: walking paths with links followed within the root. Does not own: where the entries are
(`store.mergedtree`, `store.builds.spool`).
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Final, NamedTuple, Self

MAX_LINKS: Final = 40


class Found(NamedTuple):
    """What is at a path. `layer`: index of the layer that has it (for a directory: the topmost that does).
    `path`: where it really is, relative to the root, no symbolic link on the way (but perhaps itself)."""

    path: bytes
    status: os.stat_result
    layer: int = 0

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.status.st_mode)


class TreeView(ABC):
    """A tree that is looked at. Use in `with`. OSError as the calls give them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Give descriptors back."""

    @abstractmethod
    def root(self) -> Found | None: ...

    @abstractmethod
    def child(self, path: bytes, name: bytes) -> Found | None:
        """One entry of the directory that really is at `path`."""

    @abstractmethod
    def names(self, path: bytes) -> list[bytes]:
        """Names in the directory that really is at `path` (of a `Found`), sorted."""

    @abstractmethod
    def read_link(self, found: Found) -> bytes: ...

    @abstractmethod
    def open(self, found: Found) -> int:
        """A descriptor of a regular file (or, of layers, a directory), for reading."""

    def content(self, found: Found) -> bytes | None:
        """A small file's content where that needs no descriptor."""
        return None

    def digest(self, found: Found) -> bytes | None:
        """The digest of a regular file (content and attributes, `selecting.file_digest`), where it is known."""
        return None

    @abstractmethod
    def link_source(self, found: Found) -> tuple[int, bytes] | None:
        """(descriptor of a directory, name in it) that a hard link to the file may be made from; None: there is none.
        The descriptor stays the tree's."""

    @abstractmethod
    def xattrs(self, found: Found) -> dict[bytes, bytes]:
        """Extended attributes of a file or directory, whatever they are."""

    # --- paths -----------------------------------------------------------------------------------------------------

    def resolve(self, path: bytes, *, follow: bool = True) -> bytes:
        """Where `path` leads from the root, symbolic links followed (the last too if `follow`); what of it does not
        exist stays as it is. `..` at the root stays there. OSError ELOOP."""
        waiting = [part for part in path.split(b"/") if part not in (b"", b".")][::-1]
        at: list[bytes] = []
        links = 0
        while waiting:
            name = waiting.pop()
            if name == b"..":
                if at:
                    at.pop()
                continue
            found = self.child(b"/".join(at), name)
            if found is not None and found.is_symlink and (waiting or follow):
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = self.read_link(found)
                if target.startswith(b"/"):
                    at = []
                waiting += [part for part in target.split(b"/") if part not in (b"", b".")][::-1]
                continue
            at.append(name)
        return b"/".join(at)

    def lookup(self, path: bytes, *, follow: bool = False) -> Found | None:
        """What is at `path`; links on the way are followed, the last only if `follow`. None: nothing (a circle of
        links leads nowhere, and nothing has a name that cannot be)."""
        if b"\0" in path:
            return None
        try:
            real = self.resolve(path, follow=follow)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                return None
            raise
        if not real:
            return self.root()
        head, _, name = real.rpartition(b"/")
        return self.child(head, name)

    def read(self, path: bytes, limit: int = 1 << 20) -> bytes | None:
        """The content of a small regular file; None if there is none, or it is longer than `limit`."""
        found = self.lookup(path, follow=True)
        if found is None or not stat.S_ISREG(found.status.st_mode) or found.status.st_size > limit:
            return None
        with os.fdopen(self.open(found), "rb") as file:
            return file.read(limit)
