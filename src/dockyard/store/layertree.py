"""Making files beneath one directory out of names that somebody hostile chose.

Owns: `LayerTree`: files, directories, links, devices and whiteouts made from tar entries. Every parent directory is
opened by openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS) from the root's descriptor, so that symbolic links lead where
they would lead a process chrooted there; the last component is never followed. No path is joined.
Does not own: reading the archive (`proto.tarread`).

Nobody else changes the tree meanwhile, so descriptors of parents may be kept; they are dropped whenever something that
lay in the tree is taken away.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable

from dockyard.linux import abi
from dockyard.linux.calls import openat2
from dockyard.proto import tarformat as fmt
from dockyard.proto.tarformat import Entry, TarError
from dockyard.store.trees import remove_tree

OPAQUE_XATTR = b"trusted.overlay.opaque"
RESOLVE = abi.RESOLVE_IN_ROOT | abi.RESOLVE_NO_MAGICLINKS
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 4096  # descriptors of parent directories, at the most


def clean(name: bytes) -> bytes:
    """A name relative to the root, without empty, "." and ".." components; b"" is the root.

    Absolute names are taken from the root, as Docker does; one that climbs above it is refused with TarError.
    """
    if b"/." not in name and b"//" not in name and not name.startswith((b".", b"/")):
        return name.removesuffix(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise TarError("its name leads outside the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


class LayerTree:
    """A directory tree being made. `overlay`: whiteouts become overlayfs's own marks; else they delete (vfs).

    `displaced(path, parent_fd, base)` is called before something that lies in the tree gives way to a later entry of
    the same name; it has to take it away. `path` is where it really lies.
    """

    def __init__(self, root: int, displaced: Callable[[bytes, int, bytes], None], *, overlay: bool = True) -> None:
        self._root = root
        self._root_path = os.readlink(f"/proc/self/fd/{root}".encode())
        self._displaced = displaced
        self._overlay = overlay
        self._umask = umask()
        self._kept = min(_KEPT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._parents: dict[bytes, int] = {}
        self._real: dict[bytes, bytes] = {}
        self._times: dict[bytes, int] = {}
        self._made: set[bytes] = set()  # only without overlay: what an opaque mark must spare
        self.root_attributes: tuple[int, int, int] | None = None  # mode, uid, gid if the archive has the root

    def close(self) -> None:
        self._forget()

    # --- entries -------------------------------------------------------------------------------------------------

    def file(self, entry: Entry, path: bytes) -> tuple[int, bytes]:
        """A new empty file, open for writing, and the path where it really lies. `seal` it afterwards."""
        parent, base, real = self._place(path)
        mode = entry.mode
        try:
            fd = os.open(base, _CREATE, mode, dir_fd=parent)
        except FileExistsError:
            parent = self._clear(path, directory=False)
            fd = os.open(base, _CREATE, mode, dir_fd=parent)
        self._made_it(path)
        return fd, real

    def seal(self, entry: Entry, fd: int) -> None:
        """Give a written file its owner, mode, attributes and time."""
        if entry.uid or entry.gid:
            os.fchown(fd, entry.uid, entry.gid)  # clears set-id bits: the mode comes after it
        if entry.mode & (0o7000 | self._umask):
            os.fchmod(fd, entry.mode)
        if entry.xattrs:
            self._xattrs(entry, fd)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def directory(self, entry: Entry, path: bytes) -> None:
        if not path:
            self._root_entry(entry)
            return
        parent, base, _ = self._place(path)
        try:
            os.mkdir(base, entry.mode & 0o777, dir_fd=parent)
        except FileExistsError:
            parent = self._clear(path, directory=True)
            try:
                os.mkdir(base, entry.mode & 0o777, dir_fd=parent)
            except FileExistsError:
                pass  # a directory stays, with its content
        fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            if entry.xattrs:
                self._xattrs(entry, fd)
        finally:
            os.close(fd)
        self._made_it(path)
        self._times[path] = entry.mtime_ns  # set at the end: every child made changes it

    def symlink(self, entry: Entry, path: bytes) -> None:
        if not entry.link:
            raise TarError("a symbolic link to nothing")
        parent, base, _ = self._place(path)
        try:
            os.symlink(entry.link, base, dir_fd=parent)
        except FileExistsError:
            parent = self._clear(path, directory=False)
            os.symlink(entry.link, base, dir_fd=parent)
        self._made_it(path)
        self._finish_unopened(entry, parent, base)

    def hardlink(self, entry: Entry, path: bytes) -> None:
        """A link to an earlier entry. Its attributes are the target's: they share an inode."""
        target = clean(entry.link)
        if not target:
            raise TarError("a hard link to the root")
        if target == path:
            return
        parent, base, _ = self._place(path)
        try:
            self._link(target, parent, base)
        except FileExistsError:
            parent = self._clear(path, directory=False)
            self._link(target, parent, base)
        self._made_it(path)

    def _link(self, target: bytes, parent: int, base: bytes) -> None:
        head, _, name = target.rpartition(b"/")
        try:
            source = openat2(self._root, head or b".", os.O_PATH | os.O_DIRECTORY, 0, RESOLVE)
        except OSError as error:
            raise TarError(f"its target {target[:200]!r} is not in the archive") from error
        try:
            os.link(name, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as error:
            raise TarError(f"its target {target[:200]!r} is not in the archive") from error
        except PermissionError as error:
            if stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
                raise TarError(f"its target {target[:200]!r} is a directory") from error
            raise
        finally:
            os.close(source)

    def special(self, entry: Entry, path: bytes) -> None:
        """A device node or a FIFO. It is a file like others here: what may open it is up to the container's cgroup."""
        kind = {fmt.CHARACTER: stat.S_IFCHR, fmt.BLOCK_DEVICE: stat.S_IFBLK, fmt.FIFO: stat.S_IFIFO}[entry.kind]
        device = 0 if entry.kind == fmt.FIFO else os.makedev(entry.major, entry.minor)
        parent, base, _ = self._place(path)
        try:
            os.mknod(base, kind | entry.mode & 0o777, device, dir_fd=parent)
        except FileExistsError:
            parent = self._clear(path, directory=False)
            os.mknod(base, kind | entry.mode & 0o777, device, dir_fd=parent)
        self._made_it(path)
        self._finish_unopened(entry, parent, base)
        if entry.mode & (0o7000 | self._umask):
            _chmod(parent, base, entry.mode)

    # --- whiteouts: OCI image-spec, layer.md "Whiteouts" ------------------------------------------------------------

    def whiteout(self, path: bytes) -> None:
        """Hide `path` of the layers below (an overlay's mark is a character device 0/0), or delete it."""
        base = path.rpartition(b"/")[2]
        if base in (b"", b".", b".."):
            raise TarError("a whiteout of no name")
        parent, base, _ = self._place(path)
        if not self._overlay:
            if path not in self._made:
                self._take_away(path)
            return
        try:
            os.mknod(base, stat.S_IFCHR | 0o600, 0, dir_fd=parent)
        except FileExistsError:
            self._take_away(path)
            parent, base, _ = self._place(path)
            os.mknod(base, stat.S_IFCHR | 0o600, 0, dir_fd=parent)

    def opaque(self, directory: bytes) -> None:
        """Hide everything that the layers below have in `directory`."""
        parent = self._parent(directory)
        if self._overlay:
            os.setxattr(f"/proc/self/fd/{parent}", OPAQUE_XATTR, b"y")
            return
        for name in os.listdir(f"/proc/self/fd/{parent}".encode()):
            path = directory + b"/" + name if directory else name
            if path not in self._made:
                self._take_away(path)

    def finish(self) -> None:
        """Set the times of directories, now that nothing is made in them any more."""
        for path, mtime in self._times.items():
            parent, base, _ = self._place(path)
            try:
                os.utime(base, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                pass  # replaced by a later entry
        if not self._overlay:
            self._made.clear()

    # --- places --------------------------------------------------------------------------------------------------

    def _place(self, path: bytes) -> tuple[int, bytes, bytes]:
        """(descriptor of the parent, last component, the path where that really lies)."""
        directory, _, base = path.rpartition(b"/")
        if not base:
            raise TarError("it would replace the root")
        parent = self._parents.get(directory)
        if parent is None:
            parent = self._parent(directory)
        real = self._real[directory]
        return parent, base, real + b"/" + base if real else base

    def _made_it(self, path: bytes) -> None:
        """Remember what this archive made: without overlay it lies among what other layers made."""
        if self._overlay:
            return
        while path and path not in self._made:
            self._made.add(path)
            path = path.rpartition(b"/")[0]

    def _parent(self, directory: bytes) -> int:
        """A descriptor of `directory`, made with everything above it where it is missing."""
        if (known := self._parents.get(directory)) is not None:
            return known
        if len(self._parents) >= self._kept:
            self._forget()
        try:
            fd = self._open(directory)
        except FileNotFoundError:
            self._make_parents(directory)
            fd = self._open(directory)
        self._parents[directory] = fd
        real = os.readlink(f"/proc/self/fd/{fd}".encode())
        self._real[directory] = real[len(self._root_path) + 1 :]
        return fd

    def _open(self, directory: bytes) -> int:
        try:
            return openat2(self._root, directory or b".", os.O_PATH | os.O_DIRECTORY, 0, RESOLVE)
        except OSError as error:
            if error.errno == errno.ENOTDIR:
                raise TarError("what should be its directory is something else") from error
            if error.errno == errno.ELOOP:
                raise TarError("its directory is a loop of symbolic links") from error
            raise

    def _make_parents(self, directory: bytes) -> None:
        parts = directory.split(b"/")
        at = self._open(b"")
        try:
            for depth, part in enumerate(parts, 1):
                try:
                    deeper = self._open(b"/".join(parts[:depth]))
                except FileNotFoundError:
                    try:
                        os.mkdir(part, 0o755, dir_fd=at)
                    except FileExistsError:
                        raise TarError("its directory is a symbolic link to nothing") from None
                    deeper = self._open(b"/".join(parts[:depth]))
                    os.chmod(f"/proc/self/fd/{deeper}", 0o755)
                os.close(at)
                at = deeper
        finally:
            os.close(at)

    def _forget(self) -> None:
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()
        self._real.clear()

    # --- what lies in the way --------------------------------------------------------------------------------------

    def _clear(self, path: bytes, *, directory: bool) -> int:
        """Take away what lies at `path`, but a directory that `directory` asks for. The parent's descriptor, anew."""
        parent, base, _ = self._place(path)
        found = os.stat(base, dir_fd=parent, follow_symlinks=False)
        if directory and stat.S_ISDIR(found.st_mode):
            return parent
        self._take_away(path)
        return self._place(path)[0]

    def _take_away(self, path: bytes) -> None:
        parent, base, real = self._place(path)
        try:
            os.stat(base, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if self._overlay or path in self._made:
            self._displaced(real, parent, base)
        else:  # a copy of what a layer below has
            opened = os.open(f"/proc/self/fd/{parent}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                remove_tree(opened, os.fsdecode(base))
            finally:
                os.close(opened)
        self._forget()

    # --- attributes ------------------------------------------------------------------------------------------------

    def _root_entry(self, entry: Entry) -> None:
        self.root_attributes = (entry.mode, entry.uid, entry.gid)
        os.chown(f"/proc/self/fd/{self._root}", entry.uid, entry.gid)
        os.chmod(f"/proc/self/fd/{self._root}", entry.mode)

    def _finish_unopened(self, entry: Entry, parent: int, base: bytes) -> None:
        if entry.uid or entry.gid:
            os.chown(base, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _xattrs(self, entry: Entry, fd: int) -> None:
        for name, value in (entry.xattrs or {}).items():
            if not allowed_xattr(name):
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                # As Docker: what the file system cannot hold is left out, but never a file's capabilities.
                if error.errno not in (errno.ENOTSUP, errno.EPERM) or name == b"security.capability":
                    raise


def _chmod(parent: int, base: bytes, mode: int) -> None:
    """chmod(2) that follows no symbolic link, should somebody have put one there: AT_SYMLINK_NOFOLLOW needs 6.6."""
    fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def allowed_xattr(name: bytes) -> bool:
    """Attributes that belong to a file's content. trusted.* and user.overlay.* would steer overlayfs from an image."""
    if name.startswith(b"user."):
        return not name.startswith(b"user.overlay.")
    return name in (b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default")


def umask() -> int:
    """The process's umask, read without changing it (other threads create files meanwhile)."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o777
