"""Volumes: directories with a name that outlive containers, and their records.

Owns: `Volumes`: making and removing them, which there are, filling a new one, what a kill left of any of that. Does not
own: who uses a volume (`engine.named_volumes`), what a container's start and end mean for it
(`engine.container_volumes`).

A volume is `volumes/NAME/_data` and a row; the row is the truth, but a directory that has content nobody meant to drop
is never swept for the lack of one. The directory's mode says what a killed daemon was about to do:

    0700, no row   being made, or its row has just gone: swept at the next start, unless a container's row names it
    0700, row      made, the mark not yet taken away; or its removal was cut before the row went: stays
    0701, no row   of a version that kept no rows, or the database is older than it: gets a row
    row, nothing   somebody took the directory away: made anew, empty, when it is next used

Named volumes are written when they are made; anonymous ones with the row of the container that they belong to, in one
transaction. Filling: `store.copyup`.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from dockyard.model.errors import InvalidArgument, NotFound, SystemFailure
from dockyard.model.mounts import check_volume_name
from dockyard.proto import volumeopts
from dockyard.runtime.volume_mounts import mounted_below
from dockyard.store import copyup, measuring, quotas
from dockyard.store.inline import Call
from dockyard.store.layout import Layout
from dockyard.store.volumes import VolumeRow, VolumeStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANONYMOUS: Final = "com.docker.volume.anonymous"  # the label by which Docker tells them
KEPT: Final = 0o701
DOUBTFUL: Final = 0o700
_FILL: Final = "dockyard.store.copyup:fill"
_MOUNT: Final = "dockyard.runtime.volume_mounts:mount"
_UNMOUNT: Final = "dockyard.runtime.volume_mounts:unmount"
_HEX: Final = frozenset("0123456789abcdef")


class Volume:
    """A volume that exists. `path`: what containers mount."""

    __slots__ = ("path", "row")

    def __init__(self, row: VolumeRow, path: str) -> None:
        self.row = row
        self.path = path

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def created_at(self) -> int:
        """ns since the epoch."""
        return self.row.created_at

    @property
    def labels(self) -> dict[str, str] | None:
        return self.row.labels

    @property
    def options(self) -> dict[str, str] | None:
        return self.row.options

    @property
    def is_mount(self) -> bool:
        """Whether it is mounted while containers use it (type, device), and not a directory of its own."""
        return volumeopts.mount_of(self.row.options) is not None


class Volumes:
    """The volumes of the local driver. For the event loop's thread."""

    def __init__(self, layout: Layout, store: VolumeStore, call: Call, clock: Callable[[], int]) -> None:
        self._layout = layout
        self._store = store
        self._call = call
        self._clock = clock
        self._known: dict[str, Volume] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()  # who holds or waits for each lock
        self._claims: Counter[str] = Counter()
        self._users: dict[str, set[str]] = {}  # of volumes that are mounts: ids of running containers

    def is_there(self, volume: Volume) -> bool:
        """Whether its directory is; one that is only a mount needs none."""
        return volume.is_mount or os.path.isdir(volume.path)

    # --- which there are -----------------------------------------------------------------------------------------

    async def open(self, used: Collection[str], running: Mapping[str, Collection[str]]) -> None:
        """Read the records and bring directories and mounts in line with them. Call once.

        `used`: names in containers' rows; `running`: volume name → ids of running containers that have it.
        """
        self._known = {row.name: self._volume(row) for row in await self._store.load()}
        self._users = {name: set(ids) for name, ids in running.items() if self._is_mount(name)}
        await self._unmount_unused()
        found = []
        for name in os.listdir(self._layout.volumes):
            row = self._reconcile(name, name in used)
            if row is not None:
                found.append(row)
        if found:
            await self._store.insert(found)
            self._known |= {row.name: self._volume(row) for row in found}

    async def _unmount_unused(self) -> None:
        for point in mounted_below(str(self._layout.volumes)):
            name = point.removeprefix(f"{self._layout.volumes}/").partition("/")[0]
            if not self._users.get(name):
                await self._call(_UNMOUNT, {"path": point})

    def _is_mount(self, name: str) -> bool:
        return name in self._known and self._known[name].is_mount

    def _reconcile(self, name: str, used: bool) -> VolumeRow | None:
        """One directory that was found; a row to be written for it if it has none and stays."""
        directory = self._layout.volume(name)
        status = os.stat(directory, follow_symlinks=False)
        known = self._known.get(name)
        if known is None and status.st_mode & 0o777 == DOUBTFUL and not used:
            self._discard(name)
            return None
        os.chmod(directory, KEPT)
        if known is None or not known.is_mount:
            copyup.recover(str(directory), str(directory / "_data"))
        if known is not None:
            return None
        return VolumeRow(name, status.st_mtime_ns, anonymous=len(name) == 64 and set(name) <= _HEX)

    def _volume(self, row: VolumeRow) -> Volume:
        return Volume(row, str(self._layout.volume(row.name) / "_data"))

    def find(self, name: str) -> Volume | None:
        return self._known.get(name)

    def get(self, name: str) -> Volume:
        """NotFound "get NAME: no such volume"."""
        found = self._known.get(name)
        if found is None:
            raise NotFound(f"get {name}: no such volume")
        return found

    def list(self) -> Sequence[Volume]:
        """All of them, by name."""
        return [self._known[name] for name in sorted(self._known)]

    # --- using them ----------------------------------------------------------------------------------------------

    @contextmanager
    def claim(self, names: Iterable[str]) -> Iterator[None]:
        """These belong to a container that is being made: `claimed` until its row is there."""
        held = Counter(names)
        self._claims.update(held)
        try:
            yield
        finally:
            self._claims.subtract(held)
            self._claims += Counter()

    def claimed(self, name: str) -> bool:
        return self._claims[name] > 0

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Nobody else makes, fills, mounts or removes the volume meanwhile."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._waiting[name] += 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name], self._locks[name]

    # --- making --------------------------------------------------------------------------------------------------

    @staticmethod
    def check_driver(driver: str) -> None:
        """NotFound for another than "local"."""
        if driver not in ("", "local"):
            raise NotFound(f'error looking up volume plugin {driver}: plugin "{driver}" not found')

    async def make(
        self, name: str, options: dict[str, str] | None = None, labels: dict[str, str] | None = None
    ) -> tuple[Volume, bool]:
        """The volume of that name, made if there is none; whether it is new. "" gives it a name of its own.

        InvalidArgument for a bad name or options; one that exists keeps its own options and labels, as with Docker.
        """
        anonymous = not name
        if anonymous:
            labels = {**(labels or {}), ANONYMOUS: ""}
        name = name or secrets.token_hex(32)
        check_volume_name(name)
        self._check_options(name, options)
        async with self.alone(name):
            known = self._known.get(name)
            if known is not None:
                self._ensure(known)
                return known, False
            row = VolumeRow(name, self._clock(), labels, options, anonymous)
            volume = self._make(row)
            try:
                await self._store.insert([row])
            except BaseException:
                self._discard(name)
                raise
            self.keep([volume])
            return volume, True

    def begin(self, options: dict[str, str] | None = None, labels: dict[str, str] | None = None) -> Volume:
        """An anonymous volume whose row is still to be written, with its container's: then comes `keep`, or `drop`."""
        name = secrets.token_hex(32)
        self._check_options(name, options)
        return self._make(VolumeRow(name, self._clock(), {**(labels or {}), ANONYMOUS: ""}, options, anonymous=True))

    def keep(self, volumes: Iterable[Volume]) -> None:
        """Their rows are written."""
        for volume in volumes:
            self._known[volume.name] = volume
            self._mark([volume.name], KEPT)

    def drop(self, volumes: Iterable[Volume]) -> None:
        """Their rows will not be written."""
        for volume in volumes:
            self._discard(volume.name)

    def _check_options(self, name: str, options: dict[str, str] | None) -> None:
        try:
            volumeopts.check(options)
        except InvalidArgument as error:
            raise InvalidArgument(f"create {name}: {error}") from None
        if volumeopts.size(options) and not quotas.supported(self._layout.volumes):
            raise InvalidArgument(f"create {name}: quota size requested but no quota support")

    def _make(self, row: VolumeRow) -> Volume:
        directory = self._layout.volume(row.name)
        try:
            directory.mkdir(mode=DOUBTFUL)
            os.chmod(directory, DOUBTFUL)
            data = directory / "_data"
            data.mkdir(mode=0o755)
            if size := volumeopts.size(row.options):
                quotas.limit([directory, data], size)
        except FileExistsError:
            raise SystemFailure(f"volume {row.name}: there is a directory of that name already") from None
        except OSError as error:
            self._discard(row.name)
            raise SystemFailure(f"volume {row.name}: {error.strerror}: {error.filename}") from error
        return self._volume(row)

    def remake(self) -> None:
        """After a power loss: what is missing had not been on disk yet, and was as good as empty."""
        for volume in self._known.values():
            with suppress(SystemFailure):  # then its use says so
                self._ensure(volume)

    def _ensure(self, volume: Volume) -> None:
        """Make a directory that somebody took away anew."""
        if os.path.isdir(volume.path):
            return
        try:
            os.makedirs(os.path.dirname(volume.path), KEPT, exist_ok=True)
            os.makedirs(volume.path, 0o755, exist_ok=True)
        except OSError as error:
            raise SystemFailure(f"volume {volume.name}: {error.strerror}: {error.filename}") from error

    def _mark(self, names: Iterable[str], mode: int) -> None:
        for name in names:
            try:
                os.chmod(self._layout.volume(name), mode)
            except FileNotFoundError:
                continue

    # --- filling ---------------------------------------------------------------------------------------------------

    async def fill(self, volume: Volume, layers: Sequence[str], path: str, *, seen: bool) -> None:
        """Let an empty volume have what an image has at `path`, with owner and mode; any other stays as it is.

        `layers`: trees, topmost first. `seen`: a running container has it. InvalidArgument where the image has a file.
        """
        async with self.alone(volume.name):
            self._ensure(volume)
            if not copyup.is_empty(volume.path):
                return
            try:
                found = copyup.look(layers, path)
                if found is not None and found.is_directory and found.empty:
                    os.chown(volume.path, found.uid, found.gid)
                    os.chmod(volume.path, found.mode)
            except OSError as error:
                raise SystemFailure(f"volume {volume.name}: {error.strerror}") from error
            if found is None:
                return
            if not found.is_directory:
                raise InvalidArgument(f"cannot mount volume over existing file, file exists {path}")
            if not found.empty:
                inside = volume.is_mount
                place = volume.path if inside else os.path.dirname(volume.path)
                swap = not inside and not seen
                wanted = {"layers": list(layers), "path": path, "place": place, "data": volume.path, "swap": swap}
                await self._call(_FILL, wanted)

    # --- mounting ----------------------------------------------------------------------------------------------------

    async def attach(self, volume: Volume, container_id: str) -> bool:
        """A container is about to start with it: mount it if it is a mount and is not there yet; whether it was not.

        SystemFailure in Docker's words.
        """
        wanted = volumeopts.mount_of(volume.options)
        async with self.alone(volume.name):
            self._ensure(volume)
            if wanted is None:
                return False
            users = self._users.setdefault(volume.name, set())
            fresh = not users and volume.path not in mounted_below(str(self._layout.volumes))
            if fresh:
                await self._mount(volume, wanted)
                copyup.recover(volume.path, volume.path)
            users.add(container_id)
            return fresh

    async def _mount(self, volume: Volume, wanted: volumeopts.VolumeMount) -> None:
        where = f"error while mounting volume '{volume.path}': "
        if not wanted.device:
            raise SystemFailure(f"{where}missing device in volume options")
        if wanted.host:
            wanted = volumeopts.with_address(wanted, await _address(wanted.host, where))
        arguments = {"device": wanted.device, "path": volume.path, "kind": wanted.kind, "options": wanted.options}
        await self._call(_MOUNT, arguments)

    async def detach(self, name: str, container_id: str) -> None:
        """A container has ended: unmount what only it had. Fine for one that is no mount."""
        users = self._users.get(name)
        if users is None:
            return
        async with self.alone(name):
            users.discard(container_id)
            if not users:
                self._users.pop(name, None)
                await self._call(_UNMOUNT, {"path": str(self._layout.volume(name) / "_data")})

    # --- removing ----------------------------------------------------------------------------------------------------

    def doubt(self, names: Iterable[str]) -> None:
        """Their rows are about to go, and they with them: then comes `forget`, or `undoubt`."""
        self._mark(names, DOUBTFUL)

    def undoubt(self, names: Iterable[str]) -> None:
        self._mark(names, KEPT)

    def forget(self, names: Iterable[str]) -> None:
        """Their rows have gone."""
        for name in names:
            volume = self._known.pop(name, None)
            if volume is not None and volume.is_mount and volume.path in mounted_below(str(self._layout.volumes)):
                raise SystemFailure(f"volume {name}: {volume.path} is still mounted: it is left to the next start")
            self._discard(name)

    async def remove(self, name: str, unused: Callable[[], None]) -> None:
        """Take a volume away. `unused()` raises while somebody has it; NotFound "get NAME: no such volume"."""
        async with self.alone(name):
            volume = self.get(name)
            unused()
            if volume.is_mount:
                await self._call(_UNMOUNT, {"path": volume.path})
                unused()
            self.doubt([name])
            try:
                await self._store.delete([name])
            except BaseException:
                self.undoubt([name])
                raise
            self.forget([name])

    def _discard(self, name: str) -> None:
        directory = self._layout.volume(name)
        quotas.release(directory)
        self._layout.discard(directory)

    async def usages(self, volumes: Iterable[Volume]) -> Mapping[str, int]:
        """By name: bytes of the files in each volume; 0 for one that is gone, -1 for one that is a mount of something
        else."""
        wanted = builtins.list(volumes)
        measured = [volume for volume in wanted if not volume.is_mount]
        trees = (measuring.Tree(volume.path) for volume in measured)
        sizes = await measuring.sizes(self._call, trees, len(measured))
        known = {volume.name: max(size, 0) for volume, size in zip(measured, sizes, strict=True)}
        return {volume.name: known.get(volume.name, -1) for volume in wanted}


async def _address(host: str, where: str) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        text = f"{where}error resolving passed in network volume address: lookup {host}: {reason}"
        raise SystemFailure(text) from error
    return str(found[0][4][0])
