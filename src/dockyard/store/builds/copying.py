"""COPY and ADD: chosen files of trees become a layer.

Owns: the worker function `copy`: where each source goes (Docker's rules for files, directories, trailing slashes,
--parents), owners and modes, and making it beneath a layer's directory. Does not own: which files a source means
(`store.builds.selecting`), archives (`store.builds.unarchive`), the layer's row.

Nothing is mounted. The destination is looked up in the layers beneath (`MergedTree`), links followed within the root;
what is made is made in the new layer alone, by descriptors of directories that this module has opened itself. A file
that keeps its owner, mode and attributes is hard-linked out of its context or layer: nobody writes to either again.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Any

from dockyard.linux.passwd import LookupFailed, resolve_user
from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.proto.dockerfile import modes
from dockyard.proto.tarread import show
from dockyard.store.builds import unarchive
from dockyard.store.builds.selecting import Excluder, Source, choose, matching, open_source, pivoted, walk
from dockyard.store.bytestream import write_all
from dockyard.store.commit import seal
from dockyard.store.copytree import copy_content
from dockyard.store.layertree import allowed_xattr, umask
from dockyard.store.mergedtree import MergedTree
from dockyard.store.treeview import Found, TreeView

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy(
    *,
    fds: Sequence[int],
    root: str,
    recipe: str,
    base: Sequence[str],
    sources: Sequence[dict[str, Any]],
    dest: str,
    dest_directory: bool = False,
    chown: str = "",
    chmod: str = "",
    parents: bool = False,
    excludes: Sequence[str] = (),
    epoch: int | None = None,
    users: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Worker: make the layer `root` (empty, beneath it the trees `base`, topmost first) and its `recipe`.

    A source is {"trees": [...], "path", "pattern", "pivot", "unpack"} or {"name", "content", "mode"} (a
    here-document). `users`: trees in which names of `chown` are looked up, by default `base`. Returns what
    `store.commit.seal` does. NotFound for a source that is not there, InvalidArgument for what cannot be,
    SystemFailure naming the file.
    """
    with MergedTree([root, *base]) as view:
        owner = _owner(chown, base if users is None else users)
        writer = Writer(root, view, owner, chmod, epoch, keep_owners=not chown)
        try:
            placer = _Placer(writer, dest, dest_directory=dest_directory, excludes=excludes, parents=parents)
            for source in sources:
                placer.add(source)
            writer.finish()
        except OSError as error:
            raise SystemFailure(f"copying {show(writer.at)}: {error.strerror}") from error
        finally:
            writer.close()
    return seal(fds=(), tree=root, recipe=recipe, overlay=True, epoch=epoch)


def make_directory(
    *, fds: Sequence[int], root: str, recipe: str, base: Sequence[str], path: str, user: str = "",
    epoch: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Worker: WORKDIR. The layer `root` gets the directory and those above it as far as they are missing, 0755, owned
    by `user`. As `copy` otherwise."""
    with MergedTree([root, *base]) as view:
        writer = Writer(root, view, _owner(user, base), "", epoch)
        try:
            writer.make_missing(view.resolve(os.fsencode(path), follow=True))
            writer.finish()
        except OSError as error:
            raise SystemFailure(f"making {show(writer.at)}: {error.strerror}") from error
        finally:
            writer.close()
    return seal(fds=(), tree=root, recipe=recipe, overlay=True, epoch=epoch)


def _owner(chown: str, trees: Sequence[str]) -> tuple[int, int]:
    """(uid, gid) of a --chown. InvalidArgument in Docker's words for a name that the image has not."""
    if not chown:
        return 0, 0
    user, colon, group = chown.partition(":")
    spec = os.fsencode(f"{user}:{group}" if colon and group else user)
    with MergedTree(trees) as image:
        try:
            found = resolve_user(
                spec, (), lambda: image.read(b"etc/passwd") or b"", lambda: image.read(b"etc/group") or b""
            )
        except LookupFailed as error:
            raise InvalidArgument(f"chown {chown}: {error}") from error
    number = user.isdecimal() and not group
    return found.uid, found.uid if number and not _has_entry(found.uid, trees) else found.gid


def _has_entry(uid: int, trees: Sequence[str]) -> bool:
    """Whether the image's passwd knows the number: its group counts then. Else a lone UID is the GID, too (Docker)."""
    with MergedTree(trees) as image:
        lines = (image.read(b"etc/passwd") or b"").split(b"\n")
    return any(line.split(b":")[2:3] == [b"%d" % uid] for line in lines)


class Writer:
    """Makes files in a layer's directory. Paths are real ones (`MergedTree.resolve`), relative to the root."""

    def __init__(
        self,
        root: str,
        view: MergedTree,
        owner: tuple[int, int],
        mode: str,
        epoch: int | None,
        *,
        keep_owners: bool = False,
        link: bool = True,
    ) -> None:
        """`view`: the layer and what lies beneath it. `keep_owners`: what is copied
        keeps its owner, `owner` is for what is not copied. `link`: files may share an inode with their source."""
        self.view = view
        self.owner = owner
        self.keep_owners = keep_owners
        self._may_link = link
        self.mode = mode
        self.at = b"/"
        self._latest = epoch * 1_000_000_000 if epoch is not None else None
        self.now = time.time_ns() if self._latest is None else self._latest
        self._root = os.open(root, _DIRECTORY)
        self._open: dict[bytes, int] = {b"": self._root}
        self._times: dict[bytes, int] = {}
        self._umask = umask()
        self._linked: set[tuple[int, int]] = set()
        beneath = MergedTree(view.layers[1:])
        with beneath:
            if (below := beneath.root()) is not None:
                _take_attributes(self._root, below.status)
                self._times[b""] = below.status.st_mtime_ns

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)

    def finish(self) -> None:
        """Give directories the times they should have: everything made in them changed these."""
        for path, moment in sorted(self._times.items(), reverse=True):
            fd = self._directory(path)
            os.utime(fd, ns=(moment, moment))

    # --- directories -----------------------------------------------------------------------------------------------

    def make_directories(self, path: bytes) -> int:
        """A descriptor (ours) of the directory that really is at `path` in the layer; what is missing is made 0755,
        owned as asked. InvalidArgument if something else is in the way."""
        done = b""
        for name in path.split(b"/") if path else ():
            done = done + b"/" + name if done else name
            self.directory(done, None)
        return self._directory(path)

    def make_missing(self, path: bytes) -> None:
        """As `make_directories`, but nothing at all if it is there."""
        found = self.view.lookup(path)
        if found is None or not found.is_directory:
            self.make_directories(path)

    def directory(self, path: bytes, model: os.stat_result | None, *, overwrite: bool = False) -> bool:
        """Have the directory `path`, whose parent is there. Made like `model` (None: 0755, root's, or the owner's that
        was asked for); whether it was made. One that is there keeps its attributes unless `overwrite`."""
        self.at = path
        found = self.view.lookup(path)
        if found is not None and not found.is_directory:
            raise InvalidArgument(f"cannot copy to non-directory: {show(b'/' + path)}")
        head, _, name = path.rpartition(b"/")
        if found is None or found.layer != 0:
            parent = self._parent(head)
            os.mkdir(name, 0o700, dir_fd=parent)
            self.view.forget(path)
            fd = self._directory(path)
            if found is not None:
                _take_attributes(fd, found.status)
                self._copy_xattrs(found, fd)
                self._times[path] = found.status.st_mtime_ns
        if found is None or overwrite:
            fd = self._directory(path)
            kept = self.keep_owners and model is not None
            os.fchown(fd, *((model.st_uid, model.st_gid) if kept and model else self.owner))
            permissions = stat.S_IMODE(model.st_mode) if model is not None else 0o755
            os.fchmod(fd, self.changed(permissions, directory=True) if model else permissions)
            self._times[path] = self.clamped(model.st_mtime_ns) if model is not None else self.now
        return found is None

    def _parent(self, path: bytes) -> int:
        """The directory `path` in the layer itself, copied up from beneath if need be."""
        if path and path not in self._open:
            head = path.rpartition(b"/")[0]
            self._parent(head)
            self.directory(path, None)
        return self._directory(path)

    def _directory(self, path: bytes) -> int:
        fd = self._open.get(path)
        if fd is None:
            head, _, name = path.rpartition(b"/")
            fd = os.open(name, _DIRECTORY, dir_fd=self._directory(head))
            if len(self._open) > 512:
                for known in [known for known in self._open if known and not path.startswith(known + b"/")]:
                    os.close(self._open.pop(known))
            self._open[path] = fd
        return fd

    # --- files -----------------------------------------------------------------------------------------------------

    def place(self, path: bytes) -> tuple[int, bytes]:
        """(descriptor of the directory, name) for a new file at `path`; what the layer has there is taken away.
        InvalidArgument if a directory is there."""
        self.at = path
        head, _, name = path.rpartition(b"/")
        parent = self._parent(head)
        found = self.view.lookup(path)
        if found is not None and found.is_directory:
            raise InvalidArgument(f"cannot replace to directory {show(b'/' + path)} with file")
        if found is not None and found.layer == 0:
            os.unlink(name, dir_fd=parent)
        return parent, name

    def file(self, path: bytes, tree: TreeView, found: Found) -> None:
        """A copy (or link) of a regular file, link, FIFO or device."""
        parent, name = self.place(path)
        status = found.status
        mode = stat.S_IMODE(status.st_mode)
        wanted = self.changed(mode)
        owner = (status.st_uid, status.st_gid) if self.keep_owners else self.owner
        if stat.S_ISREG(status.st_mode):
            same = self._may_link and wanted == mode and (status.st_uid, status.st_gid) == owner
            if not (same and self._link(tree, found, parent, name)):
                self._copy_file(tree, found, wanted, owner, parent, name)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(tree.read_link(found), name, dir_fd=parent)
        elif stat.S_ISSOCK(status.st_mode):
            return
        else:
            os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev or 0, dir_fd=parent)
            os.chmod(name, wanted, dir_fd=parent)
        os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
        moment = self.clamped(status.st_mtime_ns)
        os.utime(name, ns=(moment, moment), dir_fd=parent, follow_symlinks=False)

    def document(self, path: bytes, content: bytes, mode: int) -> None:
        """A file of a here-document."""
        parent, name = self.place(path)
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            with os.fdopen(os.dup(fd), "wb") as file:
                file.write(content)
            os.fchown(fd, *self.owner)
            os.fchmod(fd, self.changed(mode))
            os.utime(fd, ns=(self.now, self.now))
        finally:
            os.close(fd)

    def _link(self, tree: TreeView, found: Found, parent: int, name: bytes) -> bool:
        source = tree.link_source(found)
        status = found.status
        identity = (status.st_dev, status.st_ino)
        if source is None or identity in self._linked or self.clamped(status.st_mtime_ns) != status.st_mtime_ns:
            return False  # twice in one layer it would become a hard link of the image's
        try:
            os.link(source[1], name, src_dir_fd=source[0], dst_dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM):
                raise
            return False
        self._linked.add(identity)
        return True

    def _copy_file(
        self, tree: TreeView, found: Found, mode: int, owner: tuple[int, int], parent: int, name: bytes
    ) -> None:
        copied = os.open(name, _CREATE, mode & 0o777, dir_fd=parent)
        try:
            content = tree.content(found)
            if content is None:
                self._copy_content(tree, found, copied)
            elif content:
                write_all(copied)(memoryview(content))
            if owner != (0, 0):
                os.fchown(copied, *owner)
            if mode & (0o7000 | self._umask):
                os.fchmod(copied, mode)
            for key, value in tree.xattrs(found).items():
                if allowed_xattr(key):
                    os.setxattr(copied, key, value)
            moment = self.clamped(found.status.st_mtime_ns)
            os.utime(copied, ns=(moment, moment))
        finally:
            os.close(copied)

    @staticmethod
    def _copy_content(tree: TreeView, found: Found, target: int) -> None:
        original = tree.open(found)
        try:
            copy_content(original, target)
        finally:
            os.close(original)

    def _copy_xattrs(self, found: Found, fd: int) -> None:
        for key, value in self.view.xattrs(found).items():
            if allowed_xattr(key):
                os.setxattr(fd, key, value)

    def free_space(self) -> int:
        """Bytes that the layer may still take of its file system."""
        state = os.fstatvfs(self._root)
        return max(state.f_bavail * state.f_frsize - (64 << 20), 0)

    def where(self, path: bytes) -> tuple[int, bytes]:
        """(descriptor of the directory, name) of something that the layer has."""
        head, _, name = path.rpartition(b"/")
        return self._directory(head), name

    def changed(self, mode: int, *, directory: bool = False) -> int:
        """A mode after --chmod."""
        return modes.apply(self.mode, mode, directory=directory) if self.mode else mode

    def clamped(self, moment: int) -> int:
        """A time (ns) that is not after SOURCE_DATE_EPOCH."""
        return moment if self._latest is None else min(moment, self._latest)


class _Placer:
    """Where sources go."""

    def __init__(
        self, writer: Writer, dest: str, *, dest_directory: bool, excludes: Sequence[str], parents: bool
    ) -> None:
        self._writer = writer
        self._view = writer.view
        self._dest = self._view.resolve(os.fsencode(dest), follow=True)
        self._into = dest_directory
        self._excluded = Excluder(excludes)
        self._parents = parents

    def add(self, source: dict[str, Any]) -> None:
        if "content" in source:
            path = self._dest
            if self._into or self._is_directory():
                path = _join(path, os.fsencode(source["name"]))
            self._make_parents(path)
            self._writer.document(path, source["content"].encode("utf-8", "surrogateescape"), source["mode"])
            return
        with open_source(source) as tree:
            if self._parents:
                self._with_parents(tree, source)
                return
            for one in choose(tree, source["path"], pattern=source["pattern"]):
                if one.found.path and self._excluded(one.name):
                    continue
                if source.get("unpack") and unarchive.unpack(tree, one.found, self._writer, self._dest):
                    continue
                self._one(tree, one)

    def _is_directory(self) -> bool:
        found = self._view.lookup(self._dest)
        return found is not None and found.is_directory

    def _make_parents(self, path: bytes) -> None:
        self._writer.make_directories(path.rpartition(b"/")[0])

    def _one(self, tree: TreeView, source: Source) -> None:
        if source.found.is_directory:
            existing = self._view.lookup(self._dest)
            if existing is not None and not existing.is_directory:
                raise InvalidArgument(f"cannot copy to non-directory: {show(b'/' + self._dest)}")
            self._writer.make_directories(self._dest)
            self._tree(tree, source.found, self._dest, self._excluded)
            return
        path = self._dest
        if self._into or self._is_directory():
            self._writer.make_directories(self._dest)
            path = _join(path, source.name)
        self._make_parents(path)
        self._writer.file(path, tree, source.found)

    def _tree(self, tree: TreeView, top: Found, dest: bytes, excluded: Callable[[bytes], bool]) -> None:
        """What lies below `top`, to `dest`; `excluded` judges paths as seen from `top`."""
        for entry in walk(tree, top, excluded):
            if entry.path:
                self._place(tree, entry.found, _join(dest, entry.path))

    def _place(self, tree: TreeView, found: Found, path: bytes) -> None:
        if found.is_directory:
            self._writer.directory(path, found.status, overwrite=True)
        else:
            self._writer.file(path, tree, found)

    # --- with --parents --------------------------------------------------------------------------------------------

    def _with_parents(self, tree: TreeView, source: dict[str, Any]) -> None:
        """Everything below the pivot that the pattern matches, with the directories above it."""
        top, pattern = pivoted(tree, source)
        self._writer.make_directories(self._dest)
        if not pattern:
            self._tree(tree, top, self._dest, self._excluded)
            return
        for inside, found in matching(tree, top, pattern, pattern_allowed=source["pattern"]):
            if self._excluded(inside):
                continue
            self._make_like(tree, top, inside)
            target = _join(self._dest, inside)
            self._place(tree, found, target)
            if found.is_directory:
                self._tree(tree, found, target, self._excluded_below(inside))

    def _excluded_below(self, directory: bytes) -> Callable[[bytes], bool]:
        return lambda path: self._excluded(_join(directory, path))

    def _make_like(self, tree: TreeView, top: Found, inside: bytes) -> None:
        """The directories above `inside`, as the source has them."""
        done = b""
        for name in inside.split(b"/")[:-1]:
            done = _join(done, name)
            found = tree.lookup(_join(top.path, done))
            self._writer.directory(_join(self._dest, done), found.status if found else None)


def _take_attributes(fd: int, status: os.stat_result) -> None:
    os.fchown(fd, status.st_uid, status.st_gid)
    os.fchmod(fd, stat.S_IMODE(status.st_mode))


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
