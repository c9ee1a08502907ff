"""One step of a build: found in the cache, or done.

Owns: what each kind of operation comes down to, looking in the cache before and putting the result there after, doing
identical steps of builds that run side by side once. Does not own: the order of steps (`engine.builds.solver`), what
goes on inside a RUN (`running`), fetching (`sources`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec.structs import replace

from dockyard.engine.builds import keys, running, sources, work
from dockyard.engine.builds.ground import Emit, Session, Tree
from dockyard.engine.builds.request import BuildFailed
from dockyard.model.build import BuildEvent, VertexDone, VertexLog, VertexProgress, VertexStarted, Warned
from dockyard.model.errors import DockyardError, NotFound, SystemFailure
from dockyard.proto.dockerfile.ops import (
    CopyOp,
    CopySource,
    Exec,
    ExecMount,
    FetchGit,
    FetchUrl,
    MakeDirectory,
    Scratch,
    SourceContext,
    SourceImage,
    Vertex,
)
from dockyard.store import inline
from dockyard.store.builds import selecting
from dockyard.store.builds.cache import REGULAR, Record
from dockyard.store.snapshots import Layer, Lease

_Make = Callable[[Session, Emit], Awaitable[Layer | None]]


async def carry_out(session: Session, vertex: Vertex, name: str, inputs: list[Tree]) -> Tree:
    """The result of `vertex` (called `name` in events). Tells when it begins and ends, and how."""
    try:
        tree = await _dispatch(session, vertex, name, inputs)
    except asyncio.CancelledError:
        session.emit(VertexDone(name, error="context canceled", time_ns=time.time_ns()))
        raise
    except Exception as error:
        session.emit(VertexDone(name, error=str(error), time_ns=time.time_ns()))
        raise
    if tree.record is not None:
        session.hold(tree.record)
    if tree.chain is not None:
        session.lease.add(tree.chain)
    shown = _shown(session, vertex, tree)
    session.emit(VertexDone(name, cached=tree.cached, time_ns=time.time_ns(), image_id=shown))
    return tree


def _shown(session: Session, vertex: Vertex, tree: Tree) -> str:
    """What the classic output shows of a step: the base's image, else a digest as good as any."""
    if isinstance(vertex.op, SourceImage):
        return session.images[vertex.op.ref, vertex.op.platform].id
    return tree.chain or ""


async def _dispatch(session: Session, vertex: Vertex, name: str, inputs: list[Tree]) -> Tree:
    op = vertex.op
    if isinstance(op, Exec):
        return await _exec(session, vertex, op, name, inputs)
    if isinstance(op, CopyOp):
        return await _copy(session, vertex, op, name, inputs)
    if isinstance(op, MakeDirectory):
        return await _make_directory(session, vertex, op, name, inputs)
    if isinstance(op, Scratch):
        return Tree(cached=True)
    if isinstance(op, SourceImage):
        return sources.image(session, op)
    if isinstance(op, SourceContext):
        session.emit(VertexStarted(name, time_ns=time.time_ns()))
        return await sources.context(session, op)
    if isinstance(op, FetchUrl | FetchGit):
        session.emit(VertexStarted(name, time_ns=time.time_ns()))
        return await sources.fetch(session, op, vertex, name)
    raise SystemFailure(f"{type(op).__name__}: not an operation that the builder knows")


# --- through the cache ----------------------------------------------------------------------------------------------


async def _through_cache(
    session: Session, vertex: Vertex, name: str, inputs: Sequence[Tree], wanted: Sequence[str], make: _Make
) -> Tree:
    """The step's result by its keys, or by `make`. The first key tells whether it is the same as one under way."""
    cache = session.ground.cache
    if not vertex.ignore_cache:
        for key in wanted:
            record = cache.find(key)
            if record is not None:
                for other in wanted:
                    cache.add_key(record, other)
                return of_record(session, record, cached=True)
        fetched = await _from_elsewhere(session, wanted)
        if fetched is not None:
            return of_record(session, fetched, cached=True)
    session.emit(VertexStarted(name, time_ns=time.time_ns()))
    parents = [tree.record.id for tree in inputs if tree.record is not None]
    base = inputs[0]

    async def start(emit: Emit) -> Tree:
        snapshots = session.ground.context.snapshots
        with snapshots.lease() as lease:
            if base.chain is not None:
                lease.add(base.chain)
            layer = await make(_with_lease(session, lease), emit)
            chain = layer.chain_id if layer is not None else base.chain
            record = Record(
                "", REGULAR, vertex.name, chain=chain, made=layer is not None, parents=parents,
                size=layer.document.size if layer is not None else 0,
            )  # fmt: skip
            return of_record(session, cache.put(record, wanted), cached=False)

    key = wanted[0] if not vertex.ignore_cache else f"{wanted[0]} {id(session)}"
    return await session.shared.join(key, start, lambda event: session.emit(_renamed(event, name)), session)


async def _from_elsewhere(session: Session, wanted: Sequence[str]) -> Record | None:
    """The step out of a cache that --cache-from named, its layers fetched; None if none has it, or can give it."""
    for remote in session.remotes:
        step = remote.find(wanted)
        if step is None:
            continue
        try:
            async with session.locks.of(f"remote\0{wanted[0]}"):
                return session.ground.cache.find(wanted[0]) or await remote.take(session, step, wanted)
        except DockyardError as error:
            session.emit(Warned("CacheImport", f"a cached step could not be fetched: {error.message}"))
    return None


def of_record(session: Session, record: Record, *, cached: bool) -> Tree:
    layers = session.ground.context.snapshots.trees(record.chain)
    return Tree(layers, record.chain, record=record, made=record.made, cached=cached, created=record.created)


def _with_lease(session: Session, lease: Lease) -> Session:
    """The session for work that may outlive it, because another build waits for it, too."""
    return Session(
        session.ground, session.request, lease, session.emit, session.hold, session.locks, session.shared,
        session.stack, session.contexts, session.images, epoch=session.epoch,
    )  # fmt: skip


def _renamed(event: BuildEvent, name: str) -> BuildEvent:
    """A step under way calls itself by no name: each build has its own."""
    if isinstance(event, VertexLog | VertexProgress | VertexStarted | VertexDone):
        return replace(event, vertex=name)
    return event


# --- RUN, WORKDIR ---------------------------------------------------------------------------------------------------


async def _exec(session: Session, vertex: Vertex, op: Exec, name: str, inputs: list[Tree]) -> Tree:
    options = session.options
    network = running.network_of(op, options)
    called = [keys.of_tree(inputs[0]), *[await _mounted(inputs[m.input], m) for m in op.mounts if m.input is not None]]
    key = keys.exec_key(op, called, network, session.epoch, vertex.platform)

    async def make(inner: Session, emit: Emit) -> Layer | None:
        return await running.run(inner, op, inputs, "", emit)

    return await _through_cache(session, vertex, name, inputs, [key], make)


async def _mounted(tree: Tree, mount: ExecMount) -> bytes:
    """What the key says of something that is mounted. BuildFailed if a context has no such file."""
    if tree.spool is None:
        return keys.of_tree(tree)
    source = {**tree.source(), "path": mount.source, "pattern": False}
    try:
        return await asyncio.to_thread(selecting.digest_sources, sources=[source], excludes=(), parents=False)
    except NotFound as error:
        raise BuildFailed(f"failed to calculate checksum of the build context: {error}") from error


async def _make_directory(session: Session, vertex: Vertex, op: MakeDirectory, name: str, inputs: list[Tree]) -> Tree:
    base, epoch = inputs[0], session.epoch

    async def make(inner: Session, emit: Emit) -> Layer | None:
        arguments = {"base": list(base.layers), "path": op.path, "user": op.user, "epoch": epoch}

        async def place(where: dict[str, Any]) -> dict[str, Any]:
            result: dict[str, Any] = await inline.call(
                "dockyard.store.builds.copying:make_directory", arguments | where
            )
            return result

        return await inner.ground.context.snapshots.make(place, base.chain, inner.lease, what=vertex.name)

    return await _through_cache(session, vertex, name, inputs, [keys.directory_key(op, base, epoch)], make)


# --- COPY, ADD ------------------------------------------------------------------------------------------------------


async def _copy(session: Session, vertex: Vertex, op: CopyOp, name: str, inputs: list[Tree]) -> Tree:
    base = inputs[0]
    epoch = session.epoch if op.epoch is None else op.epoch
    described = [_described(source, inputs) for source in op.sources]
    trees = [inputs[source.input] for source in op.sources if source.input is not None]
    rootfs = [tree for tree in trees if tree.is_rootfs]
    wanted: list[str] = []
    if rootfs and not vertex.ignore_cache:
        quick = keys.copy_key(op, base, hashlib.sha256(b"\0".join(map(keys.of_tree, trees))).digest(), epoch)
        wanted.append(quick)
        record = session.ground.cache.find(quick)
        if record is not None:
            return of_record(session, record, cached=True)
    files = await _digest(session, op, described, vertex)
    wanted.append(keys.copy_key(op, base, files, epoch))

    async def make(inner: Session, emit: Emit) -> Layer | None:
        return await _copied(inner, op, base, described, trees, epoch, vertex)

    return await _through_cache(session, vertex, name, inputs, wanted, make)


def _described(source: CopySource, inputs: list[Tree]) -> dict[str, Any]:
    if source.document is not None:
        return {"name": source.document.name, "content": source.document.content, "mode": source.document.mode}
    assert source.input is not None
    return {
        **inputs[source.input].source(), "path": source.path, "pattern": source.pattern,
        "pivot": source.pivot, "unpack": source.unpack or "",
    }  # fmt: skip


async def _digest(session: Session, op: CopyOp, described: list[dict[str, Any]], vertex: Vertex) -> bytes:
    """Digest of exactly what is copied. BuildFailed, in Docker's words, for a source that is not there."""
    arguments: dict[str, Any] = {"sources": described, "excludes": list(op.excludes), "parents": op.parents}
    try:
        if all("spool" in source or "content" in source for source in described):
            return await asyncio.to_thread(selecting.digest_sources, **arguments)  # the digests are known
        small = await _is_small(op, described)
        result = await work.call(session.ground, "dockyard.store.builds.selecting:digest", arguments, small=small)
        return bytes.fromhex(result["digest"])
    except NotFound as error:
        raise _missing(error, vertex) from error


def _missing(error: NotFound, vertex: Vertex) -> BuildFailed:
    word = "ADD" if " ADD " in f" {vertex.name} " else "COPY"
    path = error.message.removesuffix(": not found").strip('"').lstrip("/")
    return BuildFailed(
        f"{word} failed: file not found in build context or excluded by .dockerignore: stat {path}: file does not exist"
    )


async def _is_small(op: CopyOp, described: list[dict[str, Any]]) -> bool:
    """Whether it is worth no worker: little is copied, whatever else its trees have."""
    return await asyncio.to_thread(
        selecting.is_small, sources=described, excludes=list(op.excludes), parents=op.parents,
        entries=work.SMALL_ENTRIES, size=work.SMALL_BYTES,
    )  # fmt: skip


async def _copied(
    session: Session,
    op: CopyOp,
    base: Tree,
    described: list[dict[str, Any]],
    trees: list[Tree],
    epoch: int | None,
    vertex: Vertex,
) -> Layer | None:
    arguments = {
        "base": list(base.layers), "sources": described, "dest": op.dest, "dest_directory": op.dest_directory,
        "chown": op.chown, "chmod": op.chmod, "parents": op.parents, "excludes": list(op.excludes), "epoch": epoch,
    }  # fmt: skip
    if op.link:
        arguments |= {"base": [], "users": list(base.layers)}

    async def place(where: dict[str, Any]) -> dict[str, Any]:
        function = "dockyard.store.builds.copying:copy"
        small = await _is_small(op, described) and not any(source.get("unpack") for source in described)
        result: dict[str, Any] = await work.call(session.ground, function, arguments | where, small=small)
        return result

    try:
        return await session.ground.context.snapshots.make(place, base.chain, session.lease, what=vertex.name)
    except NotFound as error:
        raise _missing(error, vertex) from error
