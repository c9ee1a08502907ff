"""What lies on disk of a log that is sent away: `<data-root>/shipping/<container>/`.

Owns: `settings.json` (written by the daemon at each start of the container), `place` (how far it has been sent; written
by the shipper), `removed` (the container is gone: to be taken away when all is sent). The log itself is written by the
monitor, as `<container>-local.log` and its rotated files.
Does not own: what is done with it (`shipping`).
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Final

import msgspec

from dockyard.proto.logformats import Source
from dockyard.store.journal.files import Identity
from dockyard.store.journal.tape import Place

KEPT: Final = 24 * 3600  # seconds that what is left of a removed container waits for its receiver
KEPT_BYTES: Final = 1 << 30  # of all removed containers together
_WIDTH: Final = 63  # bytes of a place: one write, that no kill can tear


class Spool:
    """One container's. Blocking."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.id = self.directory.name

    @property
    def log_path(self) -> str:
        return f"{self.directory}/{self.id}-local.log"

    # --- the daemon's part ---

    def prepare(self, settings: Source) -> None:
        """Before a start of the container. OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.directory / "settings.new"
        temporary.write_bytes(msgspec.json.encode(settings))
        os.replace(temporary, self.directory / "settings.json")

    def remove(self) -> bool:
        """The container is gone; what is not sent yet stays until it is. False if there is no spool."""
        try:
            (self.directory / "removed").touch()
        except OSError:
            return False
        return True

    # --- the shipper's part ---

    def settings(self) -> Source | None:
        """None if there are none that make sense."""
        try:
            return msgspec.json.decode((self.directory / "settings.json").read_bytes(), type=Source)
        except (OSError, msgspec.MsgspecError):
            return None

    @property
    def removed_at(self) -> float:
        """When the container was removed (s since the epoch); 0: it is there."""
        try:
            return os.stat(self.directory / "removed").st_mtime
        except OSError:
            return 0.0

    def bytes(self) -> int:
        total = 0
        try:
            for entry in os.scandir(self.directory):
                total += entry.stat().st_size
        except OSError:
            pass
        return total

    def read_place(self) -> Place | None:
        """How far it has been sent; None: nothing, or nobody knows."""
        try:
            inode, head, offset = (int(word) for word in (self.directory / "place").read_text().split())
        except (OSError, ValueError):
            return None
        return Place(Identity(inode, head), offset)

    def write_place(self, place: Place) -> None:
        """OSError. Not forced to disk: after a power loss something may be sent twice."""
        text = f"{place.file.inode} {place.file.head} {place.offset}".ljust(_WIDTH) + "\n"
        fd = os.open(self.directory / "place", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, text.encode(), 0)
        finally:
            os.close(fd)

    def destroy(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def spools(root: str | os.PathLike[str]) -> list[Spool]:
    """All of them, in no order."""
    try:
        return [Spool(entry.path) for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def sweep(root: str | os.PathLike[str]) -> list[str]:
    """Take away what is left of removed containers and has waited too long, or is too much; their ids."""
    removed = [(since, one) for one in spools(root) if (since := one.removed_at)]
    removed.sort(key=lambda pair: -pair[0])  # the youngest first
    total, gone = 0, []
    for since, spool in removed:
        total += spool.bytes()
        if total > KEPT_BYTES or time.time() - since > KEPT:
            spool.destroy()
            gone.append(spool.id)
    return gone
