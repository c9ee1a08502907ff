"""ADD of a local archive: its entries go where the file itself would have gone.

Owns: finding out whether a file is a tar archive (plain, gzip, bzip2, xz, zstd), and making its entries with a
`Writer`. Does not own: reading tars (`proto.tarread`).

The archive is hostile: names are taken from the destination's root and may not climb above it; links among its
directories are followed within the image (`MergedTree.resolve`), never out of it.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from dockyard.model.errors import InvalidArgument
from dockyard.proto import tarformat as fmt
from dockyard.proto.tarformat import Entry, TarError
from dockyard.proto.tarread import ByteStream, StreamError, TarReader, show
from dockyard.store.bytestream import Source, write_all
from dockyard.store.layertree import allowed_xattr, clean
from dockyard.store.treeview import Found, TreeView

if TYPE_CHECKING:
    from dockyard.store.builds.copying import Writer


def unpack(tree: TreeView, found: Found, writer: Writer, dest: bytes) -> bool:
    """Unpack the file into the directory `dest` of `writer`; False if it is no archive. InvalidArgument if it begins
    like one and is damaged, naming the entry."""
    if not stat.S_ISREG(found.status.st_mode) or found.status.st_size == 0:
        return False
    fd = tree.open(found)
    try:
        if not _is_archive(fd, found.status.st_size):
            return False
        with Source(fd, offset=0, length=found.status.st_size, limit=writer.free_space(), hash_out=False) as source:
            _Unarchiver(writer, dest).run(TarReader(ByteStream(iter(source))))
    except (TarError, StreamError) as error:
        raise InvalidArgument(f"archive {show(found.path)}: {error}") from error
    finally:
        os.close(fd)
    return True


def _is_archive(fd: int, size: int) -> bool:
    """Whether its first (decompressed) block is a tar's: as Docker tells."""
    try:
        with Source(fd, offset=0, length=size, hash_out=False) as source:
            first = b""
            for chunk in source:
                first += chunk
                if len(first) >= fmt.BLOCK:
                    break
    except (StreamError, OSError):
        return False
    if len(first) < fmt.BLOCK:
        return False
    try:
        return first[: fmt.BLOCK] != fmt.ZERO_BLOCK and bool(fmt.parse_header(first[: fmt.BLOCK]))
    except TarError:
        return False


class _Unarchiver:
    def __init__(self, writer: Writer, dest: bytes) -> None:
        self._writer = writer
        self._dest = dest
        self._made: dict[bytes, bytes] = {}  # name in the archive -> where it lies

    def run(self, reader: TarReader) -> None:
        self._writer.make_directories(self._dest)
        while (entry := reader.next()) is not None:
            name = clean(entry.name)
            if name:
                self._entry(entry, name, reader)
        reader.finish()

    def _entry(self, entry: Entry, name: bytes, reader: TarReader) -> None:
        writer = self._writer
        joined = self._dest + b"/" + name if self._dest else name
        head, _, base = joined.rpartition(b"/")
        head = writer.view.resolve(head)
        path = head + b"/" + base if head else base
        writer.make_directories(head)
        if entry.kind == fmt.DIRECTORY:
            existing = writer.view.lookup(path)
            if existing is None or existing.is_directory:
                writer.directory(path, _status(entry), overwrite=True)
            return
        if entry.kind == fmt.HARDLINK:
            target = self._made.get(clean(entry.link))
            if target is None:
                raise TarError(f"entry {show(name)}: its target {show(entry.link)} is not in the archive")
            parent, base = writer.place(path)
            source, source_name = writer.where(target)
            os.link(source_name, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        else:
            self._leaf(entry, path, reader)
        self._made[name] = path

    def _leaf(self, entry: Entry, path: bytes, reader: TarReader) -> None:
        parent, base = self._writer.place(path)
        owner = (entry.uid, entry.gid) if self._writer.keep_owners else self._writer.owner
        moment = self._writer.clamped(entry.mtime_ns)
        if entry.kind == fmt.FILE:
            fd = os.open(base, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                         dir_fd=parent)  # fmt: skip
            try:
                if entry.size:
                    reader.payload(write_all(fd))
                os.fchown(fd, *owner)
                os.fchmod(fd, self._writer.changed(entry.mode))
                for key, value in (entry.xattrs or {}).items():
                    if allowed_xattr(key):
                        os.setxattr(fd, key, value)
                os.utime(fd, ns=(moment, moment))
            finally:
                os.close(fd)
            return
        if entry.kind == fmt.SYMLINK:
            os.symlink(entry.link, base, dir_fd=parent)
        else:
            kinds = {fmt.CHARACTER: stat.S_IFCHR, fmt.BLOCK_DEVICE: stat.S_IFBLK, fmt.FIFO: stat.S_IFIFO}
            if entry.kind not in kinds:
                raise TarError(f"entries of type {entry.kind!r} are not supported")
            device = 0 if entry.kind == fmt.FIFO else os.makedev(entry.major, entry.minor)
            if entry.kind == fmt.CHARACTER and device == 0:
                raise TarError(f"entry {show(path)}: a device 0:0 means a whiteout")
            os.mknod(base, kinds[entry.kind] | 0o600, device, dir_fd=parent)
            os.chmod(base, self._writer.changed(entry.mode), dir_fd=parent)
        os.chown(base, *owner, dir_fd=parent, follow_symlinks=False)
        os.utime(base, ns=(moment, moment), dir_fd=parent, follow_symlinks=False)


def _status(entry: Entry) -> os.stat_result:
    """What a directory is to be like, in the form in which the writer takes it from a real one."""
    seconds = entry.mtime_ns / 1e9
    basic = (entry.mode | stat.S_IFDIR, 0, 0, 1, entry.uid, entry.gid, 0, int(seconds), int(seconds), int(seconds))
    return os.stat_result(basic)
