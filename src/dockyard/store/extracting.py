"""Writing into a container: a tar that a client sends is unpacked beneath a directory of it.

Owns: the worker function `extract` (`docker cp` in) and how a container's tree differs from a layer in the making:
somebody may change it meanwhile, and what lies there gives way by Docker's rules. Does not own: which tree
(`store.roots`), making the entries (`store.layertree`), reading the archive (`proto.tarread`).

The archive is decompressed here, before anything of it touches the container, by this process alone (S23). A name that
leads out of the directory by `..` is refused; symbolic links on the way lead where they lead the container (S24, S28).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Any, Final

from dockyard.linux import abi, passwd, userns
from dockyard.linux.calls import openat2
from dockyard.model.errors import DockyardError, Forbidden, InvalidArgument, NotFound, SystemFailure
from dockyard.proto import tarformat as fmt
from dockyard.proto.tarformat import Entry, TarError
from dockyard.proto.tarread import ByteStream, StreamError, TarReader, show
from dockyard.store import roots
from dockyard.store.bytestream import Source, write_all
from dockyard.store.layertree import LayerTree, clean
from dockyard.store.trees import remove_tree

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY
_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ONE_MOUNT: Final = abi.RESOLVE_NO_XDEV | abi.RESOLVE_NO_SYMLINKS | abi.RESOLVE_NO_MAGICLINKS
_READ_ONLY_ROOT: Final = "container rootfs is marked read-only"
_READ_ONLY_VOLUME: Final = "mounted volume is marked read-only"


def extract(
    *,
    fds: Sequence[int],
    place: dict[str, Any],
    path: str,
    keep_kinds: bool = False,
    owner: str | None = None,
) -> dict[str, Any]:
    """Worker: unpack the tar in the pipe `fds[0]`, compressed or not, into the directory `path` of a container.

    `keep_kinds`: refuse to replace a directory by anything else, or the other way round. `owner`: everything belongs
    to this user (Docker's "user[:group]") instead of whom the archive says. NotFound "no such file", InvalidArgument,
    Forbidden in Docker's words for what is read-only, SystemFailure naming the entry (a full disk); entries before the
    one that failed stay, of that one nothing does.
    """
    with roots.standing(place) as root:
        where = roots.absolute(os.fsencode(path))
        target = _destination(root, where, path)
        try:
            _check_writable(root, target)
        finally:
            os.close(target)
        tree = _ContainerTree(root, where.strip(b"/"), keep_kinds, _identity(root, owner))
        at = b""
        try:
            with Source(fds[0], hash_out=False) as source:
                reader = TarReader(ByteStream(iter(source)))
                while (entry := reader.next()) is not None:
                    at = entry.name
                    tree.make(entry, reader)
                at = b""
                tree.finish()
                reader.finish()
        except (TarError, StreamError, OSError) as error:
            raise _explained(at, error) from error
        finally:
            tree.close()
    return {}


def _destination(root: int, where: bytes, shown: str) -> int:
    """The directory to unpack into, symbolic links followed."""
    try:
        target = openat2(root, where, os.O_PATH, 0, roots.RESOLVE)
    except NotADirectoryError:
        raise InvalidArgument("extraction point is not a directory") from None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG):
            raise NotFound(f"{shown}: {(error.strerror or '').lower()}") from None
        raise SystemFailure(f"{shown}: {error.strerror}") from error
    if not stat.S_ISDIR(os.fstat(target).st_mode):
        os.close(target)
        raise InvalidArgument("extraction point is not a directory")
    return target


def _check_writable(root: int, target: int) -> None:
    if os.fstatvfs(target).f_flag & os.ST_RDONLY:
        own = os.fstat(target).st_dev == os.fstat(root).st_dev
        raise Forbidden(_READ_ONLY_ROOT if own else _READ_ONLY_VOLUME)


def _identity(root: int, owner: str | None) -> tuple[int, int] | None:
    """The user in the container's own terms: its passwd and group files, read as what they are."""
    if not owner:
        return None
    try:
        user = passwd.resolve_user(
            owner.encode("utf-8", "surrogateescape"), [], lambda: roots.read_small(root, b"/etc/passwd"),
            lambda: roots.read_small(root, b"/etc/group"),
        )  # fmt: skip
    except passwd.LookupFailed as error:
        raise InvalidArgument(str(error)) from None
    return user.uid, user.gid


def _explained(at: bytes, error: Exception) -> DockyardError:
    what = f"entry {show(at)}: " if at else ""
    if not isinstance(error, OSError):
        return InvalidArgument(f"{what}{error}")
    if error.errno == errno.EROFS:
        return Forbidden(f"{what}{_READ_ONLY_VOLUME}")
    text = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EMLINK):
        return InvalidArgument(f"{what}{text}")
    return SystemFailure(f"{what}{text}")


def _mapped(path: str) -> list[range]:
    """The numbers that there are in the user namespace of this process."""
    return [range(each["containerID"], each["containerID"] + each["size"]) for each in userns.read_map(path)]


class _ContainerTree(LayerTree):
    """A directory of a container, to which entries are added. Names are resolved from the container's root."""

    def __init__(self, root: int, prefix: bytes, keep_kinds: bool, owner: tuple[int, int] | None) -> None:
        super().__init__(root, self._give_way)
        self._prefix = prefix
        self._keep_kinds = keep_kinds
        self._owner = owner
        self._ids = [_mapped(f"/proc/self/{name}") for name in ("uid_map", "gid_map")]
        self._checked: set[int] = set()  # devices known to be no file systems of the kernel's own

    def make(self, entry: Entry, reader: TarReader) -> None:
        """Make one entry. TarError, StreamError, OSError; of one that fails nothing is left."""
        name = clean(entry.name)
        if not name:
            return  # the directory itself stays as it is
        path = self._beneath(name)
        if self._owner is not None:
            entry.uid, entry.gid = self._owner
        for number, known in zip((entry.uid, entry.gid), self._ids, strict=True):
            if not any(number in each for each in known):  # before anything gives way to it
                raise TarError(f"Container ID {number} cannot be mapped to a host ID")
        if self._keep_kinds:
            self._check_kind(path, entry.kind == fmt.DIRECTORY)
        if entry.kind == fmt.FILE:
            self._write(entry, path, reader)
        elif entry.kind == fmt.DIRECTORY:
            self.directory(entry, path)
        elif entry.kind == fmt.SYMLINK:
            self.symlink(entry, path)
        elif entry.kind == fmt.HARDLINK:
            entry.link = self._beneath(clean(entry.link))
            self.hardlink(entry, path)
        elif entry.kind in (fmt.CHARACTER, fmt.BLOCK_DEVICE, fmt.FIFO):
            self.special(entry, path)
        else:
            raise TarError(f"entries of type {entry.kind!r} are not supported")

    def _beneath(self, name: bytes) -> bytes:
        return self._prefix + b"/" + name if self._prefix else name

    def _write(self, entry: Entry, path: bytes, reader: TarReader) -> None:
        try:
            fd, _ = self.file(entry, path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            self._write_in_place(path, reader)
            return
        try:
            reader.payload(write_all(fd))
            self.seal(entry, fd)
        except BaseException:
            parent, base, _ = self._place(path)
            os.unlink(base, dir_fd=parent)
            raise
        finally:
            os.close(fd)

    def _write_in_place(self, path: bytes, reader: TarReader) -> None:
        """A file that something is mounted on (/etc/hosts, a bind) cannot be replaced: it gets the new content."""
        parent, base, _ = self._place(path)
        found = os.open(base, _PATH, dir_fd=parent)
        try:
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            fd = roots.reopen(found, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)
        finally:
            os.close(found)
        try:
            reader.payload(write_all(fd))
        finally:
            os.close(fd)

    def _check_kind(self, path: bytes, directory: bool) -> None:
        head, _, base = path.rpartition(b"/")
        try:
            parent = openat2(self._root, head or b".", _DIRECTORY, 0, roots.RESOLVE)
        except OSError:
            return  # it is made, or is told of
        try:
            there = stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return
        finally:
            os.close(parent)
        if there and not directory:
            raise TarError(f"cannot overwrite directory {_go_quote(path)} with non-directory {_go_quote(self._prefix)}")
        if directory and not there:
            raise TarError(f"cannot overwrite non-directory {_go_quote(path)} with directory {_go_quote(self._prefix)}")

    def _parent(self, directory: bytes) -> int:
        fd = super()._parent(directory)
        device = os.fstat(fd).st_dev
        if device not in self._checked:
            if roots.is_kernels_own(fd):
                raise TarError("it would lie on a file system of the kernel's")
            self._checked.add(device)
        return fd

    @staticmethod
    def _give_way(path: bytes, parent: int, base: bytes) -> None:
        """What an entry replaces is gone before it comes. OSError EBUSY if something is mounted there or beneath: this
        process is not in the container's mount namespace, so the kernel would take the mount away with it."""
        _refuse_mounts(parent, base)
        fd = os.open(f"/proc/self/fd/{parent}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(fd, os.fsdecode(base))
        finally:
            os.close(fd)


def _refuse_mounts(parent: int, base: bytes) -> None:
    waiting = [base]
    while waiting:
        path = waiting.pop()
        try:
            fd = openat2(parent, path, _PATH, 0, _ONE_MOUNT)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY)) from None
            continue  # it has gone, or become something else: the removal will see
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                waiting += [path + b"/" + name for name in map(os.fsencode, os.listdir(f"/proc/self/fd/{fd}"))]
        finally:
            os.close(fd)


def _go_quote(path: bytes) -> str:
    return '"/' + path.decode("utf-8", "replace") + '"'
