"""Leases: what a client has made goes when its lease ends, however the client ended.

Owns: which leases there are, when one ends, taking away what belongs to it. Does not own: removing a container, a
network or a volume (their use cases register how, `Leases.own`).

A thing belongs to a lease by its label `dockyard.lease`, which is written in one piece with it: there is no list that
could disagree. A lease ends `ttl` after its creation, its last renewal, the moment at which the last client that held
it went away, or the start of the daemon, whichever is latest; while somebody holds it, it does not. Then its row says
`ending`, so that nothing can be added, everything goes (containers, then networks and volumes), and at last the row. A
daemon that is killed in between goes on with it at its next start. What cannot be removed (a network that a stranger's
container uses) is tried again, ever more slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final, NamedTuple

from dockyard.engine.events import Events
from dockyard.engine.extensions import LEASE
from dockyard.model.errors import DockyardError, InvalidArgument, NotFound
from dockyard.model.lifecycle import SECOND
from dockyard.store.leases import LeaseRow, LeaseStore

log = logging.getLogger(__name__)

SHORTEST: Final = SECOND // 10  # ns
_AT_ONCE: Final = 16  # removals
_PAUSE_FIRST, _PAUSE_LONGEST = 1.0, 60.0  # s between attempts


Removed = dict[str, list[str]]  # name of the kind -> ids


class Kind(NamedTuple):
    """One kind of things that leases have: the ids of those with a lease, and how one is taken away."""

    name: str
    members: Callable[[str], Sequence[str]]
    remove: Callable[[str], Awaitable[object]]


class Lease:
    """One lease. Attributes are for reading."""

    def __init__(self, row: LeaseRow) -> None:
        self.row = row
        self.holders = 0
        self.expires_at = 0  # ns since the epoch; 0: not while it is held
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.joining = 0  # things that are being made for it
        self.quiet = asyncio.Event()
        self.quiet.set()
        self.first_pass: asyncio.Task[Removed] | None = None

    @property
    def id(self) -> str:
        return self.row.id


class Leases:
    """All leases of an engine. For its event loop only."""

    def __init__(self, store: LeaseStore, events: Events, clock: Callable[[], int]) -> None:
        self._store = store
        self._events = events
        self._clock = clock
        self._leases: dict[str, Lease] = {}
        self._kinds: list[Kind] = []
        self._tasks: set[asyncio.Task[object]] = set()

    def own(self, kind: Kind) -> None:
        """Leases have things of this kind, too; they are taken away in the order in which kinds were named."""
        self._kinds.append(kind)

    async def open(self) -> None:
        """Read the leases; each gets its whole time anew, so that its holder can find back. After everything else."""
        for row in await self._store.load():
            lease = self._leases[row.id] = Lease(row)
            if row.ending:
                self._begin_end(lease)
            else:
                self._arm(lease)

    async def close(self) -> None:
        for lease in self._leases.values():
            self._disarm(lease)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def create(self, ttl: int) -> Lease:
        """A new lease. `ttl` in ns. InvalidArgument for less than `SHORTEST`."""
        _check(ttl)
        row = LeaseRow(secrets.token_hex(16), self._clock(), ttl)
        await self._store.save(row)
        lease = self._leases[row.id] = Lease(row)
        self._arm(lease)
        self._events.publish("lease", "create", row.id, {"ttl": str(ttl)})
        return lease

    def get(self, lease_id: str) -> Lease:
        """NotFound "No such lease: ID"."""
        found = self._leases.get(lease_id)
        if found is None:
            raise NotFound(f"No such lease: {lease_id}")
        return found

    def list(self) -> Sequence[Lease]:
        """Oldest first."""
        return list(self._leases.values())

    def belongings(self, lease: Lease) -> dict[str, Sequence[str]]:
        """Kind -> ids of what belongs to it."""
        return {kind.name: kind.members(lease.id) for kind in self._kinds}

    async def renew(self, lease_id: str, ttl: int | None = None) -> Lease:
        """Its time begins anew, with another `ttl` if one is given. NotFound for one that is ending."""
        lease = self._live(lease_id)
        if ttl is not None and ttl != lease.row.ttl:
            _check(ttl)
            lease.row.ttl = ttl
            await self._store.save(lease.row)
        self._arm(lease)
        return lease

    @contextmanager
    def hold(self, lease_id: str) -> Iterator[asyncio.Future[None]]:
        """Within, the lease does not end by itself. Yields a future that is done when somebody ends it."""
        lease = self._live(lease_id)
        lease.holders += 1
        self._disarm(lease)
        try:
            yield lease.ended
        finally:
            lease.holders -= 1
            self._arm(lease)

    @asynccontextmanager
    async def joining(self, labels: Mapping[str, str] | None) -> AsyncIterator[None]:
        """Around the making of a thing with these labels: its lease, if they name one, does not miss it.

        InvalidArgument if there is no such lease (not NotFound: at a creation, clients take that for a missing image).
        """
        lease_id = (labels or {}).get(LEASE)
        if lease_id is None:
            yield
            return
        lease = self._leases.get(lease_id)
        if lease is None or lease.row.ending:
            raise InvalidArgument(f"no such lease: {lease_id!r}")
        lease.joining += 1
        lease.quiet.clear()
        try:
            yield
        finally:
            lease.joining -= 1
            if not lease.joining:
                lease.quiet.set()

    async def end(self, lease_id: str) -> Removed:
        """End it now. Kind -> what was removed; what could not be is tried again behind."""
        return await asyncio.shield(self._begin_end(self.get(lease_id)))

    # --- time ---

    def _live(self, lease_id: str) -> Lease:
        lease = self.get(lease_id)
        if lease.row.ending:
            raise NotFound(f"No such lease: {lease_id}")
        return lease

    def _arm(self, lease: Lease) -> None:
        self._disarm(lease)
        if lease.holders or lease.row.ending:
            return
        lease.expires_at = self._clock() + lease.row.ttl
        loop = asyncio.get_running_loop()
        lease.timer = loop.call_later(lease.row.ttl / SECOND, self._begin_end, lease)

    def _disarm(self, lease: Lease) -> None:
        lease.expires_at = 0
        if lease.timer is not None:
            lease.timer.cancel()
            lease.timer = None

    # --- the end ---

    def _begin_end(self, lease: Lease) -> asyncio.Task[Removed]:
        if lease.first_pass is None:
            lease.row.ending = True
            self._disarm(lease)
            lease.first_pass = asyncio.get_running_loop().create_task(self._end(lease))
            self._keep(lease.first_pass, lease)
        return lease.first_pass

    def _keep(self, task: asyncio.Task[object], lease: Lease) -> None:
        self._tasks.add(task)

        def reap(done: asyncio.Task[object]) -> None:
            self._tasks.discard(done)
            if not done.cancelled() and (error := done.exception()) is not None:
                log.error("lease %s: ending it", lease.id, exc_info=error)

        task.add_done_callback(reap)

    async def _end(self, lease: Lease) -> Removed:
        await self._store.save(lease.row)
        await lease.quiet.wait()
        removed, left = await self._take_away(lease)
        if left:
            self._keep(asyncio.get_running_loop().create_task(self._try_again(lease)), lease)
        else:
            await self._gone(lease)
        return removed

    async def _try_again(self, lease: Lease) -> None:
        pause = _PAUSE_FIRST
        left = True
        while left:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_LONGEST)
            _, left = await self._take_away(lease)
        await self._gone(lease)

    async def _take_away(self, lease: Lease) -> tuple[Removed, bool]:
        """One attempt: what was removed, and whether anything is left."""
        removed: Removed = {}
        left = False
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(kind: Kind, member: str) -> bool:
            async with limit:
                try:
                    with contextlib.suppress(NotFound):
                        await kind.remove(member)
                    return True
                except (DockyardError, OSError) as error:
                    log.warning("lease %s: %s %s stays for now: %s", lease.id, kind.name, member, error)
                    return False

        for kind in self._kinds:
            members = kind.members(lease.id)
            gone = await asyncio.gather(*(one(kind, member) for member in members))
            removed[kind.name] = [member for member, done in zip(members, gone, strict=True) if done]
            left = left or not all(gone)
        return removed, left

    async def _gone(self, lease: Lease) -> None:
        await self._store.delete(lease.id)
        self._leases.pop(lease.id, None)
        self._events.publish("lease", "end", lease.id)
        if not lease.ended.done():
            lease.ended.set_result(None)


def _check(ttl: int) -> None:
    if ttl < SHORTEST:
        raise InvalidArgument(f"invalid TTL of a lease: {ttl} ns is less than 100ms")
