"""`RUN --mount=type=cache`: directories that outlive the build.

Owns: which directory a mount gets, by its identity and way of sharing; who has to wait. Does not own: their rows
(`store.builds.cache`), mounting.

shared: all steps have the same directory at once. locked: one after the other. private: a step that runs beside another
gets a directory of its own, which stays as a further one of that identity.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dockyard.engine.builds import work
from dockyard.store.builds.cache import CACHE_MOUNT, Record

if TYPE_CHECKING:
    from dockyard.engine.builds.ground import Session, Tree
    from dockyard.proto.dockerfile.ops import ExecMount


_LOCKS: Final = 256  # from which on those that nobody holds are forgotten


class Locks:
    """Who uses which cache mount. One per builder."""

    def __init__(self) -> None:
        self.by_identity: dict[str, asyncio.Lock] = {}
        self.exclusive: set[str] = set()  # records that a private mount has

    def of(self, identity: str) -> asyncio.Lock:
        """The lock of that name, to be taken at once."""
        if len(self.by_identity) > _LOCKS:
            self.by_identity = {name: lock for name, lock in self.by_identity.items() if lock.locked()}
        return self.by_identity.setdefault(identity, asyncio.Lock())


async def take(session: Session, mount: ExecMount, content: Tree | None, stack: AsyncExitStack) -> Path:
    """The directory for a mount, made if there is none; it is given back by `stack`."""
    ground = session.ground
    identity = f"{mount.id}\0{content.chain or content.identity}\0{mount.source}" if content else mount.id
    locks = session.locks
    if mount.sharing == "locked":
        await stack.enter_async_context(locks.of(identity))
    async with locks.of("making\0" + identity):
        free = [record for record in ground.cache.mounts(identity) if record.id not in locks.exclusive]
        if mount.sharing == "private":
            free = [record for record in free if not ground.cache.in_use(record)]
        record = free[0] if free else await _make(session, mount, identity, content)
        stack.enter_context(ground.cache.holding(record))
        if mount.sharing == "private":
            locks.exclusive.add(record.id)
            stack.callback(locks.exclusive.discard, record.id)
        if record.imported:
            _own(f"{ground.context.layout.build_mount(record.directory)}", mount)
            record.imported = False
    ground.cache.touch(record)
    return ground.context.layout.build_mount(record.directory)


def _own(directory: str, mount: ExecMount) -> None:
    """The directory itself belongs to whom the first mount says; an imported one's owner came with no archive."""
    os.chown(directory, mount.uid, mount.gid)
    os.chmod(directory, 0o755 if mount.mode is None else mount.mode)


async def _make(session: Session, mount: ExecMount, identity: str, content: Tree | None) -> Record:
    ground = session.ground
    name = secrets.token_hex(13)
    directory = ground.context.layout.build_mount(name)
    os.mkdir(directory, 0o755)
    try:
        if content is not None:
            arguments = {"source": content.source(), "path": mount.source, "target": str(directory)}
            await work.call(ground, "dockyard.store.builds.binds:fill", arguments, small=False)
        _own(str(directory), mount)
    except BaseException:
        ground.context.layout.discard(directory)
        raise
    described = f"cached mount {mount.target} from exec, id {mount.id}"
    return ground.cache.put(Record("", CACHE_MOUNT, described, mount=identity, directory=name), [])
