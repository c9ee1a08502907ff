"""Several layers become one: `--squash`.

Owns: the worker function `squash`. Does not own: which layers, the image's history (`engine.builds.output`).

What the layers change of what lies beneath them is found by comparing the two merged trees: what is there no more gets
a whiteout, what one of the layers has is linked out of it, directories that none of them touches are not looked into.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any

from dockyard.model.errors import SystemFailure
from dockyard.proto.tarread import show
from dockyard.store.commit import seal
from dockyard.store.copytree import copy_entry
from dockyard.store.layertree import allowed_xattr
from dockyard.store.mergedtree import Found, MergedTree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def squash(
    *, fds: Sequence[int], root: str, recipe: str, layers: Sequence[str], base: Sequence[str], whole: bool = False
) -> dict[str, Any]:
    """Worker: make the layer `root` (empty) and its recipe of `layers`, topmost first, which lie on `base`.

    `whole`: trees that have everything (not overlay): then there is one of each, compared file by file. As
    `store.commit.seal` otherwise.
    """
    with MergedTree([*layers] if whole else [*layers, *base]) as after, MergedTree(base) as before:
        new = _differs(before, after) if whole else lambda found: found.layer < len(layers)
        touched = (lambda path: True) if whole else (lambda path: after.parts(path)[0] < len(layers))
        squasher = _Squasher(root, after, before, new, touched)
        try:
            squasher.run()
        except OSError as error:
            raise SystemFailure(f"squashing {show(squasher.at)}: {error.strerror}") from error
    return seal(fds=(), tree=root, recipe=recipe, overlay=True)


def _differs(before: MergedTree, after: MergedTree) -> Callable[[Found], bool]:
    def differs(found: Found) -> bool:
        old = before.lookup(found.path)
        if old is None:
            return True
        now, then = found.status, old.status
        same = (now.st_mode, now.st_uid, now.st_gid, now.st_rdev) == (
            then.st_mode,
            then.st_uid,
            then.st_gid,
            then.st_rdev,
        )
        if found.is_directory:
            return not same
        if found.is_symlink and same:
            return after.read_link(found) != before.read_link(old)
        return not same or (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns)

    return differs


class _Squasher:
    def __init__(
        self,
        root: str,
        after: MergedTree,
        before: MergedTree,
        is_new: Callable[[Found], bool],
        is_touched: Callable[[bytes], bool],
    ) -> None:
        self._root = root
        self._after = after
        self._before = before
        self._is_new = is_new
        self._is_touched = is_touched
        self.at = b""

    def run(self) -> None:
        top = self._after.root()
        waiting = [b""] if top is not None else []
        times: list[tuple[bytes, os.stat_result]] = []
        while waiting:
            path = waiting.pop()
            fd = os.open(os.fsencode(self._root) + b"/" + path, _DIRECTORY)  # made by us alone, no link in it
            try:
                waiting += self._directory(path, fd)
            finally:
                os.close(fd)
            found = self._after.lookup(path)
            if found is not None:
                times.append((path, found.status))
        for path, status in reversed(times):
            place = os.fsencode(self._root) + b"/" + path
            os.chown(place, status.st_uid, status.st_gid)
            os.chmod(place, stat.S_IMODE(status.st_mode))
            os.utime(place, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def _directory(self, path: bytes, fd: int) -> list[bytes]:
        """What the layers change in one directory; the directories in it that are to be gone into."""
        inner: list[bytes] = []
        names = self._after.names(path)
        old = self._before.lookup(path)
        if old is not None and old.is_directory and old.path == path:
            for name in set(self._before.names(path)) - set(names):
                os.mknod(name, stat.S_IFCHR | 0o600, 0, dir_fd=fd)
        for name in names:
            self.at = path + b"/" + name if path else name
            found = self._after.child(path, name)
            if found is None:
                continue
            if not found.is_directory:
                if self._is_new(found):
                    self._link(found, fd, name)
                continue
            if self._is_new(found) or self._is_touched(self.at):
                os.mkdir(name, 0o700, dir_fd=fd)
                self._copy_xattrs(found, fd, name)
                inner.append(self.at)
        return inner

    def _link(self, found: Found, fd: int, name: bytes) -> None:
        directory, old = self._after.place(found)
        if stat.S_ISSOCK(found.status.st_mode):
            return
        try:
            os.link(old, name, src_dir_fd=directory, dst_dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EMLINK):
                raise
            copy_entry(old, directory, name, fd)

    def _copy_xattrs(self, found: Found, fd: int, name: bytes) -> None:
        opened = self._after.open(found)
        try:
            keys = [key for key in os.listxattr(opened) if allowed_xattr(os.fsencode(key))]
            for key in keys:
                os.setxattr(b"/proc/self/fd/%d/%s" % (fd, name), key, os.getxattr(opened, key), follow_symlinks=False)
        finally:
            os.close(opened)
