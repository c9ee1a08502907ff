"""What a build fetches: ADD of URLs and git repositories, and contexts that are remote.

Owns: what is kept of it between builds (a file with the server's word for its version, a checkout by its commit), and
what the steps that use it are keyed by: content and commit, never the address. Does not own: the exchange
(`store.remote.download`), git (`store.builds.gitfetch`).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path

from dockyard.engine.builds.ground import Session, Tree
from dockyard.model.build import VertexProgress
from dockyard.model.errors import InvalidArgument
from dockyard.proto import buildcontext
from dockyard.proto.buildcontext import GitSource
from dockyard.proto.dockerfile.ops import FetchGit, FetchUrl, Vertex
from dockyard.store.builds import gitfetch
from dockyard.store.builds.cache import SOURCE_GIT, SOURCE_HTTP, Record
from dockyard.store.builds.spool import SpoolTree
from dockyard.store.remote.download import Download, download, free_bytes
from dockyard.store.spooling import temporary_file

_TREE = "tree"


async def url(session: Session, op: FetchUrl, vertex: Vertex, name: str) -> Tree:
    """The file as a tree of its own. InvalidArgument if it is not what --checksum says."""
    ground = session.ground
    key = hashlib.sha256(f"http\0{op.url}\0{op.name}".encode()).hexdigest()
    async with session.locks.of(f"fetch\0{key}"):
        known = None if vertex.ignore_cache else ground.cache.find(key)
        if known is not None and op.checksum and known.digest == op.checksum:
            return _file_tree(session, known, cached=True)
        record = await _fetched(session, op, key, known, lambda now, total: _tell(session, name, now, total))
    if op.checksum and record.digest != op.checksum:
        raise InvalidArgument(f"digest mismatch {record.digest}: {op.checksum} for {buildcontext.public(op.url)}")
    return _file_tree(session, record, cached=record is known)


def _tell(session: Session, name: str, current: int, total: int) -> None:
    session.emit(VertexProgress(name, "downloading", current, total))


async def _fetched(
    session: Session, op: FetchUrl, key: str, known: Record | None, progress: Callable[[int, int], None]
) -> Record:
    ground, layout = session.ground, session.ground.context.layout
    name = secrets.token_hex(13)
    directory = layout.build_mount(name)
    os.mkdir(directory, 0o700)
    kept = False
    try:
        os.mkdir(directory / _TREE, 0o755)
        fd = os.open(directory / _TREE / op.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            found = await download(
                ground.transfers.transport, op.url, fd, limit=free_bytes(str(directory)),
                headers=_conditions(known), progress=progress,
            )  # fmt: skip
            if found.unchanged and known is not None:
                return known
            os.fchmod(fd, 0o600)
            moment = found.modified or time.time_ns()
            os.utime(fd, ns=(moment, moment))
        finally:
            os.close(fd)
        kept = True
        return ground.cache.put(_record(op, found, name), [key])
    finally:
        if not kept:
            layout.discard(directory)


def _conditions(known: Record | None) -> dict[str, str]:
    if known is None:
        return {}
    if known.etag:
        return {"If-None-Match": known.etag}
    return {"If-Modified-Since": formatdate(known.modified / 1e9, usegmt=True)} if known.modified else {}


def _record(op: FetchUrl, found: Download, directory: str) -> Record:
    return Record(
        "", SOURCE_HTTP, f"http url {buildcontext.public(op.url)}", size=found.size, etag=found.etag,
        modified=found.modified, digest=found.digest, directory=directory,
    )  # fmt: skip


def _file_tree(session: Session, record: Record, *, cached: bool) -> Tree:
    root = session.ground.context.layout.build_mount(record.directory) / _TREE
    return Tree((str(root),), is_rootfs=False, identity=record.digest, record=record, cached=cached)


# --- git ------------------------------------------------------------------------------------------------------------


async def git(session: Session, op: FetchGit, vertex: Vertex, name: str) -> Tree:
    """A checkout as a tree. InvalidArgument with git's words, NotFound for a ref or directory that is not there."""
    source = GitSource(op.url, op.ref, op.subdir, op.checksum, op.keep_git_dir, op.submodules)
    return await _checked_out(session, source, ignore_cache=vertex.ignore_cache)


async def _checked_out(session: Session, source: GitSource, *, ignore_cache: bool = False) -> Tree:
    ground = session.ground
    keep = bool(source.keep_git_dir)
    with ExitStack() as stack:
        arguments = {"url": source.url, "ref": source.ref}
        found = await ground.context.runtime.call("dockyard.store.builds.gitfetch:resolve", arguments)
        commit: str = found["commit"]
        key = hashlib.sha256(
            f"git\0{source.url}\0{commit or source.ref}\0{keep}{source.submodules}".encode()
        ).hexdigest()
        async with session.locks.of(f"fetch\0{key}"):
            record = None if ignore_cache or not commit else ground.cache.find(key)
            if record is None:
                record = await _clone(session, source, commit, key, stack)
                cached = False
            else:
                cached = True
    commit = record.digest
    if source.checksum and not commit.startswith(source.checksum.lower()):
        raise InvalidArgument(f"expected checksum to match {source.checksum}, got {commit}")
    session.hold(record)
    root = str(ground.context.layout.build_mount(record.directory) / _TREE)
    place = await asyncio.to_thread(gitfetch.subdirectory, root, source.subdir)
    identity = f"git {commit} {source.subdir} {keep} {source.submodules}"
    return Tree((place,), is_rootfs=False, identity=identity, record=record, cached=cached)


async def _clone(session: Session, source: GitSource, commit: str, key: str, stack: ExitStack) -> Record:
    ground, layout = session.ground, session.ground.context.layout
    name = secrets.token_hex(13)
    directory = layout.build_mount(name)
    os.mkdir(directory, 0o700)
    try:
        os.mkdir(directory / _TREE, 0o755)
        arguments = {
            "url": source.url, "ref": source.ref, "commit": commit, "target": str(directory / _TREE),
            "keep_git_dir": bool(source.keep_git_dir), "submodules": source.submodules,
        }  # fmt: skip
        found = await ground.context.runtime.call("dockyard.store.builds.gitfetch:checkout", arguments)
    except BaseException:
        layout.discard(directory)
        raise
    described = f"git snapshot for {buildcontext.public(source.url)}#{source.ref or found['commit']}"
    return ground.cache.put(Record("", SOURCE_GIT, described, digest=found["commit"], directory=name), [key])


# --- contexts -------------------------------------------------------------------------------------------------------


async def remote(session: Session, address: str) -> tuple[Tree, bool]:
    """A context that a URL names: a git repository, an archive, or (then True) a Dockerfile by itself."""
    asked = buildcontext.parse(address)
    if asked.kind == "git" and asked.git is not None:
        return await _checked_out(session, asked.git), False
    if asked.kind != "http":
        raise InvalidArgument(f"invalid remote context {address[:200]!r}: a git or http URL is expected")
    layout = session.ground.context.layout
    context_id = secrets.token_hex(13)
    directory = layout.build_context(context_id)
    os.mkdir(directory, 0o700)
    session.stack.callback(layout.discard, directory)
    with temporary_file(layout) as fd:
        found = await download(session.ground.transfers.transport, asked.url, fd, limit=free_bytes(str(directory)))
        arguments = {"directory": str(directory), "offset": 0, "length": found.size}
        received = await session.ground.context.runtime.call("dockyard.store.builds.context:receive", arguments, [fd])
    return await asyncio.to_thread(context_tree, directory), received["single"]


def context_tree(directory: Path) -> Tree:
    """What `store.builds.context.receive` has made in `directory`. OSError."""
    return Tree(is_rootfs=False, identity=directory.name, spool=SpoolTree.load(str(directory)))
