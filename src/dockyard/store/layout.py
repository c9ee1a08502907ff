"""Where everything under the data root and the exec root lies.

Owns: every path (as properties of `Layout`), the format version, the locks that keep a second daemon away, and the
trash. Does not own: what the files contain. No other module joins a path onto the data root.
"""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import secrets
import threading
import time
from pathlib import Path

from dockyard.linux.paths import spread_children
from dockyard.model.errors import Conflict, SystemFailure
from dockyard.store.trees import remove_tree

PARTIAL = "partial-"
PARTIAL_DAYS = 3  # how long a broken pull may be gone on with
_TRY_AGAIN = 10.0  # s
FORMAT = 1  # raised when an older program could no longer read the data root


class Layout:
    """The two roots. `open()` before use, `close()` at the end; single-threaded apart from the deleter behind it."""

    def __init__(self, data_root: str | os.PathLike[str], exec_root: str | os.PathLike[str]) -> None:
        self.data_root = Path(os.path.abspath(data_root))
        self.exec_root = Path(os.path.abspath(exec_root))
        self._locks: list[int] = []
        self._deleter: _Deleter | None = None

    # --- the data root -------------------------------------------------------------------------------------------

    @property
    def lock(self) -> Path:
        return self.data_root / "lock"

    @property
    def format(self) -> Path:
        return self.data_root / "format"

    @property
    def database(self) -> Path:
        return self.data_root / "dockyard.db"

    @property
    def blobs(self) -> Path:
        """Verified blobs: blobs/ALGORITHM/HEX."""
        return self.data_root / "content" / "blobs"

    @property
    def ingest(self) -> Path:
        """Temporary files: uploads, blobs before they are verified. `open()` leaves young partial ones only."""
        return self.data_root / "content" / "ingest"

    @property
    def snapshots(self) -> Path:
        """One directory for each snapshot driver."""
        return self.data_root / "snapshots"

    @property
    def containers(self) -> Path:
        return self.data_root / "containers"

    @property
    def volumes(self) -> Path:
        return self.data_root / "volumes"

    @property
    def builds(self) -> Path:
        """What builds keep: contexts/ID while they last, mounts/ID for `RUN --mount=type=cache`."""
        return self.data_root / "builds"

    def build_context(self, context_id: str) -> Path:
        """A received context. Not made here."""
        return self.builds / "contexts" / _component(context_id)

    def build_mount(self, name: str) -> Path:
        """The directory of a cache mount. Not made here."""
        return self.builds / "mounts" / _component(name)

    @property
    def trash(self) -> Path:
        return self.data_root / "trash"

    def partial(self, digest: str) -> Path:
        """The part of a blob that a broken pull has fetched: what its next try goes on from."""
        return self.ingest / (PARTIAL + _component(digest.replace(":", "-")))

    def sweep_partials(self) -> None:
        """Discard the parts of blobs that nobody has gone on with for days."""
        oldest = time.time() - PARTIAL_DAYS * 86_400
        for entry in os.scandir(self.ingest):
            if entry.name.startswith(PARTIAL) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                self.discard(Path(entry.path))

    def container(self, container_id: str) -> Path:
        """A container's durable files: log, hostname, hosts, resolv.conf. Not made here."""
        return self.containers / _component(container_id)

    @property
    def spools(self) -> Path:
        """Logs on their way to receivers elsewhere, also of containers that are gone."""
        return self.data_root / "shipping"

    def spool(self, container_id: str) -> Path:
        return self.spools / _component(container_id)

    def volume(self, name: str) -> Path:
        """A local volume's directory. Not made here."""
        return self.volumes / _component(name)

    # --- the exec root -------------------------------------------------------------------------------------------

    @property
    def run_containers(self) -> Path:
        return self.exec_root / "containers"

    def run_container(self, container_id: str) -> Path:
        """A running container's sockets and state; worthless after a reboot. Not made here."""
        return self.run_containers / _component(container_id)

    # --- life ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the tree, take the lock, check the format, empty ingest/ now and trash/ behind.

        Raises Conflict if another daemon holds the data root or the exec root (named by pid), SystemFailure for a
        format newer than this program (nothing is touched then) or a root that cannot be made.
        """
        try:
            try:
                _directory(self.data_root, 0o711)
                self._take_lock(self.lock, f"data root {self.data_root}")
                self._check_format()
                # what runs below an exec root and is in no database is killed: that of another daemon must not be
                _directory(self.exec_root, 0o711)
                self._take_lock(self.exec_root / "lock", f"exec root {self.exec_root}")
                self._make_tree()
            except BaseException:
                self._drop_locks()
                raise
        except OSError as error:
            raise SystemFailure(f"data root {self.data_root}: {error.strerror}: {error.filename}") from error
        self._deleter = _Deleter(self.trash)
        for entry in os.listdir(self.ingest):
            if not entry.startswith(PARTIAL):
                self.discard(self.ingest / entry)
        self.sweep_partials()

    def close(self) -> None:
        """Let go of the locks. What is still in the trash stays there for the next start. Twice is fine."""
        if self._deleter is not None:
            self._deleter.close()
            self._deleter = None
        self._drop_locks()

    def discard(self, path: Path) -> None:
        """Take `path` away: gone from its place when this returns, deleted behind. Missing is fine.

        The rename is the removal; a crash after it leaves only something in the trash.
        """
        name = f"{path.name[:64]}.{secrets.token_hex(6)}"
        try:
            os.rename(path, self.trash / name)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            _remove_here(path)  # not even for a name in the trash there is room
            return
        if self._deleter is not None:
            self._deleter.add(name)

    def drain(self, timeout: float = 30.0) -> bool:
        """Wait until the trash is empty (tests, `system check`); True if it is. Blocks: not for the event loop."""
        return self._deleter.drain(timeout) if self._deleter is not None else not os.listdir(self.trash)

    def _make_tree(self) -> None:
        _directory(self.data_root / "content", 0o700)
        _directory(self.builds, 0o700)
        kept = (self.builds / "contexts", self.builds / "mounts")
        for path in (self.blobs, self.blobs / "sha256", self.ingest, self.snapshots, self.trash, *kept):
            _directory(path, 0o700)
        for path in (self.containers, self.volumes):
            _directory(path, 0o711)
        self._spread_volumes()
        _directory(self.run_containers, 0o711)

    def _spread_volumes(self) -> None:
        """Filling a volume takes a sixth of the time if it does not lie where another has just been deleted."""
        fd = os.open(self.volumes, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            spread_children(fd)
        finally:
            os.close(fd)

    def _take_lock(self, path: Path, root: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise Conflict(f"{root} is in use by another dockyardd (pid {holder})") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._locks.append(fd)

    def _drop_locks(self) -> None:
        while self._locks:
            os.close(self._locks.pop())

    def _check_format(self) -> None:
        try:
            text = self.format.read_text("ascii").strip()
        except FileNotFoundError:
            write_file(self.format, f"{FORMAT}\n".encode())
            return
        if not text.isdecimal() or int(text) > FORMAT:
            raise SystemFailure(
                f"data root {self.data_root} has format {text!r}; "
                f"this dockyard reads up to {FORMAT} and leaves it as it is"
            )


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file so that it survives: temporary name beside it, fsync, rename, fsync of the directory."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """fsync a directory, so that a rename in it survives power loss."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_here(path: Path) -> None:
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(parent, path.name)
    finally:
        os.close(parent)


def _component(name: str) -> str:
    """A name that is one path component, or ValueError: callers have checked before, this is the last door."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"not a path component: {name!r}")
    return name


def _directory(path: Path, mode: int) -> None:
    """Make a directory with exactly this mode, whatever the umask; tighten one that is there."""
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o7777 != mode:
        path.chmod(mode)


class _Deleter:
    """A thread that deletes what lies in the trash."""

    def __init__(self, trash: Path) -> None:
        self._trash = os.open(trash, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._names: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._idle = threading.Condition()
        self._pending = 0
        self._left: list[str] = []  # could not be deleted (a disk that is full, or read-only): tried again
        self._thread = threading.Thread(target=self._run, name="trash", daemon=True)
        for name in os.listdir(trash):
            self.add(name)
        self._thread.start()

    def add(self, name: str) -> None:
        with self._idle:
            self._pending += 1
        self._names.put(name)

    def drain(self, timeout: float) -> bool:
        with self._idle:
            return self._idle.wait_for(lambda: self._pending == 0, timeout)

    def close(self) -> None:
        self._closing.set()
        self._names.put(None)
        self._thread.join()
        os.close(self._trash)

    def _run(self) -> None:
        while (name := self._next()) is not None and not self._closing.is_set():
            if not self._delete(name):
                self._left.append(name)
            with self._idle:
                self._pending -= 1
                self._idle.notify_all()

    def _next(self) -> str | None:
        """The next name, None at the end."""
        while True:
            try:
                return self._names.get(timeout=_TRY_AGAIN if self._left else None)
            except queue.Empty:
                self._left = [name for name in self._left if not self._delete(name)]

    def _delete(self, name: str) -> bool:
        """False: something of it is still there. The next start tries, too."""
        try:
            remove_tree(self._trash, name, self._closing.is_set)
        except OSError:
            return False
        return True
