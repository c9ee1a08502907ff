"""Where a build's files come from: images, contexts, URLs, git.

Owns: resolving base images (pulled if they are missing), taking in contexts, fetching what ADD names. Does not own: the
transfers themselves (`engine.transfers`), unpacking a context (`store.builds.context`).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from dockyard.engine.builds import fetching, work
from dockyard.engine.builds.ground import Ground, Session, Tree
from dockyard.engine.images.importing import first_failure
from dockyard.engine.images.variants import for_platform, host_platform
from dockyard.model.build import Planned, VertexDone, VertexInfo, VertexProgress, VertexStarted
from dockyard.model.errors import DockyardError, InvalidArgument, NotFound
from dockyard.proto import platforms, references
from dockyard.proto.dockerconfig import Credentials
from dockyard.proto.dockerfile.ops import BaseRef, FetchGit, FetchUrl, SourceContext, SourceImage, Vertex
from dockyard.proto.dockerignore import Ignore
from dockyard.store import inline
from dockyard.store.layout import Layout
from dockyard.store.spooling import feed

if TYPE_CHECKING:
    from dockyard.engine.images import Image
    from dockyard.model.oci import ImageConfig

_MAX_DOCKERFILE: Final = 1 << 20
_WHOLE: Final = 1 << 20  # bytes of a context that is taken in without a worker


# --- images ---------------------------------------------------------------------------------------------------------


async def resolve(session: Session, base: BaseRef) -> ImageConfig:
    """The configuration of a base image; pulled if it is missing, or always with --pull. NotFound in Docker's words."""
    found = None if session.options.pull else local(session, base)
    if found is None:
        await _pull(session, base)
        found = local(session, base)
    if found is None:
        raise NotFound(f"No such image: {base.ref}")
    session.images[base.key] = found
    if found.chain_id is not None:
        session.lease.add(found.chain_id)
    return found.record.config


def local(session: Session, base: BaseRef) -> Image | None:
    """A base image that is here, for its platform."""
    services = session.ground.services
    wanted = platforms.parse(base.platform, host_platform()) if base.platform else None
    try:
        return for_platform(services, services.catalogue.get(base.ref), wanted, base.ref)
    except NotFound:
        return None


async def _pull(session: Session, base: BaseRef) -> None:
    """Have the image, as a step of the build that is told like others."""
    reference = references.parse(base.ref).with_default_tag()
    credentials = session.request.credentials.get(reference.domain, Credentials())
    vertex, clock = f"pull:{reference.complete} {base.platform}", session.ground.context.clock
    session.emit(Planned((VertexInfo(vertex, f"[internal] pulling {reference.familiar}", platform=base.platform),)))
    session.emit(VertexStarted(vertex, clock()))
    pulling = session.ground.transfers.pull(reference.complete, platform=base.platform, credentials=credentials)
    try:
        async with aclosing(pulling) as messages:
            async for message in messages:
                if message.current is not None:
                    session.emit(VertexProgress(vertex, message.id, message.current, message.total or 0))
    except DockyardError as error:
        session.emit(VertexDone(vertex, error=error.message, time_ns=clock()))
        raise
    session.emit(VertexDone(vertex, time_ns=clock()))


def image(session: Session, op: SourceImage) -> Tree:
    """A base image's file system; `resolve` has seen to it."""
    found = session.images.get((op.ref, op.platform))
    if found is None:
        raise NotFound(f"No such image: {op.ref}")
    layers = session.ground.context.snapshots.trees(found.chain_id)
    return Tree(layers, found.chain_id, cached=True)


# --- contexts -------------------------------------------------------------------------------------------------------


async def receive(ground: Ground, chunks: AsyncIterator[bytes], epoch: int | None = None) -> str:
    """Take in a context's tar; its id. InvalidArgument naming what is wrong with it; nothing is left then."""
    context_id = secrets.token_hex(13)
    directory = ground.context.layout.build_context(context_id)
    os.mkdir(directory, 0o700)
    try:
        await _take_in(ground, chunks, {"directory": str(directory), "epoch": epoch})
    except BaseException:
        ground.context.layout.discard(directory)
        raise
    return context_id


async def _take_in(ground: Ground, chunks: AsyncIterator[bytes], arguments: dict[str, Any]) -> None:
    """Small contexts in a thread, from a file in memory; others by a worker, while they arrive."""
    first, size = [], 0
    iterator = aiter(chunks)
    async for chunk in iterator:
        first.append(chunk)
        size += len(chunk)
        if size > _WHOLE:
            break
    else:
        fd = os.memfd_create("dockyard-context", os.MFD_CLOEXEC)
        try:
            os.write(fd, b"".join(first))
            await inline.call("dockyard.store.builds.context:receive", {**arguments, "offset": 0, "length": size}, [fd])
        finally:
            os.close(fd)
        return

    async def all_of_it() -> AsyncIterator[bytes]:
        for chunk in first:
            yield chunk
        async for chunk in iterator:
            yield chunk

    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        feeding = asyncio.create_task(feed(all_of_it(), writing))
        working = asyncio.ensure_future(
            ground.context.runtime.call("dockyard.store.builds.context:receive", arguments, [reading])
        )
        await first_failure(feeding, working)
    finally:
        os.close(reading)


def open_context(layout: Layout, context_id: str) -> Tree:
    """A context that was received. NotFound."""
    try:
        return fetching.context_tree(layout.build_context(context_id))
    except OSError:
        raise NotFound(f"no such build context: {context_id}") from None


async def without_ignored(session: Session, tree: Tree, *, whole: bool) -> Tree:
    """The main context as steps may see it: a Dockerfile or .dockerignore that the latter excludes is not in it (their
    client sent them for the daemon). `whole`: nobody has looked at .dockerignore yet, all that it excludes goes."""
    name = session.options.dockerfile
    text = await asyncio.to_thread(_ignore_file, tree, name)
    if not text.strip():
        return tree
    ignore = Ignore.parse(text)
    if session.request.dockerfile_text is None:
        session.dockerfile = await asyncio.to_thread(read_dockerfile, tree, name)
    if tree.spool is not None:
        spool = tree.spool
        unwanted = {path.strip("/") for path in (name, ".dockerignore") if ignore.excluded(path.strip("/"))}
        if whole:
            await asyncio.to_thread(spool.excluding, ignore)
        elif unwanted:
            await asyncio.to_thread(spool.keep, lambda path: path not in unwanted)
        return tree
    tree = await _copied(session, tree)  # a checkout is kept for other builds: this one gets a copy
    arguments = {"root": tree.layers[0], "patterns": text}
    await work.call(session.ground, "dockyard.store.builds.context:exclude", arguments, small=False)
    return tree


def _ignore_file(tree: Tree, dockerfile: str) -> str:
    """The Dockerfile's own ignore file, or the context's."""
    with tree.open() as merged:
        for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
            found = merged.read(os.fsencode(name))
            if found is not None:
                return found.decode("utf-8", "surrogateescape")
    return ""


async def as_directory(session: Session, tree: Tree) -> Tree:
    """A tree that can be mounted: a context's files are made now, once a build."""
    if tree.spool is None:
        return tree
    async with session.locks.of(f"directory\0{tree.identity}"):
        made = session.directories.get(tree.identity)
        if made is None:
            made = session.directories[tree.identity] = await _copied(session, tree)
        return made


async def _copied(session: Session, tree: Tree) -> Tree:
    layout = session.ground.context.layout
    directory = layout.build_context(secrets.token_hex(13))
    os.mkdir(directory, 0o700)
    session.stack.callback(layout.discard, directory)
    os.mkdir(directory / "tree", 0o755)
    arguments = {"source": tree.source(), "path": "/", "target": str(directory / "tree")}
    await work.call(session.ground, "dockyard.store.builds.binds:fill", arguments, small=False)
    identity = f"{tree.identity} ignored"
    return Tree((str(directory / "tree"),), is_rootfs=False, identity=identity, record=tree.record)


def read_dockerfile(context: Tree | None, name: str) -> bytes:
    """The Dockerfile of a context, links followed within it. InvalidArgument if it is not there, or too large."""
    shown = name or "Dockerfile"
    if context is not None:
        with context.open() as tree:
            found = tree.lookup(os.fsencode(shown), follow=True)
            if found is None and shown == "Dockerfile":
                found = tree.lookup(b"dockerfile", follow=True)
            if found is not None and stat.S_ISREG(found.status.st_mode):
                if found.status.st_size > _MAX_DOCKERFILE:
                    raise InvalidArgument(f"the Dockerfile ({shown}) is larger than {_MAX_DOCKERFILE} bytes")
                with os.fdopen(tree.open(found), "rb") as file:
                    return file.read()
    raise InvalidArgument(f"Cannot locate specified Dockerfile: {shown}")


async def context(session: Session, op: SourceContext) -> Tree:
    """The context "", or a named one; one that a URL names is fetched now."""
    tree = session.contexts.get(op.name)
    named = session.options.contexts.get(op.name)
    if tree is None and named is not None and named.kind in ("git", "http"):
        tree, _ = await fetching.remote(session, named.value)
        session.contexts[op.name] = tree
        if tree.spool is not None:
            session.stack.callback(tree.spool.dispose)
    if tree is None:
        raise InvalidArgument(f"build context {op.name!r} was not sent" if op.name else "no build context was sent")
    return tree


async def fetch(session: Session, op: FetchUrl | FetchGit, vertex: Vertex, name: str) -> Tree:
    """What ADD of a URL or of a git repository brings."""
    if isinstance(op, FetchUrl):
        return await fetching.url(session, op, vertex, name)
    return await fetching.git(session, op, vertex, name)
