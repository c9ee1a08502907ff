"""Looking into layers without mounting them: what a container on top of them would see.

Owns: `MergedTree`: lookup and listing through a stack of layer directories as overlayfs merges them (whiteouts, opaque
directories), symbolic links followed within the root. Does not own: changing anything, how layers come to be.

The layers are hostile. Names are opened one component at a time, by descriptor and without following, so that no link
leads anywhere but to what this module looks up from the root again; at most 40 of them, as the kernel allows.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from dockyard.store.layertree import OPAQUE_XATTR
from dockyard.store.treeview import Found, TreeView

__all__ = ["Found", "MergedTree"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 256  # directories whose descriptors are kept


class _Part(NamedTuple):
    layer: int
    fd: int


class MergedTree(TreeView):
    """`layers`: directories, topmost first; none: an empty root. Use in `with`. OSError as the calls give them."""

    def __init__(self, layers: Sequence[str | bytes]) -> None:
        self.layers = [os.fsencode(layer) for layer in layers]
        self._directories: dict[bytes, list[_Part]] = {}
        self._open_root()

    def _open_root(self) -> None:
        parts: list[_Part] = []
        for index, layer in enumerate(self.layers):
            fd = os.open(layer, _DIRECTORY)
            parts.append(_Part(index, fd))
            if _is_opaque(fd):
                break
        self._directories[b""] = parts

    def close(self) -> None:
        for parts in self._directories.values():
            _close(parts)
        self._directories.clear()

    # --- asking ----------------------------------------------------------------------------------------------------

    def root(self) -> Found | None:
        parts = self._directories[b""]
        return Found(b"", os.fstat(parts[0].fd), parts[0].layer) if parts else None

    def names(self, path: bytes) -> list[bytes]:
        """Names in the directory that really is at `path` (of a `Found`), sorted."""
        seen: set[bytes] = set()
        hidden: set[bytes] = set()
        for part in self._directory(path) or ():
            mine = [os.fsencode(name) for name in os.listdir(part.fd)]
            for name in mine:
                if name in seen or name in hidden:
                    continue
                if _is_whiteout(os.stat(name, dir_fd=part.fd, follow_symlinks=False)):
                    hidden.add(name)
                else:
                    seen.add(name)
        return sorted(seen)

    def child(self, path: bytes, name: bytes) -> Found | None:
        """One entry of the directory that really is at `path`."""
        return self._entry(path, name)

    def open(self, found: Found) -> int:
        """A descriptor of a regular file or directory, for reading."""
        parent, name = self._place(found)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name or b".", flags, dir_fd=parent)

    def read_link(self, found: Found) -> bytes:
        parent, name = self._place(found)
        return os.readlink(name, dir_fd=parent)

    def place(self, found: Found) -> tuple[int, bytes]:
        """(descriptor of the directory in which it lies, in its own layer; its name there). The descriptor is ours."""
        return self._place(found)

    def parts(self, path: bytes) -> list[int]:
        """Indices of the layers whose directories make up the one that really is at `path`, topmost first."""
        return [part.layer for part in self._directory(path) or ()]

    def forget(self, path: bytes) -> None:
        """The topmost layer has got a directory at the real `path`: what is known of it no longer holds."""
        _close(self._directories.pop(path, ()))

    def link_source(self, found: Found) -> tuple[int, bytes] | None:
        return self._place(found)

    def xattrs(self, found: Found) -> dict[bytes, bytes]:
        fd = self.open(found)
        try:
            return {os.fsencode(key): os.getxattr(fd, key) for key in os.listxattr(fd)}
        finally:
            os.close(fd)

    # --- directories -----------------------------------------------------------------------------------------------

    def _place(self, found: Found) -> tuple[int, bytes]:
        head, _, name = found.path.rpartition(b"/")
        for part in self._directory(head) or ():
            if part.layer == found.layer:
                return part.fd, name
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), found.path)

    def _entry(self, directory: bytes, name: bytes) -> Found | None:
        parts = self._directory(directory)
        for part in parts or ():
            try:
                status = os.stat(name, dir_fd=part.fd, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if _is_whiteout(status):
                return None
            return Found(directory + b"/" + name if directory else name, status, part.layer)
        return None

    def _directory(self, path: bytes) -> list[_Part] | None:
        """The layers' parts of the directory that really is at `path`; None if it is none."""
        known = self._directories.get(path)
        if known is not None:
            return known
        head, _, name = path.rpartition(b"/")
        above = self._directory(head)
        if above is None:
            return None
        parts = self._descend(above, name)
        if not parts:
            return None
        if len(self._directories) >= _KEPT:
            self._forget(path)
        self._directories[path] = parts
        return parts

    @staticmethod
    def _descend(above: Sequence[_Part], name: bytes) -> list[_Part]:
        parts: list[_Part] = []
        for part in above:
            try:
                status = os.stat(name, dir_fd=part.fd, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not stat.S_ISDIR(status.st_mode):
                break  # a whiteout, or a file: what lies below it is hidden
            fd = os.open(name, _DIRECTORY, dir_fd=part.fd)
            parts.append(_Part(part.layer, fd))
            if _is_opaque(fd):
                break
        return parts

    def _forget(self, path: bytes) -> None:
        """Make room: what is not above `path` goes."""
        for known in list(self._directories):
            if known and not path.startswith(known + b"/"):
                _close(self._directories.pop(known))


def _close(parts: Sequence[_Part]) -> None:
    for part in parts:
        os.close(part.fd)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE_XATTR) == b"y"
    except OSError:
        return False
