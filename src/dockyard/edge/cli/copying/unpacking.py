"""A tar that came out of a container becomes files of this host, for `cp`.

Owns: unpacking beneath one directory. What comes out of a container is hostile: nothing is made outside the directory.
Every name is opened component by component, by descriptor and without following symbolic links (S24, S29).
Does not own: which directory (`paths`, `local`), reading the tar (`proto.tarread`).
"""

from __future__ import annotations

import os
import stat

from dockyard.edge.cli.errors import CliError
from dockyard.proto import tarformat as fmt
from dockyard.proto.tarformat import Entry, TarError
from dockyard.proto.tarread import ByteStream, StreamError, TarReader, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(chunks: Iterator[bytes], directory: str, old: str, new: str, owners: bool) -> None:
    """Unpack a tar into `directory`. Names that begin with the component `old` begin with `new` instead, if that is
    not "". `owners`: as the archive says (needs root). CliError naming the entry that cannot be made."""
    try:
        top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CliError(f"open {directory}: {(error.strerror or str(error)).lower()}") from None
    at = b""
    unpacking = _Unpacking(top, directory, owners)
    try:
        reader = TarReader(ByteStream(chunks))
        while (entry := reader.next()) is not None:
            at = entry.name
            entry.name = _renamed(entry.name, os.fsencode(old), os.fsencode(new))
            if entry.kind == fmt.HARDLINK:
                entry.link = _renamed(entry.link, os.fsencode(old), os.fsencode(new))
            unpacking.make(entry, reader)
        at = b""
        unpacking.finish()
        reader.finish()
        if not reader.ended:
            raise StreamError("the archive breaks off")
    except (TarError, StreamError) as error:
        raise CliError(f"{show(at)}: {error}" if at else str(error)) from None
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise CliError(f"{os.path.join(directory, os.fsdecode(at).lstrip('/'))}: {text}") from None
    finally:
        unpacking.close()
        os.close(top)


def _renamed(name: bytes, old: bytes, new: bytes) -> bytes:
    old = b"" if old == b"/" else old
    if not new or not (name == old or name.startswith(old + b"/")):
        return name
    return new + name[len(old) :]


class _Unpacking:
    def __init__(self, top: int, shown: str, owners: bool) -> None:
        self._top = top
        self._shown = shown
        self._owners = owners
        self._parent: tuple[bytes, int] | None = None  # the directory used last
        self._times: list[tuple[bytes, int]] = []

    def close(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def finish(self) -> None:
        """Directories get their times when nothing more is made in them."""
        for path, moment in reversed(self._times):
            head, _, base = path.rpartition(b"/")
            os.utime(base, ns=(moment, moment), dir_fd=self._directory(head), follow_symlinks=False)

    def make(self, entry: Entry, reader: TarReader) -> None:
        path = _clean(entry.name)
        if not path:
            return
        head, _, base = path.rpartition(b"/")
        parent = self._directory(head)
        self._make_room(path, parent, base, entry.kind == fmt.DIRECTORY)
        if entry.kind == fmt.FILE:
            self._file(entry, parent, base, reader)
            return
        if entry.kind == fmt.HARDLINK:
            inside, _, name = _clean(entry.link).rpartition(b"/")
            there = os.dup(self._directory(inside))
            try:
                os.link(name, base, src_dir_fd=there, dst_dir_fd=self._directory(head), follow_symlinks=False)
            finally:
                os.close(there)
            return
        if entry.kind == fmt.DIRECTORY:
            self._make_directory(entry, path, parent, base)
        elif entry.kind == fmt.SYMLINK:
            os.symlink(entry.link, base, dir_fd=parent)
        elif entry.kind in (fmt.CHARACTER, fmt.BLOCK_DEVICE, fmt.FIFO):
            kind = {fmt.CHARACTER: stat.S_IFCHR, fmt.BLOCK_DEVICE: stat.S_IFBLK, fmt.FIFO: stat.S_IFIFO}[entry.kind]
            os.mknod(base, kind | entry.mode, os.makedev(entry.major, entry.minor), dir_fd=parent)
            os.chmod(base, entry.mode, dir_fd=parent)
        else:
            raise TarError(f"entries of type {entry.kind!r} are not supported")
        if self._owners and entry.kind != fmt.DIRECTORY:
            os.chown(base, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind != fmt.DIRECTORY:
            os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _make_directory(self, entry: Entry, path: bytes, parent: int, base: bytes) -> None:
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            pass  # it stays, with its content
        fd = os.open(base, _DIRECTORY, dir_fd=parent)
        try:
            if self._owners:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
        finally:
            os.close(fd)
        self._times.append((path, entry.mtime_ns))

    def _file(self, entry: Entry, parent: int, base: bytes, reader: TarReader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(base, flags, 0o600, dir_fd=parent)
        try:
            reader.payload(_writer(fd))
            if self._owners:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        except BaseException:
            os.unlink(base, dir_fd=parent)
            raise
        finally:
            os.close(fd)

    def _make_room(self, path: bytes, parent: int, base: bytes, directory: bool) -> None:
        try:
            there = stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return
        shown = os.path.join(self._shown, path.decode("utf-8", "replace"))
        if there and not directory:
            raise TarError(f'cannot overwrite directory "{shown}" with non-directory "{self._shown}"')
        if directory and not there:
            raise TarError(f'cannot overwrite non-directory "{shown}" with directory "{self._shown}"')
        if not there:
            os.unlink(base, dir_fd=parent)

    def _directory(self, path: bytes) -> int:
        """A descriptor of a directory beneath the top, made where it is missing."""
        if self._parent is not None and self._parent[0] == path:
            return self._parent[1]
        at = os.dup(self._top)
        try:
            for part in path.split(b"/") if path else ():
                try:
                    deeper = os.open(part, _DIRECTORY, dir_fd=at)
                except FileNotFoundError:
                    os.mkdir(part, 0o755, dir_fd=at)
                    deeper = os.open(part, _DIRECTORY, dir_fd=at)
                os.close(at)
                at = deeper
        except OSError:
            os.close(at)
            raise
        self.close()
        self._parent = (path, at)
        return at


def _writer(fd: int) -> Callable[[memoryview], None]:
    def write(view: memoryview) -> None:
        while view:
            view = view[os.write(fd, view) :]

    return write


def _clean(name: bytes) -> bytes:
    """A name beneath the directory. TarError if it leads out of it."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise TarError("its name leads outside the directory")
    return b"/".join(parts)
